"""A recorded language model inside MaxText: its config, its parameters, its forward pass."""

import jax
import jax.numpy as jnp
from flax import nnx

from integration_tests.golden_files import GoldenFile
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import MELODI
from melodi_plugin.core.memory import Memory
from melodi_plugin.core.token_mixer import TokenMixer
from melodi_plugin.systems.paper.layer import PaperLayer


def overrides(config: MelodiConfig, **more) -> dict:
  """MaxText and melodi keys of a stack, in float32 and without files."""
  return {
    "run_name": "test",
    "enable_checkpointing": False,
    "skip_jax_distributed_system": True,
    "log_config": False,
    "dataset_type": "synthetic",
    "packing": False,
    "dtype": "float32",
    "decoder_block": "melodi",
    "scan_layers": False,
    "base_emb_dim": config.emb_dim,
    "base_num_query_heads": config.num_heads,
    "base_num_kv_heads": config.num_heads,
    "head_dim": config.head_dim,
    "base_mlp_dim": config.mlp_dim,
    "base_num_decoder_layers": config.num_layers,
    "melodi_window_length": config.window_length,
    "melodi_summary_tokens": config.summary_tokens,
    "melodi_short_term_tokens": config.short_term_tokens,
    "melodi_long_term_increment": config.long_term_increment,
    "melodi_long_term_windows": config.long_term_windows,
    "melodi_long_term_layers": list(config.long_term_layers),
    "melodi_short_term_layers": list(config.short_term_layers),
    "melodi_summary_branching": config.summary_branching,
    **_of_baseline(config),
    **more,
  }


def _of_baseline(config: MelodiConfig) -> dict:
  """What other systems than MELODI set differently."""
  if config.system == MELODI:
    return {}
  return {
    "decoder_block": config.system,
    "melodi_summary_tokens": 0,
    "melodi_neighbors": config.neighbors.count,
    "melodi_recurrent_layers": list(config.long_term_layers),
    "melodi_recurrent_states": max(1, config.long_term_increment),
    "melodi_recurrent_gate": config.recurrence.gate,
    "melodi_recurrent_cell": config.recurrence.cell,
    "melodi_recurrent_feedback": config.recurrence.feedback,
    "melodi_schedule": "windows" if config.recurrence.feedback else "layers",
    "melodi_reference_defects": config.reference_defects,
  }


def build(golden: GoldenFile):
  """MaxText's Transformer on one device, of the sizes of a recorded language model."""
  import melodi_plugin

  melodi_plugin.register()
  from maxtext.configs import pyconfig
  from maxtext.utils import maxtext_utils, model_creation_utils

  devices = jax.devices()[:1]
  config = pyconfig.initialize(
    [""],
    **overrides(
      golden.config,
      vocab_size=golden.meta["vocab_size"],
      max_target_length=golden.meta["segment_length"],
      per_device_batch_size=golden.meta["batch"] / len(jax.devices()),
      logits_via_embedding=True,
      normalize_embedding_logits=True,
      matmul_precision="highest",
    ),
  )
  mesh = maxtext_utils.get_mesh_from_config(config, devices)
  return model_creation_utils.from_config(config, devices=devices, mesh=mesh, rngs=nnx.Rngs(0))


def load(model: nnx.Module, golden: GoldenFile, group: str) -> None:
  """Puts recorded parameters into the model."""
  model.token_embedder.embedding[...] = jnp.asarray(golden.embedding(group))
  decoder = model.decoder
  decoder.decoder_norm.scale[...] = jnp.asarray(golden.stack(group, "final_layernorm/scale"))
  if golden.config.summary_tokens:
    decoder.summary_embeddings[...] = jnp.asarray(golden.stack(group, "summary_embeddings"))
  for index, layer in enumerate(golden.layers(group)):
    _set(getattr(decoder, f"layers_{index}"), layer)


def gradients(grads: nnx.State, golden: GoldenFile) -> dict:
  """Gradients with respect to the model's parameters, in the order of `recorded_gradients`."""
  decoder = grads["decoder"]
  return {
    "embedding": grads["token_embedder"]["embedding"][...],
    "final_norm": decoder["decoder_norm"]["scale"][...],
    "summary": decoder["summary_embeddings"][...],
    "layers": [
      _get(decoder[f"layers_{index}"], layer) for index, layer in enumerate(golden.layers("params"))
    ],
  }


def recorded_gradients(golden: GoldenFile, group: str) -> dict:
  """The recorded counterpart of `gradients`."""
  return {
    "embedding": golden[f"{group}/embed/embedding"],
    "final_norm": golden.stack(group, "final_layernorm/scale"),
    "summary": golden.stack(group, "summary_embeddings"),
    "layers": golden.layers(group),
  }


def set_memory(model: nnx.Module, memory: Memory) -> None:
  """Overwrites the memory variables of the model."""
  for field, array in memory._asdict().items():
    if array.size:
      getattr(model.decoder, f"memory_{field}")[...] = jnp.asarray(array)


def _set(module: nnx.Module, values: PaperLayer | TokenMixer) -> None:
  for name, value in values._asdict().items():
    if isinstance(value, tuple):  # the parameters of a part
      _set(getattr(module, name), value)
    elif value is not None:
      getattr(module, name)[...] = jnp.asarray(value)


def _get(state, like: PaperLayer | TokenMixer):
  def leaf(name: str, value):
    if value is None:
      return None
    return _get(state[name], value) if isinstance(value, TokenMixer) else state[name][...]

  return type(like)(**{name: leaf(name, value) for name, value in like._asdict().items()})
