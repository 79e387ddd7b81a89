"""When a training is told that its gates stand still."""

import numpy as np

from melodi_plugin.training.gate_moves import is_gate, unmoved

GATE = "decoder/memory_layers_1_to_1/gate"


def told(start: float, *moves: float, steps: int = 16) -> str | None:
  before = {f"{GATE}{i}": np.full((1, 2, 4), start) for i in range(len(moves))}
  after = {name: before[name] - move for name, move in zip(before, moves, strict=True)}
  return unmoved(before, after, steps)


def test_gates_that_have_hardly_moved_are_a_sentence_with_the_key():
  assert told(2.0, 0.0016, 0.016) == (
    "gates have moved by at most 0.016 in 16 steps, and the way to 0, where the queue counts half, "
    "is 2; raise melodi_scalar_learning_rate_multiplier."
  )


def test_one_layer_whose_gates_move_is_enough():
  assert told(2.0, 0.0, 0.021) is None
  assert told(-1.0, 0.011) is None


def test_nothing_is_said_of_gates_that_are_hidden_or_half_open_or_of_no_step():
  assert told(np.inf, 0.0) is None
  assert told(0.0, 0.0) is None
  assert told(2.0, 0.0, steps=0) is None
  assert unmoved({}, {}, 16) is None


def test_gates_are_those_around_a_stock_block():
  assert is_gate(GATE) and not is_gate("decoder/layers_0_to_1/gate")
  assert not is_gate("decoder/memory_layers_1_to_1/offset")
