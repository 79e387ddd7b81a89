"""Runs MaxText for the tests of this folder: in this process, or as a user's command."""

import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from melodi_plugin.data.place import read_place
from melodi_plugin.maxtext.steps import TrainingStep

# A model that compiles in seconds: 3 layers of which the last has a queue, so two runs of layers;
# 4 windows per segment; 8 rows on the 8 fake devices of conftest.py.
TINY = {
  "run_name": "tiny",
  "base_output_directory": "unused",
  "skip_jax_distributed_system": True,
  "log_config": False,
  "enable_checkpointing": False,
  "async_checkpointing": False,
  "dataset_type": "synthetic",
  "packing": False,
  "attention": "dot_product",
  "dtype": "float32",
  "jax_cache_dir": os.environ["JAX_COMPILATION_CACHE_DIR"],  # that of conftest.py
  "base_emb_dim": 32,
  "base_num_query_heads": 2,
  "base_num_kv_heads": 2,
  "head_dim": 16,
  "base_mlp_dim": 64,
  "base_num_decoder_layers": 3,
  "vocab_size": 64,
  "max_target_length": 64,
  "per_device_batch_size": 1,
}
MELODI = {
  "decoder_block": "melodi",
  "melodi_window_length": 16,
  "melodi_summary_tokens": 4,
  "melodi_short_term_tokens": 4,
  "melodi_long_term_increment": 2,
  "melodi_long_term_windows": 4,
  "melodi_long_term_layers": "2",
}
# The systems that MELODI is compared with, as tiny.
SYSTEMS = {
  "transformer_xl": {"decoder_block": "transformer_xl"},
  "rotary": {"decoder_block": "transformer_xl", "melodi_position": "rotary"},
  "sinks": {
    "decoder_block": "transformer_xl",
    "melodi_cache_tokens": 24,
    "melodi_sink_tokens": 4,
  },
  "dense": {
    "decoder_block": "memorizing_transformer",
    "melodi_long_term_layers": "1",
    "melodi_long_term_windows": 4,
  },
  "retrieving": {
    "decoder_block": "memorizing_transformer",
    "melodi_long_term_layers": "1",
    "melodi_long_term_windows": 4,
    "melodi_neighbors": 4,
  },
  "recurrent": {
    "decoder_block": "block_recurrent",
    "melodi_recurrent_layers": "1",
    "melodi_recurrent_states": 8,
    "melodi_recurrent_gate": "lstm",
    "melodi_recurrent_cell": "dual",
  },
  "feedback": {
    "decoder_block": "block_recurrent",
    "melodi_recurrent_layers": "1",
    "melodi_recurrent_states": 8,
    "melodi_recurrent_feedback": True,
    "melodi_schedule": "windows",
  },
}
for _system in SYSTEMS.values():
  _system["melodi_window_length"] = 16

# Halves the time to compile, which is nearly all of the time of these tests.
_FAST = "jax_disable_most_optimizations"
_CHANGED = (
  _FAST,
  "jax_default_prng_impl",
  "jax_numpy_dtype_promotion",
  "jax_remove_size_one_mesh_axis_from_type",
  "jax_use_shardy_partitioner",
)


# -- In this process -------------------------------------------------------------------------------


@contextlib.contextmanager
def maxtext_process(*, registered: bool = True) -> Iterator[None]:
  """Registers the plugin (or not), lifts strict promotion, and puts back what MaxText changes."""
  import melodi_plugin

  settings = {name: jax.config.values[name] for name in _CHANGED}
  environment = dict(os.environ)
  (melodi_plugin.register if registered else melodi_plugin.unregister)()
  jax.config.update("jax_numpy_dtype_promotion", "standard")
  jax.config.update(_FAST, True)
  try:
    yield
  finally:
    for name, value in settings.items():
      jax.config.update(name, value)
    os.environ.clear()
    os.environ.update(environment)


def initialize(*argv: str, **keys: Any):
  """MaxText's config of a tiny model; `argv` as on the command line, without the program."""
  from maxtext.configs import pyconfig

  return pyconfig.initialize(["", *argv], **(TINY | keys))


def initialize_only(*argv: str):
  """MaxText's config of a file and keys alone."""
  from maxtext.configs import pyconfig

  return pyconfig.initialize(["", *argv])


def from_yaml(path: pathlib.Path, **keys: Any):
  """MaxText's config of a YAML file, changed by `keys`."""
  from maxtext.configs import pyconfig

  return pyconfig.initialize(["", str(path)], **keys)


def melodi_config(**keys: Any):
  """MaxText's config of the tiny MELODI model."""
  return initialize(**(MELODI | keys))


def train(*argv: str) -> None:
  """MaxText's trainer with the plugin, in this process."""
  with maxtext_process():
    from maxtext.trainers.pre_train import train as trainer

    trainer.main(["", *argv])


class Trainer(TrainingStep):
  """MaxText's training step on devices of our choice, and what it has made of the state."""

  def step(self) -> dict[str, float]:
    """Trains on the next batch; returns MaxText's metrics of it."""
    metrics = self.train_on(self.loader.load_next_batch())
    return {name: float(value) for name, value in metrics.items()}

  def memory(self) -> dict[str, jax.Array]:
    """The memory variables."""
    decoder = self.state.model.decoder
    names = (f"memory_{field}" for field in ("short", "long", "windows"))
    return {name: decoder[name][...] for name in names if name in decoder}

  def params(self) -> dict[str, jax.Array]:
    """The parameters, by path."""
    from flax import nnx

    flat = nnx.to_flat_state(self.state.model.filter(nnx.Param))
    return {"/".join(map(str, path)): leaf[...] for path, leaf in flat}


# -- As a command ----------------------------------------------------------------------------------


def write_yaml(path: pathlib.Path, **keys: Any) -> pathlib.Path:
  """A config file as users write it, on top of MaxText's base.yml."""
  lines = [f"{key}: {json.dumps(value)}\n" for key, value in keys.items()]
  path.write_text("base_config: base.yml\n" + "".join(lines))
  return path


def environment(**more: str) -> dict[str, str]:
  """Of a user's shell: CPU, one device, no key of MaxText; compiled programs are shared."""
  own = re.compile(r"M_|MAXTEXT_|XLA_FLAGS$|LIBTPU|PYTEST|TFDS")
  clean = {name: value for name, value in os.environ.items() if not own.match(name)}
  fast = {_FAST.upper(): "1", "XLA_FLAGS": "--xla_cpu_opt_preset=FAST_COMPILE"}
  return clean | {"JAX_PLATFORMS": "cpu"} | fast | more


def start(*arguments: str, cwd: pathlib.Path, **env: str) -> subprocess.Popen[str]:
  """Starts `python arguments...`; what it prints goes to cwd/log.txt."""
  with open(cwd / "log.txt", "w", encoding="utf-8") as log:
    return subprocess.Popen(
      [sys.executable, *arguments],
      cwd=cwd,
      env=environment(**env),
      stdout=log,
      stderr=subprocess.STDOUT,
      text=True,
    )


def command(*arguments: str, cwd: pathlib.Path, **env: str) -> tuple[int, str]:
  """Runs `python arguments...`; returns the exit code and what it printed."""
  process = start(*arguments, cwd=cwd, **env)
  try:
    code = process.wait(timeout=600)
  finally:
    process.kill()
  return code, (cwd / "log.txt").read_text()


# -- What a run leaves -----------------------------------------------------------------------------


def metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a `metrics_file`, one per training step."""
  lines = map(json.loads, path.read_text().splitlines())
  return [line for line in lines if "learning/loss" in line]


def checkpoint(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of one checkpoint (.../checkpoints/<step>) by its path."""
  import orbax.checkpoint as ocp

  reader = ocp.PyTreeCheckpointer()
  tree = reader.metadata(folder / "items").item_metadata.tree
  numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  leaves = jax.tree.leaves_with_path(reader.restore(folder / "items", restore_args=numpy))
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def iterator_state(folder: pathlib.Path) -> dict[str, Any]:
  """Where the loaders of all processes were at one checkpoint."""
  place = read_place(epath.Path(folder / "iter"))
  assert place is not None
  return place


# -- Documents -------------------------------------------------------------------------------------


def write_documents(folder: pathlib.Path, lengths: list[int]) -> pathlib.Path:
  """Text files of about so many characters, of random words over a small alphabet."""
  folder.mkdir()
  for index, length in enumerate(lengths):
    chance = random.Random(index)
    text = "".join(chance.choice("abcdefghij ") for _ in range(length))
    (folder / f"{index:02}.txt").write_text(text)
  return folder


def documents_config(folder: pathlib.Path, lengths: list[int]) -> dict[str, Any]:
  """Writes documents and a tokenizer into `folder`; returns the keys that read them."""
  return {
    "dataset_type": "grain",
    "grain_train_files": str(write_documents(folder / "documents", lengths)),
    "grain_worker_count": 0,
    "tokenizer_path": str(write_tokenizer(folder / "tokenizer.model")),
    "tokenizer_type": "sentencepiece",
  }


def write_tokenizer(path: pathlib.Path) -> pathlib.Path:
  """A SentencePiece model with one token per character."""
  import sentencepiece

  with open(path, "wb") as model:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["abcdefghij " * 3] * 20),
      model_writer=model,
      vocab_size=15,
      model_type="char",
      add_dummy_prefix=False,
      minloglevel=2,
    )
  return path
