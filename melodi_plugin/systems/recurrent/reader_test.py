"""The Block-Recurrent Transformer: against `reference/baselines.py`."""

import numpy as np
import pytest

from melodi_plugin.testing.baselines import SEGMENT, batch_of, block_recurrent, memory_of, read
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.checks import (
  assert_equals_naive,
  assert_gradient_stays_in_document,
  assert_nan_stays_in_document,
  assert_packed_equals_alone,
)

pytestmark = pytest.mark.usefixtures("float64")

BOTH = block_recurrent("lstm", "dual", num_layers=1)
FEEDBACK = block_recurrent("bias", "skip", feedback=True, memory_layers=(1,))
CASES = {
  "lstm dual": (BOTH, "layers"),
  "lstm dual, two layers": (block_recurrent("lstm", "dual"), "windows"),
  "lstm skip": (block_recurrent("lstm", "skip", num_layers=1), "windows"),
  "lstm single": (block_recurrent("lstm", "single", num_layers=1), "layers"),
  "bias dual": (block_recurrent("bias", "dual", num_layers=1), "windows"),
  "bias skip": (block_recurrent("bias", "skip", num_layers=1), "layers"),
  "bias single": (block_recurrent("bias", "single", num_layers=1), "layers"),
  "feedback": (FEEDBACK, "windows"),
  "reference": (block_recurrent(num_layers=1, reference_defects=True), "layers"),
  "one window": (block_recurrent(num_layers=1, window_length=SEGMENT), "layers"),
}


@pytest.mark.parametrize("name", broad_but(["lstm dual"], CASES))
def test_schedules_equal_naive(name):
  config, schedule = CASES[name]
  assert_equals_naive(config, schedule, gradients=False)


@pytest.mark.parametrize("name", broad_but([], CASES, slow=[n for n in CASES if n != "lstm dual"]))
def test_schedules_and_gradients_equal_naive(name):
  config, schedule = CASES[name]
  assert_equals_naive(config, schedule)


@pytest.mark.broad
def test_documents_packed_in_rows_give_what_each_gives_alone():
  assert_packed_equals_alone(BOTH)


@pytest.mark.broad
def test_gradient_does_not_cross_documents():
  assert_gradient_stays_in_document(BOTH)


@pytest.mark.broad
def test_nan_reaches_no_other_document_nor_the_memory():
  assert_nan_stays_in_document(BOTH)


@pytest.mark.broad
def test_learned_states_learn_only_where_a_document_starts():
  *_, (layers, *_) = read(BOTH, batch_of(BOTH, [[-12], [-7]]), memory_of(BOTH))
  assert not np.asarray(layers[0].states.initial).any()
  *_, (layers, *_) = read(BOTH, batch_of(BOTH, [[-12], [-4, 7]]), memory_of(BOTH))
  assert (np.abs(layers[0].states.initial).max(-1) > 1e-9).all()
