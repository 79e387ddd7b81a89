"""MaxText's `eval_interval`: a memory of its own, and training that does not notice."""

import numpy as np
import pytest
import sentencepiece

from integration_tests import running
from integration_tests.saved_runs import (
  EQUAL_LAYERS,
  assert_same_checkpoint,
  checkpoints,
  write_config,
)

STEPS = 4
HELD_OUT = [130, 33, 150, 20, 90, 140, 64, 10, 100, 128, 77] * 3


def evaluate(config):
  """Sums over all held-out documents, of two evaluations with one compiled step."""
  import jax
  from flax.linen import logical_axis_rules
  from maxtext.trainers.pre_train import train as trainer
  from maxtext.utils import sharding, train_utils

  with running.maxtext_process():
    set_up = running.Trainer(config)
    step = train_utils.jit_eval_step(
      config,
      set_up.graphdef,
      set_up.shardings,
      sharding.get_input_data_sharding(config, set_up.mesh),
      trainer.eval_step,
    )
    sums = []
    for _ in range(2):
      total, weights, batches = 0.0, 0, 0
      set_up.eval_iterator.reset()
      for batch in set_up.eval_iterator:
        with jax.set_mesh(set_up.mesh), logical_axis_rules(config.logical_axis_rules):
          scalars = step(set_up.state, batch)["scalar"]
        total += float(scalars["evaluation/total_loss"])
        weights += int(scalars["evaluation/total_weights"])
        batches += 1
      sums.append((total, weights, batches))
  return sums


@pytest.fixture(name="config", scope="module")
def _config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("eval")
  held_out = running.write_documents(folder / "held_out", HELD_OUT)
  keys = {"grain_eval_files": str(held_out), "grain_worker_count_eval": 0}
  return write_config(folder, **EQUAL_LAYERS, **keys)


@pytest.mark.parametrize("microbatches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_is_bit_identical_with_and_without_evaluation(config, microbatches):
  of_both = f"gradient_accumulation_steps={microbatches}", f"steps={STEPS}"
  runs = {"plain": [], "evaluated": ["eval_interval=1", "eval_per_device_batch_size=2"]}
  for name, arguments in runs.items():
    run = f"{name}_{microbatches}"
    log = f"metrics_file={config.parent / run}.jsonl"
    running.train(str(config), f"run_name={run}", log, *of_both, *arguments)
  names = [f"{name}_{microbatches}" for name in runs]
  one, other = (checkpoints(config.parent, name) for name in names)
  assert_same_checkpoint(one / str(STEPS - 1), other / str(STEPS - 1))
  plain, evaluated = (running.metrics(config.parent / f"{name}.jsonl") for name in names)
  assert len(plain) == STEPS
  assert [line["learning/loss"] for line in plain] == [line["learning/loss"] for line in evaluated]


def scored_tokens(folder):
  """Of every document all tokens but the first, which is BOS; EOS is one of them."""
  tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  texts = [path.read_text() for path in (folder / "held_out").iterdir()]
  return sum(len(tokenizer.encode(text)) + 1 for text in texts)


@pytest.fixture(scope="module")
def plain(config):
  """What `evaluate` finds with as many rows as in training, and memory."""
  return evaluate(initialize(config))


def initialize(config, **keys):
  keys |= {"enable_checkpointing": False, "eval_interval": 1}
  with running.maxtext_process():
    return running.from_yaml(config, **keys)


def test_evaluation_starts_from_zeros_and_scores_every_token(config, plain):
  (total, weights, batches), again = plain
  assert again == (total, weights, batches)
  assert weights == scored_tokens(config.parent)


@pytest.mark.broad  # of `melodi evaluate` in evaluate_test
def test_number_of_rows_is_of_no_consequence_to_evaluation(config, plain):
  total, weights, batches = plain[0]
  (wide, same_weights, fewer), _ = evaluate(initialize(config, eval_per_device_batch_size=2))
  assert weights == same_weights and fewer < batches
  np.testing.assert_allclose(wide, total, rtol=1e-6)


@pytest.mark.slow
def test_evaluation_reads_its_rows_at_once_whatever_the_number_of_microbatches(config, plain):
  (total, weights, batches), again = evaluate(initialize(config, gradient_accumulation_steps=2))
  assert again == (total, weights, batches)
  assert (weights, batches) == plain[0][1:]
  np.testing.assert_allclose(total, plain[0][0], rtol=1e-6)


@pytest.mark.broad  # of `melodi evaluate` in evaluate_test
def test_evaluation_carries_memory_from_batch_to_batch(config, plain):
  carried = plain[0][0]
  (reset, _, _), _ = evaluate(initialize(config, melodi_reset_every_window=True))
  assert abs(carried - reset) > 1e-4 * carried
