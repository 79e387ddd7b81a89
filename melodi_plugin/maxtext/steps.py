"""One step of a model on this machine: it trains on a batch, or reads one and scores it.

Letters: B rows, T segment tokens.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen import logical_axis_rules
from jax.sharding import NamedSharding, PartitionSpec
from maxtext.layers.nnx_decoders import NNXDecoder

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.core.schedules.walk import Wrap
from melodi_plugin.maxtext.loading import Loaded, batch_sharding, fresh, with_rows
from melodi_plugin.maxtext.pipeline import tokens_per_batch
from melodi_plugin.maxtext.refusals.remat import POLICIES

Scores = tuple[jax.Array, jax.Array]  # nats (B, T), and hits (B, T), of the targets
_FIELDS = ("inputs", "inputs_position", "inputs_segmentation", "targets", "targets_segmentation")


def remat_named(name: str) -> Wrap:
  """What one of MaxText's remat policies wraps around every cell of scanned layers.

  Raises:
    ValueError: if MaxText has none of this name, or one that needs more keys.
  """
  if name == "none":
    return lambda function: function
  # All that MaxText asks a decoder for; the names of a policy do not depend on it.
  decoder: Any = SimpleNamespace(config=SimpleNamespace(remat_policy=name, scan_layers=True))
  decoder.minimal_policy = functools.partial(NNXDecoder.minimal_policy, decoder)
  try:
    policy = NNXDecoder.get_remat_policy(decoder)
  except (AssertionError, AttributeError):
    raise ValueError(
      f"{name} is no remat policy of MaxText that stands alone; take {', '.join(POLICIES)}."
    ) from None
  return functools.partial(jax.checkpoint, policy=policy, prevent_cse=False)


# -- Training --------------------------------------------------------------------------------------


class TrainingStep:
  """MaxText's training step of a config, a batch at a time, outside of its loop.

  Attributes:
    config: MaxText's.
    mesh: the devices.
    graphdef, state: model and optimizer, split as `nnx.split` does.
    shardings: of the state.
    loader: gives batches.
    eval_iterator: gives those of evaluation in training; None if there is none.
  """

  def __init__(self, config: Any, devices: Sequence[jax.Device] | None = None):
    # After registration, and seconds later than the rest of MaxText.
    from maxtext.trainers.pre_train import train as trainer
    from maxtext.utils import sharding, train_utils

    self.config = config
    parts = train_utils.setup_train_loop(config, None, devices)
    _, _, shardings, _, self.mesh, _, _, self.loader, _, self.eval_iterator, train_state = parts
    self.graphdef, self.state = nnx.split(train_state)
    params, self.shardings = sharding.maybe_update_params_sharding_with_opt(config, shardings)
    self._step: Any = train_utils.jit_train_and_eval_step(
      config,
      self.graphdef,
      self.mesh,
      self.state,
      self.shardings,
      trainer.train_step,
      params_shardings=params,
    )[0]

  def compile(self, batch: Any) -> jax.stages.Compiled:
    """Compiles for batches of this shape alone, which is used from then on."""
    with _rules(self.config, self.mesh):
      self._step = self._step.lower(self.state, batch).compile()
    return self._step

  def train_on(self, batch: Any) -> dict[str, jax.Array]:
    """Trains on a batch; returns MaxText's metrics of it, perhaps before they are computed."""
    with _rules(self.config, self.mesh):
      self.state, metrics = self._step(self.state, batch)
    return metrics["scalar"]


@contextlib.contextmanager
def _rules(config: Any, mesh: jax.sharding.Mesh) -> Iterator[None]:
  """The surroundings in which MaxText's functions are compiled and called."""
  with jax.set_mesh(mesh), logical_axis_rules(config.logical_axis_rules):
    yield


# -- Reading ---------------------------------------------------------------------------------------


def read_batch(
  graphdef: Any, params: Any, memory: Any, rest: Any, batch: dict[str, jax.Array]
) -> tuple[Scores, Any]:
  """The scores of one batch, and the memory after it.

  Where there is no target, the values mean nothing.
  """
  model = nnx.merge(graphdef, params, memory, rest, copy=True)
  text = (batch["inputs"], batch["inputs_position"], batch["inputs_segmentation"])
  return _scores(_logits(model, *text), batch["targets"]), nnx.state(model, nnx.BatchStat)


def read_chunk(
  graphdef: Any, params: Any, before: jax.Array | None, rest: Any, batch: dict[str, jax.Array]
) -> tuple[Scores, jax.Array | None]:
  """As `read_batch` for a stock decoder, in whose batches every document begins a row.

  Args:
    before: the inputs of the batch before, read again where a document goes on; or None.

  Returns:
    What `read_batch` does, with `before` of the next batch in the place of memory.
  """
  tokens, ids = batch["inputs"], batch["inputs_segmentation"]
  goes_on = batch["inputs_position"][:, :1] > 0
  context = 0
  if before is not None:
    context = before.shape[1]
    ids = jnp.concatenate([jnp.broadcast_to(goes_on, before.shape).astype(ids.dtype), ids], axis=1)
    tokens = jnp.concatenate([before, tokens], axis=1)
  first = jnp.where(goes_on, 0, context)
  positions = jnp.maximum(jnp.arange(tokens.shape[1], dtype=tokens.dtype) - first, 0)
  model = nnx.merge(graphdef, params, nnx.State({}), rest, copy=True)
  logits = _logits(model, tokens, positions, ids)[:, context:]
  return _scores(logits, batch["targets"]), None if before is None else batch["inputs"]


def _logits(model: Any, tokens: jax.Array, positions: jax.Array, ids: jax.Array) -> jax.Array:
  logits = model(tokens, positions, decoder_segment_ids=ids, enable_dropout=False)
  return logits.astype(jnp.float32)


def _scores(logits: jax.Array, targets: jax.Array) -> Scores:
  target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - target, logits.argmax(-1) == targets


class Reader:
  """A model that reads batches, with memory carried from one to the next; compiled once.

  Attributes:
    config: MaxText's.
    mesh: the devices.
    params: the parameters; others of the same model may take their place.
    rows: B of every batch.
    segment: tokens of a row that a batch adds: T, or half of it if the others are read again.
  """

  def __init__(self, config: Any, mesh: jax.sharding.Mesh, loaded: Loaded):
    """Compiles nothing yet; `config` has the rows that are to be read (`with_rows`)."""
    self.config, self.mesh = config, mesh
    self.rows, self.segment = config.global_batch_size_to_train_on, tokens_per_batch(config)
    graphdef, self.params, memory, self._rest = loaded
    self._placement = batch_sharding(config, mesh)
    read: Any = read_batch
    if not is_melodi(config):
      read, again = read_chunk, self.segment < config.max_target_length
      memory = jnp.zeros((self.rows, self.segment), jnp.int32) if again else None
      memory = jax.device_put(memory, self._placement)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, memory)
    self._empty = jax.device_put(jax.tree.map(jnp.zeros_like, memory), shardings)
    # Memory is placed alike before and after a batch, so that the second batch does not compile
    # again; the scores of a row come back to the process that reads the row.
    by_row = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    # Stock layers hold lists, so their graphdef cannot be hashed as a static argument.
    self._step = jax.jit(
      functools.partial(read, graphdef), donate_argnums=1, out_shardings=(by_row, shardings)
    )

  @classmethod
  def fresh(cls, config: Any) -> "Reader":
    """A model with parameters as the trainer makes them, and a row per device."""
    loaded, mesh = fresh(config)
    return cls(with_rows(config, jax.device_count()), mesh, loaded)

  def empty(self) -> Any:
    """What rows remember that have read nothing; `read` uses it up."""
    return jax.tree.map(jnp.copy, self._empty)

  def read(self, memory: Any, batch: Any) -> tuple[Scores, Any]:
    """Scores of a batch, perhaps before they are computed, and the memory after it."""
    with _rules(self.config, self.mesh):
      on_device = jax.device_put({name: batch[name] for name in _FIELDS}, self._placement)
      return self._step(self.params, memory, self._rest, on_device)
