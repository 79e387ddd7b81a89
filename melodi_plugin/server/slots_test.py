"""What turns of a scheduler read and write in slots, and what they keep; no threads."""

import itertools

import numpy as np
import pytest

from melodi_plugin.server.texts import Finished, Prompt, PromptRead
from melodi_plugin.testing.texts import Desk, alone, assert_alone, heard, row_after

# -- Reading and writing ---------------------------------------------------------------------------


def test_texts_of_all_lengths_are_written_as_if_each_were_alone():
  desk = Desk(slots=3)
  texts = [heard("x" * (1 + 7 * n), 1 + n, seed=n % 3, keep=n % 2 > 0) for n in range(12)]
  desk.submit(*texts)
  desk.finish()
  for text in texts:
    assert_alone(text)


def test_stop_strings_and_the_end_of_text_end_a_text():
  desk = Desk()
  whole = bytes(alone(heard("prompt", 20))[0]).decode()
  text = heard("prompt", 20, stop=(whole[7:9],))
  ending = next(own for n in range(999) if 1 < len(alone(own := heard(f"{n}", 50))[0]) < 50)
  desk.submit(text, ending)
  desk.finish()
  assert_alone(text)
  assert_alone(ending)
  assert "".join(event.text for event in text.written) == whole[:7]
  assert text.written[-1].finish == ending.written[-1].finish == "stop"


def test_prompt_that_is_only_read_is_kept_without_its_last_token():
  desk = Desk()
  texts = [heard(prompt, 0, keep=True) for prompt in ("p", "a long prompt, of three calls")]
  desk.submit(*texts, scored := heard("a long prompt", 0, scored=True))
  desk.finish()
  for text in (*texts, scored):
    assert_alone(text)
  assert [type(event) for event in texts[1].events] == [PromptRead, Finished]
  assert sum(map(len, desk.calls("generate"))) == 3  # that the states are finite


@pytest.mark.parametrize("scored", [False, True])
def test_a_prompt_that_is_only_read_is_kept_only_if_its_state_is_finite(scored):
  desk = Desk(snapshots=10**6)
  desk.engine.broken = {ord("y")}
  desk.submit(text := heard("a prompt, sadly", 0, keep=True, scored=scored), good := heard("b", 0))
  desk.finish()
  assert text.status == 500 and text.end.code == "model_error"
  assert len(desk.snapshots) == 0
  assert isinstance(good.end, Finished)


def test_text_goes_on_from_what_was_read_before():
  desk, start = Desk(), list(b"before")
  prompt = Prompt(np.array(list(b"after it"), np.int32), row_after(start, desk.engine), "id")
  desk.submit(text := heard(prompt, keep=True), scored := heard(prompt, scored=True))
  desk.finish()
  assert_alone(text, start)
  assert_alone(scored, start)


def test_scored_prompts_are_read_by_calls_of_their_own():
  desk = Desk()
  texts = [heard(f"{n}" * 20, 2, scored=n % 2 > 0) for n in range(4)] + [heard("q", scored=True)]
  desk.submit(*texts)
  desk.finish()
  for text in texts:
    assert_alone(text)
  assert desk.calls("read") == [(0, 2)] * 3 and desk.calls("score") == [(1, 3)] * 3


def test_a_million_tokens_stop_nobody_for_more_than_one_read():
  desk = Desk(slots=2)
  desk.engine.programs.read_tokens = 4096
  long, texts = heard([7] * 1_000_000, 1), [heard(f"{n}", 20) for n in range(10)]
  desk.submit(long)
  desk.turn()
  desk.submit(*texts)
  desk.finish()
  names = [name for name, _ in desk.engine.calls]
  assert names.count("read") == 245
  last = max(place for place, call in enumerate(desk.engine.calls) if call == ("generate", (1,)))
  assert last > 150 and ("read", "read") not in itertools.pairwise(names[1:last])
  for text in texts:
    assert_alone(text)
  assert len(long.tokens) == 1


def test_long_prompts_take_turns():
  desk = Desk(slots=3)
  desk.engine.programs.read_rows = (1, 2)
  desk.submit(*[heard("x" * 41) for _ in range(3)])
  desk.finish()
  assert desk.calls("read") == [(0, 1), (2, 0), (1, 2), (0, 1), (2, 0), (1, 2), (0, 1), (2,)]


# -- Siblings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_choices_read_their_prompt_once_and_stand_in_nobodys_way(slots):
  desk, prompt = Desk(slots), Prompt(np.array(list(b"a prompt of two calls"), np.int32))
  texts = [heard(prompt, 6, seed=seed) for seed in range(1, 6)]
  desk.submit(*texts, other := heard("other", 2))
  desk.finish()
  for text in (*texts, other):
    assert_alone(text)
  tokens = sum(len(slots) for slots in desk.calls("read"))
  assert tokens == 3 + 1  # calls of one prompt, and that of the other
  assert [text.read.cached_tokens for text in texts] == [0] + [20] * 4
  if slots == 3:
    assert other.events and desk.calls("read")[0] == (0, 1)


def test_the_next_sibling_reads_if_the_first_is_gone():
  desk, prompt = Desk(), Prompt(np.array(list(b"a prompt of two calls"), np.int32))
  texts = [heard(prompt, 6, seed=seed) for seed in range(1, 4)]
  desk.submit(*texts)
  desk.turn()
  desk.scheduler.cancel(texts[:1])
  desk.finish()
  assert texts[0].events == []
  for text in texts[1:]:
    assert_alone(text)
  assert len(desk.calls("read")) == 1 + 3


@pytest.mark.parametrize("slots, calls", [(4, [(0, 1)] * 3), (1, [(0,)] * 6)])
def test_scored_text_reads_for_its_siblings_and_reads_all_itself(slots, calls):
  desk, prompt = Desk(slots), Prompt(np.array(list(b"a prompt of two calls"), np.int32))
  texts = [heard(prompt, 6, seed=seed + 1, scored=seed in (0, 2)) for seed in range(4)]
  desk.submit(*texts)
  desk.finish()
  for text in texts:
    assert_alone(text)
  assert not desk.calls("read") and desk.calls("score") == calls


# -- Snapshots -------------------------------------------------------------------------------------


def test_what_was_read_before_is_not_read_again():
  desk = Desk(snapshots=100_000)
  desk.submit(first := heard("system: be kind. hello", 6))
  desk.finish()
  said = bytes(first.tokens).decode()
  more = [
    heard("system: be kind. hello", 6),  # the whole prompt but its last token
    heard(f"system: be kind. hello{said} and", 6),  # the text, too
    heard("system: be kind. hello", 6, owner="b"),
    heard("system: be kind. hello", 6, scored=True),
  ]
  desk.submit(*more)
  desk.finish()
  for text in (first, *more):
    assert_alone(text)
  assert [text.read.cached_tokens for text in (first, *more)] == [0, 21, 27, 0, 0]
  assert desk.snapshots.hits == 2


def test_what_follows_one_start_is_not_found_behind_another():
  desk, ids = Desk(snapshots=100_000), np.array(list(b"and so on"), np.int32)
  starts = {"one": list(b"once"), "two": list(b"twice")}
  texts = {
    name: [heard(Prompt(ids, row_after(own, desk.engine), name)) for _ in range(2)]
    for name, own in starts.items()
  }
  nameless = [heard(Prompt(ids, row_after(starts["one"], desk.engine))) for _ in range(2)]
  for place in range(2):
    desk.submit(*[own[place] for own in texts.values()], nameless[place])
    desk.finish()
  for name, own in starts.items():
    assert [text.read.cached_tokens for text in texts[name]] == [0, 8]
    for text in texts[name]:
      assert_alone(text, own)
  for text in nameless:
    assert_alone(text, starts["one"])
    assert text.read.cached_tokens == 0


def test_without_a_budget_no_state_leaves_the_device(monkeypatch):
  desk, extracted = Desk(snapshots=999), []
  monkeypatch.setattr(desk.engine, "extract", extracted.append)
  desk.submit(heard("a prompt", 3), heard("another", 3))
  desk.finish()
  assert not extracted and not len(desk.snapshots)
