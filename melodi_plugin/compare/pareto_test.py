"""Which rows are one curve, and which are the best for their bytes."""

import pytest

from melodi_plugin.compare import pareto
from melodi_plugin.compare.results import put_together
from melodi_plugin.testing.comparison import SETTINGS, make_result, make_row

ROWS = {  # bytes, nats, what the row is
  "large": (800, 3.0, {}),
  "small": (200, 3.4, {}),
  "xl": (300, 3.2, {"decoder_block": "transformer_xl"}),
  "xl_2w": (800, 3.1, {"decoder_block": "transformer_xl"}),
  "sinks": (300, 3.3, {"decoder_block": "transformer_xl", "melodi_sink_tokens": 4}),
  "graft": (500, 3.2, {"decoder_block": "llama2", "melodi_base_block": "llama2"}),
  "unknown": (None, 3.0, {"decoder_block": "mine"}),
}


@pytest.fixture
def found():
  rows = {
    name: make_row(name, slot_bytes=size)._replace(settings=SETTINGS | own)
    for name, (size, _, own) in ROWS.items()
  }
  results = [
    make_result(rows[name], seed, nats + seed / 100)
    for name, (_, nats, _) in ROWS.items()
    for seed in (0, 1)
  ]
  return put_together(list(rows.values()), results)


def test_rows_of_one_system_are_a_curve_from_few_bytes_to_many(found):
  names = {system: [p.name for p in points] for system, points in pareto.curves(found).items()}
  assert names == {
    "melodi": ["small", "large"],
    "transformer_xl": ["xl", "xl_2w"],
    "transformer_xl with sinks": ["sinks"],
    "melodi around llama2": ["graft"],
  }


def test_front_has_the_rows_that_no_other_beats_with_as_few_bytes(found):
  points = [point for points in pareto.curves(found).values() for point in points]
  assert [point.name for point in pareto.front(points)] == ["small", "xl", "large"]


def test_picture_is_drawn(found):
  assert pareto.picture(found).startswith(b"\x89PNG")
