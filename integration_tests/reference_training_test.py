"""Recorded training of the official implementation, through MaxText's own train step.

Reads the files of MELODI_GOLDEN_DIR that hold one; the project has no copy, for its size.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import maxtext_model, running
from integration_tests.golden_baselines import recorded
from integration_tests.golden_files import GoldenFile
from melodi_plugin.testing.tiny import assert_close

SEGMENTS = (1, 2, 3, 2)  # that the recorded steps read
KINK = 2  # the step from which two machines may differ: see the test


class RecordedBatches:
  """A loader of the recorded segments."""

  def __init__(self, golden: GoldenFile):
    self.batches = iter([batch_of(golden, segment) for segment in SEGMENTS])

  def load_next_batch(self) -> dict[str, jax.Array]:
    return next(self.batches)


def batch_of(golden: GoldenFile, segment: int) -> dict[str, jax.Array]:
  """Targets shift inside the segment; 0 pads, is read, but neither predicts nor is predicted."""
  tokens = jnp.asarray(golden["tokens"][segment - 1])
  targets = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
  return {
    "inputs": tokens,
    "inputs_position": jnp.asarray(golden.positions(segment)),
    "inputs_segmentation": jnp.ones_like(tokens),
    "targets": targets,
    "targets_segmentation": ((tokens != 0) & (targets != 0)).astype(jnp.int32),
  }


def config_of(golden: GoldenFile):
  """MaxText's config of a recorded training."""
  meta = golden.meta
  keys = maxtext_model.overrides(
    golden.config,
    vocab_size=meta["vocab_size"],
    max_target_length=meta["segment_length"],
    per_device_batch_size=meta["batch"] / len(jax.devices()),
    logits_via_embedding=True,
    normalize_embedding_logits=True,
    matmul_precision="highest",
    gradient_clipping_threshold=0,
    opt_type=meta["optimizer"],
    melodi_learning_rate_schedule="paper",
    learning_rate=0.01,
    learning_rate_final_fraction=0.1,
    learning_rate_schedule_steps=meta["num_steps"],
    warmup_steps_fraction=meta["warmup_steps"] / meta["num_steps"],
    ici_fsdp_parallelism=1,
  )
  return running.initialize(**keys)


def trainer_of(golden: GoldenFile) -> running.Trainer:
  """MaxText's trainer at the recorded parameters and memory, with the recorded batches."""
  trainer = running.Trainer(config_of(golden), jax.devices()[:1])
  trainer.loader = RecordedBatches(golden)
  model = nnx.merge(trainer.graphdef, trainer.state).model
  maxtext_model.load(model, golden, "params")
  maxtext_model.set_memory(model, golden.memory("state0"))
  nnx.update(trainer.state["model"], nnx.state(model))
  return trainer


def share_apart(found, expected) -> float:
  """The share of numbers that differ by more than rounding does."""
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  close = [np.isclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=2e-5).ravel() for a, b in pairs]
  return 1 - float(np.concatenate(close).mean())


@pytest.fixture
def summed_loss(monkeypatch):
  """The reference's loss is a sum over tokens, MaxText's their mean.

  Adafactor ignores the scale of all gradients, but not that of one step's against another's: its
  second moment is a mean over steps, and the recorded ones have 126 or 112 targets.  With the mean,
  parameters differ by 5e-4 after the four steps.
  """
  with running.maxtext_process():
    from maxtext.trainers.pre_train import train

    mean_loss = train.loss_fn

    def loss_fn(*args, **kwargs):
      loss, aux = mean_loss(*args, **kwargs)
      return loss * aux["total_weights"], aux

    monkeypatch.setattr(train, "loss_fn", loss_fn)
    yield


@pytest.mark.parametrize("path", recorded(language_model=True, training=True))
def test_parameters_after_every_step_are_the_recorded_ones(path, summed_loss):
  """Measured: 2e-7.

  In step 2 a hidden unit of the last layer lies on the kink of the ReLU, to float32 rounding.
  Where it falls on the other side than in the recording, as without XLA's optimizations and on some
  machines with them, parameters differ by 1.3e-4 after that step and 2.4e-4 after the next, in
  0.01 % and 0.03 % of all numbers.  So from there on few numbers may differ, and by little.  The
  nearest wrong thing, MaxText's mean loss, differs in 0.05 % after step 1, then in 0.3 % and 1.4 %.
  """
  jax.config.update("jax_disable_most_optimizations", False)
  golden = GoldenFile(path)
  trainer = trainer_of(golden)
  for step in range(len(SEGMENTS)):
    loss = trainer.step()["learning/loss"]
    np.testing.assert_allclose(loss, golden["loss"][step], rtol=1e-5)
    found = maxtext_model.gradients(trainer.state["model"], golden)
    expected = maxtext_model.recorded_gradients(golden, f"params_after_step{step}")
    if step < KINK:
      assert_close(found, expected)
    else:
      assert_close(found, expected, absolute=3e-4)
      assert share_apart(found, expected) < 1e-3


@pytest.mark.parametrize("path", recorded(language_model=True, training=True))
def test_learning_rates_are_the_recorded_ones(path):
  golden = GoldenFile(path)
  with running.maxtext_process():
    from maxtext.utils import maxtext_utils

    schedule = maxtext_utils.create_learning_rate_schedule(config_of(golden))
  np.testing.assert_allclose(schedule(np.arange(len(SEGMENTS))), golden["lr"], rtol=1e-6)
