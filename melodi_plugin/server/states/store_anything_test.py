"""What is kept of texts, whatever happens, in whatever order; `store_kill_test` kills processes."""

import random
import threading

import pytest

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.states import add, files_in, load, refused, save


def test_a_state_that_goes_while_it_is_read(tmp_path):
  """The session moves on, and its old file is removed, between the index and the file."""
  during = []

  def slow_load(path):
    if during:
      during.pop()()
    return load(path)

  store = Store(str(tmp_path), save, slow_load)
  first = add(store, "1", kind="session", session=("chat", None))
  during.append(lambda: add(store, "2", kind="session", session=("chat", first)))
  assert store.open_named("session", "ann", "chat").row.text == "2"
  id = add(store, "3")
  during.append(lambda: store.delete("ann", id))
  refused(404, store.open, "ann", id)
  store.close()


def test_of_many_threads_that_move_a_session_each_time_one_does(opened, tmp_path):
  store = opened()
  add(store, "0", kind="session", session=("chat", None))
  moves = []

  def run():
    for _ in range(10):
      head = store.open_named("session", "ann", "chat").entry.id
      try:
        moves.append((head, add(store, "x", kind="session", session=("chat", head))))
      except Refused as error:
        assert error.status == 409  # noqa: PT017

  threads = [threading.Thread(target=run) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len({head for head, _ in moves}) == len(moves) >= 10
  assert len(files_in(tmp_path)) == store.stats().states == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_random_walk_agrees_with_a_dictionary(opened, tmp_path, clock, seed):
  random_ = random.Random(seed)
  store, responses, names = opened(), {}, {}

  for step in range(150):
    clock.now += random_.random()
    owner, name = random_.choice(["ann", "bob"]), random_.choice("abc")
    own = [id for id, (whose, _) in responses.items() if whose == owner]
    kind = random_.choice(["session", "memory"])
    there = names.get((kind, owner, name))
    match random_.randrange(8):
      case 0:
        responses[add(store, str(step), owner)] = owner, str(step)
      case 1 if kind == "memory":
        add(store, str(step), owner, kind, memory=name)
        names[kind, owner, name] = str(step)
      case 1 | 2:
        head = store.head("session", owner, name)
        id = add(store, str(step), owner, session=(name, head))
        responses[id] = owner, str(step)
        names["session", owner, name] = str(step)
      case 3 if own:
        store.delete(owner, id := random_.choice(own))
        del responses[id]
      case 4:
        if there is None:
          refused(404, store.forget, kind, owner, name)
        else:
          store.forget(kind, owner, name)
          del names[kind, owner, name]
      case 5:
        to = random_.choice("abcd")
        if there is None:
          refused(404, store.fork, owner, kind, name, to)
        elif ("session", owner, to) in names:
          refused(409, store.fork, owner, kind, name, to)
        else:
          store.fork(owner, kind, name, to)
          names["session", owner, to] = there
      case 6 if own and store.head("session", owner, name) is None:
        store.move(owner, name, id := random_.choice(own))
        names["session", owner, name] = responses[id][1]
      case 7 if random_.random() < 0.2:
        store = opened()
  for id, (owner, text) in responses.items():
    assert store.open(owner, id).row.text == text
  for (kind, owner, name), text in names.items():
    assert store.open_named(kind, owner, name).row.text == text
  counts = [sum(kind == own for kind, _, _ in names) for own in ("session", "memory")]
  assert list(store.stats()[2:]) == counts
  assert len(files_in(tmp_path)) == store.stats().states


@pytest.mark.parametrize("seed", range(2))
def test_a_random_walk_within_tight_budgets_keeps_what_has_a_name(opened, tmp_path, clock, seed):
  random_ = random.Random(seed)
  limits = dict(max_bytes=3000, max_states=12, max_sessions=4, max_age_days=20 / 86400)
  store, names = opened(**limits), {}
  for step in range(120):
    clock.now += random_.random()
    session = random_.choice("abcdef") if random_.random() < 0.5 else None
    move = (session, store.head("session", "ann", session)) if session else None
    try:
      add(store, str(step), size=random_.randrange(100, 900), session=move)
      if session:
        names[session] = str(step)
    except Refused as error:
      assert (error.status, error.code) == (503, "store_full")  # noqa: PT017
    if random_.random() < 0.05:
      store = opened(**limits)
    stats = store.stats()
    assert stats.bytes <= 3000 and stats.states <= 12 and stats.sessions <= 4
    assert len(files_in(tmp_path)) == stats.states
    for own in store.all_named("session", "ann"):
      assert store.open_named("session", "ann", own.name).row.text == names[own.name]
