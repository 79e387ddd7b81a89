"""What is kept of texts, and what is refused."""

import errno
import os
import sqlite3

import pytest

from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.states import TextRow, add, files_in, load, refused, save


def test_a_response_is_opened_as_it_was_added_also_by_the_next_process(opened):
  store = opened()
  id = add(store, "one", parent="resp_0", title="Tea", body={"a": ["ü"]})
  for _ in range(2):
    state = store.open("ann", id)
    assert state.row == TextRow("one", 3, 200) and state.pending == (7,)
    assert state.entry[:7] == (id, state.entry.owner, "response", "resp_0", "Tea", 4, 200)
    assert store.body("ann", id) == {"a": ["ü"]}
    store = opened()
  assert id.startswith("resp_") and len(id) == 37


def test_nobody_finds_states_of_others_and_no_key_is_on_the_disk(opened, tmp_path):
  store = opened()
  id = add(store, "one", owner="secret-key", session=("chat", None))
  for call in (store.open, store.body, store.delete):
    assert refused(404, call, "bob", id).message == refused(404, call, "", id).message
  for owner in ("bob", ""):
    assert store.head("session", owner, "chat") is None and store.all_named("session", owner) == []
    refused(404, store.open_named, "session", owner, "chat")
    refused(404, store.move, owner, "mine", id)
    refused(404, store.fork, owner, "session", "chat", "mine")
    refused(404, store.forget, "session", owner, "chat")
  for parent, _, names in os.walk(tmp_path):
    for name in names:
      with open(os.path.join(parent, name), "rb") as file:
        assert b"secret-key" not in file.read()


def test_a_session_goes_on_and_leaves_nothing_behind(opened, tmp_path):
  store = opened()
  first = add(store, "1", kind="session", session=("chat", None))
  second = add(store, "2", kind="session", session=("chat", first))
  assert store.head("session", "ann", "chat") == second
  assert store.open_named("session", "ann", "chat").row.text == "2"
  assert len(files_in(tmp_path)) == 1
  assert "gone on" in refused(409, add, store, "3", session=("chat", first)).message
  assert "already" in refused(409, add, store, "3", session=("chat", None)).message
  assert len(files_in(tmp_path)) == store.stats().states == 1
  refused(404, store.open, "ann", second)  # is found by the name only


def test_a_deleted_response_stays_as_long_as_a_session_needs_it(opened, tmp_path):
  store = opened()
  id = add(store, "1", body={"text": "private"}, session=("chat", None))
  store.fork("ann", "session", "chat", "other")
  store.delete("ann", id)
  refused(404, store.open, "ann", id)
  refused(404, store.body, "ann", id)
  store.forget("session", "ann", "chat")
  assert store.open_named("session", "ann", "other").row.text == "1"
  store.forget("session", "ann", "other")
  assert not files_in(tmp_path) and store.stats() == (0, 0, 0, 0)


def test_sessions_move_to_responses(opened):
  store = opened()
  first, second = add(store, "1"), add(store, "2")
  store.move("ann", "chat", first)
  store.move("ann", "chat", second, expected=first)
  assert refused(409, store.move, "ann", "chat", first, expected=first).param == "session"
  assert store.open("ann", first).row.text == "1"
  assert [own.name for own in store.all_named("session", "ann")] == ["chat"]
  refused(409, store.fork, "ann", "session", "chat", "chat")


def test_memories_are_listed_downloaded_and_taken(opened, tmp_path):
  store = opened()
  add(store, "old", kind="memory", memory="book")
  add(store, "new", kind="memory", memory="book", title="Book")
  (book,) = store.all_named("memory", "ann")
  assert (book.name, book.state.title, book.state.tokens, book.state.bytes) == (
    "book", "Book", 4, 200,
  )  # fmt: skip
  file, _ = store.file("memory", "ann", "book")
  path = store.incoming()
  with file, open(path, "wb") as copy:
    store.forget("memory", "ann", "book")  # does not harm who has the file open
    copy.write(file.read())
  store.adopt("bob", path, "mine")
  assert store.open_named("memory", "bob", "mine").row.text == "new"
  assert store.all_named("memory", "bob")[0].state[3:6] == ("", "Book", 4)
  assert len(files_in(tmp_path)) == 1


@pytest.mark.parametrize(
  "content, name, status",
  [("junk", "book", 400), ('{"row": ["foreign"]}', "book", 409), ("junk", "../up", 400)],
)
def test_a_file_that_cannot_be_used_is_refused_without_a_trace(
  opened, tmp_path, content, name, status
):
  store = opened()
  path = store.incoming()
  with open(path, "w") as file:
    file.write(content)
  assert str(tmp_path) not in refused(status, store.adopt, "ann", path, name).message
  assert not files_in(tmp_path) and store.stats() == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "x" * 65, "a\n", "\0"])
def test_names_cannot_be_paths(opened, tmp_path, name):
  store = opened()
  for field in ({"session": (name, None)}, {"memory": name}):
    assert refused(400, add, store, "x", **field).param in field
  refused(400, store.head, "session", "ann", name)
  refused(400, store.open_named, "memory", "ann", name)
  assert not files_in(tmp_path)


def test_states_without_a_name_make_room_those_unused_for_longest_first(opened, clock, tmp_path):
  store = opened(max_bytes=1000)
  kept = add(store, "0", session=("chat", None))
  ids = []
  for number in range(1, 5):
    clock.now += 1
    ids.append(add(store, str(number)))
  clock.now += 1
  store.open("ann", ids[0])
  add(store, "big", size=400)
  for gone in ids[1:3]:
    refused(404, store.open, "ann", gone)
  for there in (kept, ids[0], ids[3]):
    store.open("ann", there)
  assert store.stats().bytes == 1000 and len(files_in(tmp_path)) == 4


def test_what_has_a_name_is_never_removed_to_make_room(opened, tmp_path):
  store = opened(max_bytes=500)
  add(store, "0", kind="memory", memory="book")
  first = add(store, "1", session=("chat", None))
  assert refused(503, add, store, "2").code == "store_full"
  assert refused(503, add, store, "2", session=("other", None)).code == "store_full"
  assert store.stats() == (2, 400, 1, 1) and len(files_in(tmp_path)) == 2
  # The state that the session leaves makes room.
  add(store, "2", size=300, session=("chat", first))
  refused(404, store.open, "ann", first)


def test_a_smaller_budget_holds_from_the_next_start(opened, tmp_path):
  store = opened()
  for number in range(5):
    add(store, str(number))
  add(store, "6", session=("chat", None))
  assert opened(max_states=2).stats().states == 2
  assert opened(max_bytes=1).stats() == (1, 200, 1, 0)
  assert len(files_in(tmp_path)) == 1


def test_there_are_only_so_many_sessions(opened):
  store = opened(max_sessions=1)
  add(store, "1", session=("chat", None))
  assert refused(503, add, store, "2", owner="bob", session=("chat", None)).code == "store_full"
  refused(503, store.fork, "ann", "session", "chat", "other")
  store.forget("session", "ann", "chat")
  add(store, "2", owner="bob", session=("chat", None))


def test_what_is_not_used_expires(opened, clock, tmp_path):
  store = opened(max_age_days=1.0)
  old = add(store, "1", body={})
  add(store, "2", session=("chat", None))
  add(store, "3", kind="memory", memory="book")
  clock.now += 80_000
  store.open_named("memory", "ann", "book")
  fresh = add(store, "4")
  clock.now += 80_000
  store.sweep()
  refused(404, store.open, "ann", old)
  assert store.head("session", "ann", "chat") is None
  assert store.open("ann", fresh).row.text == "4"
  assert store.open_named("memory", "ann", "book").row.text == "3"
  assert store.stats() == (2, 400, 0, 1) and len(files_in(tmp_path)) == 2


def test_sessions_that_closed_pages_leave_behind_expire_sooner(opened, clock, tmp_path):
  store = opened()
  for name in ("page-1", "page-2", "a-page-3"):
    add(store, name, kind="session", session=(name, None))
  add(store, "page-4", kind="memory", memory="page-4")
  clock.now += 80_000
  store.open_named("session", "ann", "page-2")
  clock.now += 10_000
  store.sweep()
  assert [own.name for own in store.all_named("session", "ann")] == ["a-page-3", "page-2"]
  assert [own.name for own in store.all_named("memory", "ann")] == ["page-4"]
  assert len(files_in(tmp_path)) == 3


def test_requests_that_go_on_from_one_state_share_its_row(opened):
  store = opened()
  id = add(store, "one", session=("mine", None))
  one, two = store.open("ann", id), store.open_named("session", "ann", "mine")
  assert one.row is two.row
  store.delete("ann", id)
  assert store.open_named("session", "ann", "mine").entry.kind == "session"
  del one, two
  assert not store._shared


def test_a_new_folder_is_for_the_user_of_the_server_only(tmp_path):
  folder = tmp_path / "states"
  Store(str(folder), save, load).close()
  assert folder.stat().st_mode & 0o077 == 0


def test_the_title_that_a_file_brings_has_a_bound(opened):
  store = opened()
  path = store.incoming()
  save(path, TextRow("a", 3, 200), (7,), "x" * 1000)
  store.adopt("ann", path, "book")
  assert store.named("memory", "ann", "book").state.title == "x" * 256


def test_a_start_removes_what_is_half_there_and_nothing_else(opened, tmp_path):
  store = opened()
  lost, kept = add(store, "1", session=("chat", None)), add(store, "2")
  states = tmp_path / "states"
  (states / f"{lost}.memory").unlink()
  (states / f"resp_{'0' * 32}.memory").write_text("no row")
  (states / f".{'0' * 32}.part").write_text("half")
  (tmp_path / "incoming" / f".{'0' * 32}.part").write_text("half")
  (states / "notes.txt").write_text("a person's own")
  store = opened()
  assert {os.path.basename(path) for path in files_in(tmp_path)} == {f"{kept}.memory", "notes.txt"}
  assert store.head("session", "ann", "chat") is None and store.stats().states == 1


def test_a_folder_belongs_to_one_process(opened, tmp_path):
  store = opened()
  with pytest.raises(ValueError, match="another server"):
    Store(str(tmp_path), save, load)
  add(store, "still there")
  assert opened().stats().states == 1


def test_a_folder_of_a_newer_version_or_without_its_index_is_refused(opened, tmp_path):
  id = add(opened(), "1")
  index = sqlite3.connect(tmp_path / "index.sqlite")
  index.execute("PRAGMA user_version = 9")
  index.close()
  with pytest.raises(ValueError, match=r"layout 9.*newer"):
    opened()
  for path in tmp_path.glob("index.sqlite*"):
    path.unlink()
  with pytest.raises(ValueError, match=r"index\.sqlite is missing"):
    Store(str(tmp_path), save, load)
  (tmp_path / "index.sqlite").write_text("this is no index of states" * 100)
  with pytest.raises(ValueError, match="cannot be used"):
    Store(str(tmp_path), save, load)
  assert (tmp_path / "states" / f"{id}.memory").exists()


@pytest.mark.parametrize("number, status", [(errno.ENOSPC, 503), (errno.EIO, 500)])
def test_a_disk_that_fails_leaves_nothing_half_done(opened, tmp_path, number, status):
  def fails(path, row, pending, title):
    save(path, row, pending, title)
    raise OSError(number, os.strerror(number), path)

  store = opened(fails)
  assert str(tmp_path) not in refused(status, add, store, "1", session=("chat", None)).message
  assert not files_in(tmp_path) and store.stats() == (0, 0, 0, 0)


def test_a_damaged_state_is_not_a_missing_one(opened, tmp_path):
  store = opened()
  id = add(store, "1", session=("chat", None))
  (tmp_path / "states" / f"{id}.memory").write_text("junk")
  assert refused(500, store.open, "ann", id).code == "damaged_file"
  assert refused(500, store.open_named, "session", "ann", "chat").code == "damaged_file"
  foreign = add(store, "foreign")
  assert refused(409, store.open, "ann", foreign).code == "other_model"
