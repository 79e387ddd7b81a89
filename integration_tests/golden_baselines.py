"""Recorded outputs of the systems that MELODI is compared with, in our containers.

`open_golden` chooses the reader by the file's system.  The names are those of the official code.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from integration_tests.golden_files import GoldenFile, files
from melodi_plugin.config.layers import Neighbors, Recurrence
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT, MELODI, MEMORIZING
from melodi_plugin.core.memory import Memory
from melodi_plugin.systems.paper.layer import PaperLayer
from melodi_plugin.systems.recurrent.reader import RecurrentLayer
from melodi_plugin.systems.recurrent.states import Gate, StateLayer

TOKENS_NAMES = {
  "query": "_kvq/queries_layer/kernel",
  "key": "_kvq/keys_layer/kernel",
  "value": "_kvq/values_layer/kernel",
  "out": "post_attn_mlp/output_layer/kernel",
  "temperature": "_kvq/attention_scale",
  "ffn_norm": "pre_ffn_layernorm/scale",
}
STATE_NAMES = {
  "attention_norm": "_kvq/pre_attn_layernorm/scale",
  "positions": "_kvq/position_embeddings",
  "query": "_kvq/queries_layer/kernel",
  "key": "_kvq/keys_layer/kernel",
  "value": "_kvq/values_layer/kernel",
  "cross": "_kvq/queries2_layer/kernel",
  "temperature": "_kvq/attention_scale",
  "cross_temperature": "attention_scale2",
}


def open_golden(path: pathlib.Path) -> GoldenFile:
  """A recorded file, with the reader of its system."""
  golden = GoldenFile(path)
  return golden if golden.meta.get("system", MELODI) == MELODI else BaselineFile(path)


def recorded(*, language_model: bool, training: bool = False):
  """The files of one kind, as pytest parameters."""
  params = []
  for path in files():
    golden = open_golden(path)
    if "system" not in golden.meta or golden.language_model != language_model:
      continue
    if ("optimizer" in golden.meta) == training:
      params.append(pytest.param(path, id=path.stem))
  return params


class BaselineFile(GoldenFile):
  """A recorded file of Transformer-XL, Memorizing or Block-Recurrent Transformer."""

  def __init__(self, path: pathlib.Path):
    super().__init__(path)
    self.language_model = "tokens" in self.arrays  # the meta does not say so

  @property
  def dense(self) -> bool:
    """Whether the Memorizing Transformer has a layer of its own, the 'side layer'."""
    return self.meta.get("memory") == "dense"

  @property
  def layer_names(self) -> list[str]:
    """The reference's name of every layer, from the bottom up."""
    names = [f"transformer{i}" for i in range(self.meta["num_layers"])]
    if self.dense:
      names.insert(self.meta["side_layer_after"] + 1, "side_layer")
    return names

  @property
  def config(self) -> MelodiConfig:
    """The stack that the file was recorded with."""
    meta, memory_layers = self.meta, ()
    if meta["system"] == MEMORIZING:
      memory_layers = (meta["side_layer_after"] + 1,) if self.dense else (meta["memory_layer"],)
    if meta["system"] == BLOCK_RECURRENT:
      memory_layers = (meta["recurrent_layer"],)
    return MelodiConfig.baseline(
      meta["system"],
      num_layers=len(self.layer_names),
      window_length=meta["window_length"],
      memory_layers=memory_layers,
      queue_windows=meta.get("memory_tokens", 0) // meta["window_length"],
      states=meta.get("states", 0),
      neighbors=Neighbors(meta.get("neighbors", 0)),
      recurrence=Recurrence(
        meta.get("cell", "bias"), meta.get("gate", "skip"), meta.get("feedback", False)
      ),
      reference_defects=True,
      emb_dim=meta["emb_dim"],
      num_heads=meta["num_heads"],
      head_dim=meta["head_dim"],
      mlp_dim=meta["mlp_dim"],
      position=meta["position"],
    )

  def stack(self, group: str, name: str) -> np.ndarray:
    """See `GoldenFile.stack`; nothing is nested here."""
    return self[f"{group}/{name}"]

  # -- Parameters ----------------------------------------------------------------------------------

  def layers(self, group: str = "params") -> list:
    """Parameters, or gradients, of every layer."""
    config = self.config
    layers = []
    for index, name in enumerate(self.layer_names):
      layer, prefix = self._tokens(f"{group}/{name}/"), f"{group}/{name}/"
      if (bias := self.get(f"{prefix}external_memory_bias")) is not None:
        # The reference's gate is the share of what is retrieved, ours that of the layer's own.
        layer = layer._replace(gate=-bias[:, None])
      if f"{prefix}tbase/_kvq/queries2_layer/kernel" in self:
        layer = RecurrentLayer(
          layer,
          self[f"{prefix}tbase/_kvq/queries2_layer/kernel"],
          self[f"{prefix}tbase/attention_scale2"],
          self._states(prefix) if config.layer(index).increment else None,
        )
      layers.append(layer)
    return layers

  def _tokens(self, prefix: str) -> PaperLayer:
    ffn = f"{prefix}tbase/ffn/"
    leaves = {field: self[f"{prefix}tbase/{name}"] for field, name in TOKENS_NAMES.items()}
    return PaperLayer(
      **leaves,
      attention_norm=self._first(
        f"{prefix}tbase/pre_attn_layernorm/scale", f"{prefix}tbase/_kvq/pre_attn_layernorm/scale"
      ),
      position_bias=self.get(f"{prefix}relative_positions/rel_embedding"),
      ffn_in=self._first(f"{ffn}hidden0/kernel", f"{ffn}mlp_layer/input_layer/kernel"),
      ffn_in_bias=self.get(f"{ffn}mlp_layer/input_layer/bias"),
      ffn_out=self._first(f"{ffn}output_layer/kernel", f"{ffn}mlp_layer/output_layer/kernel"),
      ffn_out_bias=self.get(f"{ffn}mlp_layer/output_layer/bias"),
    )

  def _states(self, prefix: str) -> StateLayer:
    half = f"{prefix}recurrent_tbase/"
    leaves = {field: self[half + name] for field, name in STATE_NAMES.items()}
    return StateLayer(
      **leaves,
      initial=self[f"{prefix}recurrent_initial_state"],
      out=self.get(f"{half}post_attn_mlp/output_layer/kernel"),
      attention_gate=self._gate(f"{half}post_attn_mlp/"),
      ffn_norm=self.get(f"{half}pre_ffn_layernorm/scale"),
      ffn_in=self.get(f"{half}ffn/hidden0/kernel"),
      ffn_out=self.get(f"{half}ffn/output_layer/kernel"),
      ffn_gate=self._gate(f"{half}ffn/"),
    )

  def _gate(self, prefix: str) -> Gate | None:
    gate = Gate(
      self.get(f"{prefix}gate_bias"),
      self.get(f"{prefix}forget_gate/kernel"),
      self.get(f"{prefix}forget_gate/bias"),
      self.get(f"{prefix}input_gate/kernel"),
      self.get(f"{prefix}input_gate/bias"),
    )
    return None if all(leaf is None for leaf in gate) else gate

  def _first(self, *names: str) -> np.ndarray:
    return self[next(name for name in names if name in self)]

  # -- Memory --------------------------------------------------------------------------------------

  def memory(self, group: str, mode: str = "test") -> Memory:
    """Memory variables of a group such as 'state1', oldest pair of a queue first."""
    short, long = [], []
    for name, spec in zip(self.layer_names, self.config.layers, strict=True):
      cache = self._cache(group, name, mode)
      if spec.short_tokens:
        short.append(cache)
      if spec.increment:
        long.append(self._long(group, name, mode))
    number = int(group.removeprefix("state")) if group.removeprefix("state").isdigit() else 0
    windows = np.array([self.windows_held(number, row) for row in range(self.meta["batch"])])
    width = self.config.long_width
    empty = np.zeros((0, self.meta["batch"], self.config.queue_tokens, width), np.float32)
    return Memory(np.stack(short), np.stack(long) if long else empty, windows.astype(np.int32))

  def windows_held(self, segments: int, row: int) -> int:
    """Windows of its document that a row has read after so many segments."""
    starts = [s for s in range(segments) if self["start_of_sequence"][s][row]]
    windows = self.meta["segment_length"] // self.meta["window_length"]
    return (segments - starts[-1]) * windows if starts else 0

  def _cache(self, group: str, name: str, mode: str) -> np.ndarray:
    for prefix in (f"{group}/{name}/kvi_cache/", f"{group}_state/{name}/"):
      if f"{prefix}previous_keys_{mode}" in self:
        return pairs(self[f"{prefix}previous_keys_{mode}"], self[f"{prefix}previous_values_{mode}"])
    raise KeyError(f"{group} has no cache of {name}")

  def _long(self, group: str, name: str, mode: str) -> np.ndarray:
    if self.meta["system"] == BLOCK_RECURRENT:
      return self[f"{group}_state/{name}/recurrent_state_{mode}"]
    if self.dense:
      prefix = f"{group}/{name}/recurrent_memory/"
      stored = pairs(self[f"{prefix}memory_keys_{mode}"], self[f"{prefix}memory_values_{mode}"])
      # The reference writes in a circle.  Gradients are those of the memory before the segment.
      number = int(group[4]) - 1 if group.startswith("grad") else int(group.removeprefix("state"))
      index = self[f"state{number}/{name}/recurrent_memory/write_index_test"]
      self.get(f"{prefix}write_index_{mode}")
      return np.roll(stored, -int(index), axis=1)
    prefix = f"{group}_database/{name}/mem_layer_{mode}/wrapped/"
    if f"{prefix}database_index" not in self:  # before the first segment
      return np.zeros((self.meta["batch"], self.config.queue_tokens, self.config.long_width), "f4")
    index, heads = self[f"{prefix}database_index"], self.meta["num_heads"]
    rolled = [
      np.stack(
        [np.roll(row, -at, axis=0) for row, at in zip(self[prefix + kind], index, strict=True)]
      )
      for kind in ("key_db", "value_db")
    ]
    by_row = [a.reshape(-1, heads, *a.shape[1:]).swapaxes(1, 2) for a in rolled]
    return pairs(*by_row)

  def streams(self, segment: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """See `GoldenFile.streams`; there are no summary tokens."""
    below = None
    for index, name in enumerate(self.layer_names):
      stream = self.get(f"inter{segment}/{name}/xs")
      if stream is None:
        continue
      if name == "side_layer":  # recorded before it is added to its own input
        stream = stream + below
      yield index, 0, stream
      below = stream


def pairs(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Keys and values (B, t, N, H) as one entry (2 N H), head by head."""
  both = np.concatenate([keys, values], axis=-1)
  return both.reshape(*both.shape[:2], -1)
