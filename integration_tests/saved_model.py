"""A checkpoint of a tiny model whose memory matters, its commands, and what `evaluate` says of it.

All is on one device, and a checkpoint is loaded and compiled once for all commands of a test file.
"""

import contextlib
import copy
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.cli import decode
from melodi_plugin.cli.main import main
from melodi_plugin.data.documents import Document
from melodi_plugin.data.rows import StickyRows
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation import from_memory
from melodi_plugin.evaluation.reading import Scorer
from melodi_plugin.serving.checkpoint import Checkpoint

WINDOW = 16
TEXT = "abcdefghij "  # the letters of the tokenizer
KEYS = running.TINY | running.MELODI
KEYS |= {"vocab_size": 15, "logits_via_embedding": False, "matmul_precision": "highest"}


def random_text(seed: int, length: int) -> str:
  """Of the letters."""
  return "".join(np.random.default_rng(seed).choice(list(TEXT), length))


PROMPT = random_text(0, 5 * WINDOW + 3)


class SavedModel:
  """A checkpoint and a config in a folder.

  Args:
    folder: of both.
    scores: whether one engine, which can score texts, serves the commands that need no scores, too.

  Attributes:
    folder: of both.
    words: the config and the checkpoint, as they follow the verb of a command.
  """

  def __init__(self, folder: pathlib.Path, *, scores: bool = False):
    from melodi_plugin.maxtext import loading

    self.folder, self._scores = folder, scores
    tokenizer = running.write_tokenizer(folder / "tokenizer.model")
    own = {"tokenizer_path": str(tokenizer), "tokenizer_type": "sentencepiece"}
    own |= {"base_output_directory": str(folder), "grain_worker_count_eval": 0}
    self._yaml = str(running.write_yaml(folder / "own.yml", **(KEYS | own)))
    config = running.initialize_only(self._yaml, "dataset_type=synthetic")
    model, _ = loading.new_model(config)
    randomize(model)
    self.items = loading.write_params(config, "checkpoints/0", nnx.state(model, nnx.Param))
    self.words = [self._yaml, f"load_parameters_path={self.items}"]
    self._loaded: dict[Any, Checkpoint] = {}
    self._own: dict[Any, Checkpoint] = {}
    self._scorer: Scorer | None = None

  def config(self, *keys: str) -> Any:
    """MaxText's config."""
    return running.initialize_only(*self.words, "dataset_type=synthetic", *keys)

  @functools.cached_property
  def _config(self) -> Any:
    return self.config()

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """That of `checkpoint`, without an engine."""
    return Tokenizer(self._config)

  def run(self, words: Sequence[str]) -> int:
    """Runs a verb with what follows its config, in this process; returns the status."""
    with (
      mock.patch.object(decode, "Checkpoint", self.checkpoint),
      mock.patch.object(from_memory, "Checkpoint", self.checkpoint),
    ):
      return main([words[0], *self.words, *words[1:]])

  def checkpoint(
    self, config: Any = None, slots: int = 1, *, scores: bool = False, reset: bool = True
  ) -> Checkpoint:
    """As `Checkpoint`, but loaded and compiled once; without a config it is read once, too.

    With one, the fingerprints are its own.
    """
    own = config or self._config
    key = own.load_parameters_path, slots, scores or self._scores
    if key not in self._loaded:
      self._loaded[key] = Checkpoint(own, slots, scores=key[-1])
    elif reset:
      self._loaded[key].engine.reset()
    if config is None and key in self._own:
      return self._own[key]
    found = copy.copy(self._loaded[key])
    found.config, found.tokenizer = own, Tokenizer(own)
    if config is None:
      self._own[key] = found
    return found

  def with_one_bit_changed(self, run_name: str) -> str:
    """Another checkpoint of almost the same model."""
    from melodi_plugin.maxtext import loading

    config = self.config(f"run_name={run_name}")
    params = loading.load(config, loading.mesh_of(config), self.items).params
    first = jax.tree.leaves(params)[0]
    bits = np.array(first).view(np.uint32)
    bits.flat[0] ^= 1

    def change(leaf: jax.Array) -> jax.Array:
      return jax.numpy.asarray(bits.view(np.float32)) if leaf is first else leaf

    return loading.write_params(config, "checkpoints/0", jax.tree.map(change, params))

  def logprobs(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What the forward pass of `evaluate` says of all ids but the first.

    Returns:
      Their log probabilities, and whether they had the largest logit.
    """
    self._scorer = self._scorer or Scorer(self._config, rows=1)
    text = " ".join(map(str, ids))
    rows = StickyRows(
      [Document("a", text)],
      lambda text: np.array(text.split(), np.int32),
      rows=1,
      segment_length=self._scorer.segment,
      window_length=WINDOW,
      shuffle=False,
      seed=0,
      epochs=1,
      with_document_index=True,
    )
    with contextlib.closing(rows):
      (found,) = self._scorer.score(rows)
    return -found.nats, found.hits


def randomize(model: nnx.Module, seed: int = 0) -> None:
  """Moves all parameters far off their initial values: without memory, all would be different."""
  for round in range(3):
    stock_model.randomize(model, seed + round)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
  """Models that are made in here lie on the first device alone."""
  from maxtext.utils import maxtext_utils

  mesh_of = maxtext_utils.get_mesh_from_config

  def of_one(config: Any, devices: Any = None) -> jax.sharding.Mesh:
    return mesh_of(config, jax.devices()[:1])

  with mock.patch.object(maxtext_utils, "get_mesh_from_config", of_one):
    yield


@contextlib.contextmanager
def saved_model(folder: pathlib.Path, *, scores: bool = False) -> Iterator[SavedModel]:
  """A model in a folder, on one device."""
  with running.maxtext_process(), one_device():
    yield SavedModel(folder, scores=scores)


def decode_json(
  model: SavedModel, capsys: pytest.CaptureFixture, *keys: str, prompt: str = PROMPT
) -> dict[str, Any]:
  """What `melodi decode --json` prints."""
  assert model.run(["decode", f"prompt={prompt}", "--json", *keys]) == 0
  return json.loads(capsys.readouterr().out)
