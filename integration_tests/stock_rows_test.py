"""MaxText's own decoders read what decoders with memory read: documents, tokens, order, scores."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from integration_tests import running, saved_runs

pytestmark = pytest.mark.slow

LENGTHS = [150, 40, 333, 7, 64, 65]
T = running.TINY["max_target_length"]
STOCK = {
  "decoder_block": "llama2",
  "melodi_documents_in_rows": True,
  "melodi_window_length": 16,
  "base_num_decoder_layers": 1,
  "matmul_precision": "highest",
}


def train(folder: pathlib.Path, steps: int, run_name: str = "tiny", **more: Any) -> dict[str, Any]:
  """Trains a stock decoder on documents of `folder`, written if they are not there."""
  keys = running.TINY | STOCK | more | {"run_name": run_name}
  keys |= {"base_output_directory": str(folder / "out"), "steps": steps, "learning_rate": 0.01}
  keys |= {"enable_checkpointing": True, "checkpoint_period": 1, "grain_worker_count_eval": 0}
  keys |= {"learning_rate_schedule_steps": saved_runs.STEPS}
  if (folder / "documents").exists():
    data = {"dataset_type": "grain", "grain_train_files": str(folder / "documents")}
    data |= {"tokenizer_path": str(folder / "tokenizer.model"), "grain_worker_count": 0}
    data |= {"tokenizer_type": "sentencepiece"}
  else:
    data = running.documents_config(folder, LENGTHS)
  running.train(str(running.write_yaml(folder / f"{run_name}.yml", **(keys | data))))
  return keys | data


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stock_rows")
  train(folder, steps=2)
  return folder


def score(folder: pathlib.Path, *argv: str, run_name: str = "tiny", truth: Any = None) -> Any:
  """What the scorer says of every document, and what `truth(model, config, tokens)` does."""
  with running.maxtext_process():
    from melodi_plugin.evaluation.evaluate import evaluation_config
    from melodi_plugin.evaluation.reading import Scorer
    from melodi_plugin.maxtext import loading
    from melodi_plugin.maxtext.pipeline import make_document_batches

    (items,) = (folder / "out" / run_name / "checkpoints").glob("1/items")
    words = [f"load_parameters_path={items}", f"grain_eval_files={folder}/documents"]
    config = evaluation_config(["", str(folder / f"{run_name}.yml"), *words, *argv])
    batches = make_document_batches(config, config.grain_eval_files, rows=8)
    scorer = Scorer(config, rows=batches.order.rows)
    found = {document.id: document for document in scorer.score(batches)}
    if truth is None:
      return found, None
    from flax import nnx

    loaded = loading.load(loading.with_rows(config, 8), loading.mesh_of(config), str(items))
    model = nnx.merge(*loaded)
    return found, {name: truth(model, document.tokens) for name, document in found.items()}


def nats_of(model: Any, chunks: list[np.ndarray]) -> list[np.ndarray]:
  """The losses of every chunk's tokens but the first, each chunk in a row of its own."""
  rows = -(-len(chunks) // 8) * 8
  tokens = np.zeros((rows, max(map(len, chunks))), np.int32)
  ids = np.zeros_like(tokens)
  for row, chunk in enumerate(chunks):
    tokens[row, : len(chunk)], ids[row, : len(chunk)] = chunk, 1
  places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  logits = model(jnp.asarray(tokens), places, decoder_segment_ids=jnp.asarray(ids))
  logs = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))
  return [-logs[row, np.arange(len(chunk) - 1), chunk[1:]] for row, chunk in enumerate(chunks)]


def test_chunks_are_read_alone(folder):
  def truth(model, tokens):
    # The last token of a chunk predicts the first of the next one.
    chunks = [tokens[start : start + T + 1] for start in range(0, len(tokens) - 1, T)]
    return np.concatenate(nats_of(model, chunks))

  found, expected = score(folder, truth=truth)
  assert len(found) == len(LENGTHS)
  for name, document in found.items():
    assert len(document.nats) == len(document.tokens) - 1
    np.testing.assert_allclose(document.nats, expected[name], atol=2e-5)


def test_overlapping_chunks_score_the_same_tokens_with_half_a_context_at_least(folder):
  def truth(model, tokens):
    half = T // 2
    first, *others = (max(start, 0) for start in range(-half, len(tokens) - 1 - half, half))
    scores = [nats_of(model, [tokens[first : first + half + 1]])[0]]
    scores += [nats_of(model, [tokens[s : s + T + 1]])[0][half:] for s in others]
    return np.concatenate(scores)

  found, expected = score(folder, "melodi_overlapping_chunks=true", truth=truth)
  alone, _ = score(folder)
  changed = False
  for name, document in found.items():
    assert len(document.nats) == len(alone[name].nats)
    np.testing.assert_allclose(document.nats, expected[name], atol=2e-5)
    changed |= bool(np.abs(document.nats - alone[name].nats).max() > 1e-3)
  assert changed


def test_stopped_training_goes_on_where_its_documents_stood(folder):
  train(folder, steps=4, run_name="whole")
  train(folder, steps=4)  # the fixture's run goes on after its second step
  whole, resumed = (folder / "out" / name / "checkpoints" / "3" for name in ("whole", "tiny"))
  ours, theirs = running.checkpoint(whole), running.checkpoint(resumed)
  assert ours.keys() == theirs.keys()
  for name, array in ours.items():
    np.testing.assert_array_equal(array, theirs[name], err_msg=name)
  assert running.iterator_state(whole) == running.iterator_state(resumed)
  assert any(place["offset"] for place in running.iterator_state(whole)["rows"].values())
