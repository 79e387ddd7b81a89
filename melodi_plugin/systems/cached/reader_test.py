"""Transformer-XL and the Memorizing Transformer against `reference/baselines.py`."""

import pytest

from melodi_plugin.config.systems import TRANSFORMER_XL
from melodi_plugin.conformance import segments, suite
from melodi_plugin.conformance.stacks import Subject, small_config
from melodi_plugin.testing.baselines import (
  SEGMENT,
  batch_of,
  memorizing,
  memory_of,
  random_layers,
  read,
  transformer_xl,
)
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.checks import (
  assert_equals_naive,
  assert_gradient_stays_in_document,
  assert_nan_stays_in_document,
  assert_packed_equals_alone,
)

pytestmark = pytest.mark.usefixtures("float64")

ALONE = dict(num_layers=1, memory_layers=(0,))
WHOLE = dict(window_length=SEGMENT)
XL, DENSE, NEAREST = transformer_xl(), memorizing(**ALONE), memorizing(2, **ALONE)
CASES = {
  "xl": (XL, "layers"),
  "xl, windows outside": (XL, "windows"),
  "xl, rotary": (transformer_xl(position="rotary", num_layers=1), "layers"),
  "xl, no position": (transformer_xl(position="none", num_layers=1), "windows"),
  "xl, reference": (transformer_xl(num_layers=1, reference_defects=True), "layers"),
  "xl, shorter cache": (transformer_xl(cache_tokens=3), "layers"),
  "xl, longer cache": (transformer_xl(cache_tokens=10, position="rotary"), "windows"),
  "xl, cache longer than a segment": (transformer_xl(cache_tokens=17), "layers"),
  "xl, sinks": (transformer_xl(cache_tokens=6, sink_tokens=3), "layers"),
  "xl, sinks, shorter cache": (
    transformer_xl(cache_tokens=1, sink_tokens=4, position="rotary"),
    "windows",
  ),
  "dense": (DENSE, "layers"),
  "dense, windows outside": (memorizing(), "windows"),
  # The official queue holds whole segments.
  "dense, reference": (memorizing(queue_windows=3, reference_defects=True, **ALONE), "layers"),
  "dense, one window": (memorizing(**WHOLE, **ALONE), "layers"),
  "blocked": (NEAREST, "layers"),
  "exact": (memorizing(3, exact=True, **ALONE), "layers"),
  # The official segment is one window.
  "blocked, reference": (memorizing(4, reference_defects=True, **WHOLE, **ALONE), "layers"),
}


@pytest.mark.parametrize("name", broad_but([], [n for n in CASES if n != "dense"]))
def test_schedules_equal_naive(name):
  config, schedule = CASES[name]
  assert_equals_naive(config, schedule, gradients=False)


# One of each kind, and that of a cache in those of queues.
_DIFFERENTIATED = ("dense", "blocked", "xl, sinks")


@pytest.mark.parametrize(
  "name", broad_but(["dense"], CASES, slow=[n for n in CASES if n not in _DIFFERENTIATED])
)
def test_schedules_and_gradients_equal_naive(name):
  config, schedule = CASES[name]
  assert_equals_naive(config, schedule)


@pytest.mark.slow
def test_layers_that_are_not_scanned_equal_naive():
  assert_equals_naive(XL, scan_layers=False)


def test_parameters_of_a_longer_queue_read_with_a_shorter_one():
  longer = random_layers(memorizing(queue_windows=4, **ALONE))
  assert_equals_naive(DENSE, layers=longer)


@pytest.mark.parametrize(
  "config",
  [
    pytest.param(XL, id="xl", marks=pytest.mark.broad),
    pytest.param(DENSE, id="dense"),
    pytest.param(NEAREST, id="blocked", marks=pytest.mark.broad),
  ],
)
class TestDocuments:
  def test_documents_packed_in_rows_give_what_each_gives_alone(self, config):
    assert_packed_equals_alone(config)

  def test_gradient_does_not_cross_documents(self, config):
    assert_gradient_stays_in_document(config)

  def test_nan_reaches_no_other_document_nor_the_memory(self, config):
    assert_nan_stays_in_document(config)


@pytest.mark.parametrize(
  "config",
  [pytest.param(DENSE, id="dense"), pytest.param(NEAREST, id="blocked", marks=pytest.mark.broad)],
)
def test_no_gradient_reaches_the_queue_of_earlier_segments(config):
  _, _, gradients = read(config, batch_of(config, [[-12], [-7]]), memory_of(config))
  assert not gradients[3].any()


SINKS = Subject(small_config(TRANSFORMER_XL, melodi_cache_tokens=6, melodi_sink_tokens=2))
# The others are slow.
_CHECKS = (segments.segments_can_be_cut_anywhere, segments.documents_begin_without_memory)
_SLOW = [check for check in suite.checks(SINKS) if check not in _CHECKS]


@pytest.mark.parametrize(
  "check",
  broad_but([], suite.checks(SINKS), slow=_SLOW),
  ids=lambda check: check.__name__,
)
def test_long_cache_with_sinks_conforms(check):
  check(SINKS)
