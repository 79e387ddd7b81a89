"""A scheduler over a real engine: every text is what it is alone.

Calls of one size say so bit for bit; those of several sizes are several programs.
"""

import dataclasses
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest

from integration_tests import running
from integration_tests.decoding_models import NEAR, READ_TOKENS, document, make, short_calls
from melodi_plugin.server.scheduler import Scheduler
from melodi_plugin.serving import programs
from melodi_plugin.serving.engine import Engine
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.testing.slots import ByteTokenizer
from melodi_plugin.testing.texts import Heard, heard

# By default over HTTP in serve_test, and over slots without a model in server/scheduler_test.
SLOTS, BUDGET = 3, 100_000_000


@pytest.fixture(scope="module")
def model():
  with running.maxtext_process(), short_calls():
    yield make("melodi").prepared


@pytest.fixture(scope="module")
def engine(model):
  return Engine(model, SLOTS, scores=True)


def write(engine: Engine, *texts: Heard, snapshots: Snapshots | None = None, cancel=None) -> None:
  """All of them; `cancel` says after which turn which of them are cancelled."""
  kept = Snapshots(0) if snapshots is None else snapshots  # an empty one is false
  scheduler = Scheduler(engine, ByteTokenizer(), kept)
  scheduler.submit(texts)
  for turn in range(10_000):
    scheduler.cancel([text for text, last in (cancel or {}).items() if last == turn])
    if scheduler.idle():
      return
    scheduler.turn()


def again(text: Heard) -> Heard:
  """The same request."""
  own = dataclasses.replace(text, cancelled=False, events=[])
  own.listen = own.events.append
  return own


def numbers(text: Heard) -> tuple[np.ndarray, ...]:
  """All that was said of a text's tokens, and of its prompt's."""
  drawn = [event.drawn for event in text.written]
  scores = text.read.scores or ()
  return (
    np.array(text.tokens),
    np.array([own.logprob for own in drawn]),
    np.array([own.top_ids for own in drawn]),
    np.array([own.top_logprobs for own in drawn]),
    *scores,
  )


def assert_same(text: Heard, other: Heard) -> None:
  text.assert_in_order()
  for own, expected in zip(numbers(text), numbers(other), strict=True):
    np.testing.assert_array_equal(own, expected)


@pytest.mark.broad
def test_twelve_texts_on_three_slots_are_those_of_each_alone(engine):
  for text, alone in write_twelve(engine):
    assert_same(text, alone)


@pytest.mark.slow
def test_twelve_texts_are_nearly_the_same_by_calls_of_several_sizes(model):
  sizes = (1, SLOTS)
  with (
    mock.patch.object(programs, "READ_ROWS", sizes),
    mock.patch.object(programs, "CLOSE_ROWS", sizes),
  ):
    engine = Engine(model, SLOTS, scores=True)
  for text, alone in write_twelve(engine):
    assert text.tokens == alone.tokens
    np.testing.assert_allclose(numbers(text)[1], numbers(alone)[1], rtol=0, atol=NEAR)


def write_twelve(engine: Engine) -> Iterator[tuple[Heard, Heard]]:
  """Texts that are written together, some cancelled; the others, and the same written alone."""
  lengths = (1, 2, 7, 8, 9, READ_TOKENS, READ_TOKENS + 1, 40, 60, 77, 100, 5)
  texts = [
    heard(
      document(n, length).tolist(), 10 + n, seed=n % 2 * n, owner=str(n % 2), scored=n in (4, 9)
    )
    for n, length in enumerate(lengths)
  ]
  cancel = {texts[1]: 4, texts[5]: 9, texts[8]: 14, texts[10]: 0}
  write(engine, *texts, cancel=cancel)
  left = [text for text in texts if text not in cancel]
  assert any(text.events for text in cancel) and not any(text.end for text in cancel)
  for text in left:
    alone = again(text)
    write(engine, alone)
    assert len(text.tokens) == text.ends.max_tokens
    yield text, alone


@pytest.mark.broad
def test_choices_of_one_prompt_are_those_of_each_alone(engine):
  first = heard(document(3, 50).tolist(), 12, seed=1)
  texts = [first, *(heard(first.prompt, 12, seed=seed) for seed in (2, 3, 0))]
  write(engine, *texts)
  assert [text.read.cached_tokens for text in texts] == [0, 49, 49, 49]
  assert first.prompt.row is not None
  for text in texts:
    alone = heard(text.prompt.ids.tolist(), 12, seed=text.settings.seed)
    write(engine, alone)
    assert_same(text, alone)


@pytest.mark.broad
def test_prefix_that_was_read_before_changes_no_bit(engine):
  snapshots, shared = Snapshots(BUDGET), document(5, 45).tolist()
  write(engine, heard(shared, 4), snapshots=snapshots)
  for more in ([], document(6, 30).tolist()):
    cached, alone = (heard(shared + more, 12, seed=2) for _ in range(2))
    write(engine, cached, snapshots=snapshots)
    write(engine, alone)
    assert (cached.read.cached_tokens, alone.read.cached_tokens) == (44, 0)
    assert_same(cached, alone)


@pytest.mark.broad
def test_conversation_goes_on_from_what_was_written(engine):
  """What was drawn was read token by token: near to the same text read at once."""
  snapshots, asked = Snapshots(BUDGET), document(7, 30).tolist()
  write(engine, first := heard(asked, 25), snapshots=snapshots)
  history = [*asked, *first.tokens, *document(8, 9).tolist()]
  cached, alone = heard(history, 12), heard(history, 12)
  write(engine, cached, snapshots=snapshots)
  write(engine, alone)
  assert cached.read.cached_tokens == 30 + 25 - 1
  assert cached.tokens == alone.tokens
  np.testing.assert_allclose(numbers(cached)[1], numbers(alone)[1], rtol=0, atol=NEAR)
