import numpy as np
import pytest

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.queue import Limits, Queue
from melodi_plugin.server.texts import Prompt, Text
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends

GREEDY = SamplingSettings(temperature=0, seed=0)


def text_of(owner: str = "a", prompt: Prompt | int = 3, scored: bool = False) -> Text:
  own = Prompt(np.zeros(prompt, np.int32)) if isinstance(prompt, int) else prompt
  return Text(own, GREEDY, Ends(4), owner, lambda event: None, scored)


def drain(queue: Queue) -> list[Text]:
  taken = []
  while found := queue.take(()):
    taken.append(found[0])
  return taken


def test_owners_take_turns_and_each_is_first_in_first_out():
  queue = Queue(Limits())
  a, b, c = (
    [text_of(owner) for _ in range(count)] for owner, count in (("a", 4), ("b", 2), ("c", 1))
  )
  queue.add([*a, *b], 0.0)
  queue.add(c, 1.0)
  assert drain(queue) == [a[0], b[0], c[0], a[1], b[1], a[2], a[3]]
  assert not len(queue) and queue.tokens == 0


def test_an_owner_who_comes_back_waits_for_the_others():
  queue = Queue(Limits())
  a, b = [text_of("a") for _ in range(3)], [text_of("b") for _ in range(2)]
  queue.add([*a[:2], b[0]], 0.0)
  assert queue.take(()) == (a[0], 0)
  assert queue.take(()) == (b[0], 0)
  queue.add([b[1]], 1.0)
  assert queue.take(()) == (a[1], 0)
  assert queue.take(()) == (b[1], 1)


@pytest.mark.parametrize("limits", [Limits(queue_texts=4), Limits(queue_tokens=12)])
def test_a_group_is_taken_as_a_whole_or_not_at_all(limits):
  queue = Queue(limits)
  queue.add([text_of() for _ in range(3)], 10.0)
  with pytest.raises(Refused, match="3 texts with 9 prompt tokens wait already") as refused:
    queue.add([text_of("b"), text_of("b")], 17.5)
  assert refused.value.status == 429 and refused.value.retry_after == 8
  assert len(queue) == 3 and queue.tokens == 9
  queue.add([text_of("b")], 18.0)
  assert len(drain(queue)) == 4
  queue.add([text_of() for _ in range(4)], 19.0)
  with pytest.raises(Refused) as refused:
    queue.add([text_of()], 500.0)
  assert refused.value.retry_after == 60


@pytest.mark.parametrize("texts", [[text_of() for _ in range(5)], [text_of("a", 13)]])
def test_what_never_fits_is_told_so(texts):
  queue = Queue(Limits(queue_texts=4, queue_tokens=12))
  with pytest.raises(Refused, match="ask for fewer") as refused:
    queue.add(texts, 0.0)
  assert refused.value.status == 413 and not len(queue)


def test_tokens_of_a_prompt_count_once_as_long_as_one_of_its_texts_waits():
  queue, prompt = Queue(Limits(queue_tokens=10)), Prompt(np.zeros(7, np.int32))
  first, *others = (text_of("a", prompt) for _ in range(3))
  queue.add([first], 0.0)
  queue.add(others, 0.0)
  assert queue.tokens == 7
  queue.remove(first)
  queue.remove(first)
  assert queue.tokens == 7 and len(queue) == 2
  drain(queue)
  assert queue.tokens == 0


def test_texts_wait_for_the_row_of_their_prompt_and_let_others_go_first():
  queue, prompt = Queue(Limits()), Prompt(np.zeros(7, np.int32))
  siblings, other = [text_of("a", prompt), text_of("a", prompt)], text_of("a")
  scored = text_of("a", prompt, scored=True)
  queue.add([*siblings, other, scored], 0.0)
  assert queue.wait_for_row(prompt)
  assert queue.take([prompt]) == (other, 0)
  assert queue.take([prompt]) == (scored, 0)
  assert queue.take([prompt]) is None
  queue.remove(siblings[0])
  assert queue.take([]) == (siblings[1], 0)
  assert not queue.wait_for_row(prompt)


def test_texts_that_wait_too_long_are_removed_unless_they_have_been_begun():
  queue, prompt = (
    Queue(Limits(queue_seconds=10, request_seconds=100)),
    Prompt(np.zeros(7, np.int32)),
  )
  begun, old, young = text_of("a", prompt), text_of("a"), text_of("b")
  queue.add([begun, old], 0.0)
  queue.add([young], 5.0)
  assert queue.remove_late(10.0, [prompt]) == []
  assert queue.remove_late(10.1, [prompt]) == [old]
  assert queue.remove_late(15.1, [prompt]) == [young]
  assert queue.remove_late(100.0, [prompt]) == []
  assert queue.remove_late(100.1, [prompt]) == [begun]
  assert not len(queue) and queue.tokens == 0
