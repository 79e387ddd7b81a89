"""What is kept of a run whose loss stops being finite, also over several sittings."""

import math
from types import SimpleNamespace

import pytest

from melodi_plugin.training.divergence import Divergence


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / "not_finite.json")


def kept(divergence, saved, newest=1):
  """What is left of checkpoints, of which the newest are kept anyway."""
  found = divergence.should_preserve([SimpleNamespace(step=step) for step in saved])
  return [s for s, keep in zip(saved, found, strict=True) if keep or s in saved[-newest:]]


def run(divergence, losses, first=0, period=2, saved=(), late=1):
  """Steps whose losses are told late: after so many next ones may have been saved."""
  saved, told = list(saved), list(enumerate(losses, first))
  for step, _ in list(told):
    if step % period == 0:
      saved = kept(divergence, [*saved, step])
    while told and told[0][0] <= step - late:
      divergence.step_done(*told.pop(0))
  for step, loss in told:
    divergence.step_done(step, loss)
  return saved


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("good", range(3, 8))
@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("period", [1, 2])
def test_last_checkpoint_with_a_finite_loss_after_it_is_kept(path, good, bad, late, period):
  said = []
  losses = [1.0] * good + [bad] * 9
  saved = run(Divergence(path, said.append), losses, late=late, period=period)
  # Parameters of step s give the loss of step s + 1.
  assert saved[0] == max(step for step in range(0, good - 1, period)) and len(saved) == 2
  assert len(said) == 1 and f"the loss is not finite since step {good + 1};" in said[0]


def test_of_a_run_that_goes_well_few_more_are_kept(path):
  assert run(Divergence(path, print), [1.0] * 20, period=5) == [10, 15]
  assert run(Divergence(path, print), [1.0] * 20, period=1) == [16, 17, 18, 19]


def test_next_sitting_keeps_it_too_and_says_since_when(path):
  said = []
  saved = run(Divergence(path, said.append), [1.0] * 5 + [math.nan] * 5)
  assert saved == [2, 8]
  again = Divergence(path, said.append)
  assert said[0] == said[1]
  assert run(again, [math.nan] * 4, first=10, saved=saved) == [2, 12]


def test_loss_that_is_finite_again_frees_the_old_one(path, tmp_path):
  said = []
  saved = run(Divergence(path, said.append), [1.0] * 5 + [math.nan] + [1.0] * 8)
  assert saved == [8, 10, 12]
  assert said[-1] == "the loss is finite again, at step 7"
  assert not list(tmp_path.iterdir())


def test_process_that_does_not_write_keeps_the_same(path, tmp_path):
  said = []
  divergence = Divergence(path, said.append, writes=False)
  assert run(divergence, [1.0] * 5 + [math.nan] * 5) == [2, 8]
  assert not list(tmp_path.iterdir())
