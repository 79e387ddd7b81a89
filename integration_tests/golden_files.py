"""Reads recorded outputs of the official implementation into our containers.

Every array of a file must be claimed: `GoldenFile` counts what was read, and `unread` tells what
was not.  See integration_tests/golden/README.md.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.memory import Memory
from melodi_plugin.core.token_mixer import TokenMixer
from melodi_plugin.systems.paper.layer import PaperLayer

HERE = pathlib.Path(__file__).parent / "golden"

LAYER_NAMES = {
  "attention_norm": "tbase/pre_attn_layernorm/scale",
  "query": "tbase/_kvq/queries_layer/kernel",
  "key": "tbase/_kvq/keys_layer/kernel",
  "value": "tbase/_kvq/values_layer/kernel",
  "out": "tbase/post_attn_mlp/output_layer/kernel",
  "temperature": "tbase/_kvq/attention_scale",
  "position_bias": "relative_positions/rel_embedding",
  "ffn_norm": "tbase/pre_ffn_layernorm/scale",
  "ffn_in": "tbase/ffn/mlp_layer/input_layer/kernel",
  "ffn_in_bias": "tbase/ffn/mlp_layer/input_layer/bias",
  "ffn_out": "tbase/ffn/mlp_layer/output_layer/kernel",
  "ffn_out_bias": "tbase/ffn/mlp_layer/output_layer/bias",
}
MIXER_NAMES = {
  "summary_mixer": "token_mixing_summary",
  "short_mixer": "token_mixing_short",
  "long_mixer": "long_mem_token_mixing",
}


def files() -> list[pathlib.Path]:
  """The recorded files: the project's copies, or those of the folder MELODI_GOLDEN_DIR."""
  folder = pathlib.Path(os.environ.get("MELODI_GOLDEN_DIR", HERE))
  found = sorted(folder.glob("*.npz"))
  if not found:
    raise FileNotFoundError(f"MELODI_GOLDEN_DIR={folder} holds no .npz file.")
  return found


class GoldenFile:
  """One recorded file, and which of its arrays have been read."""

  def __init__(self, path: pathlib.Path):
    with np.load(path) as arrays:
      self.arrays = dict(arrays)
    self.meta = json.loads(str(self.arrays.pop("meta"))) if "meta" in self.arrays else {}
    self.language_model = bool(self.meta.get("language_model"))
    self.read: set[str] = set()

  def __contains__(self, name: str) -> bool:
    return name in self.arrays

  def __getitem__(self, name: str) -> np.ndarray:
    self.read.add(name)
    return self.arrays[name]

  def get(self, name: str, default: np.ndarray | None = None) -> np.ndarray | None:
    """An array that not every file has."""
    return self[name] if name in self.arrays else default

  def unread(self) -> list[str]:
    """Arrays that nobody asked for, but for zero-size ones, which hold nothing."""
    left = set(self.arrays) - self.read
    return sorted(name for name in left if self.arrays[name].size)

  @property
  def config(self) -> MelodiConfig:
    """The stack that the file was recorded with."""
    meta = self.meta
    layers = range(meta["num_layers"])
    return MelodiConfig(
      num_layers=meta["num_layers"],
      emb_dim=meta["emb_dim"],
      num_heads=meta["num_heads"],
      head_dim=meta["head_dim"],
      mlp_dim=meta["mlp_dim"],
      window_length=meta["window_length"],
      summary_tokens=meta["summary_tokens"],
      short_term_tokens=meta["short_term_tokens"],
      long_term_increment=meta["long_term_increment"],
      long_term_windows=meta["long_term_tokens"] // max(1, meta["long_term_increment"]),
      long_term_layers=tuple(meta["long_term_layers"]),
      short_term_layers=tuple(layers) if meta["short_term_tokens"] else (),
      summary_branching=meta["summary_branching"],
      position=meta["position"],
    )

  def stack(self, group: str, name: str) -> np.ndarray:
    """An array of the layer stack: 'params', 'grad2_params', ... (f and g nest it)."""
    nested = "layer_stack/" if self.language_model else ""
    return self[f"{group}/{nested}{name}"]

  def layers(self, group: str = "params") -> list[PaperLayer]:
    """Parameters, or gradients, of every layer."""
    config = self.config
    return [self._layer(group, index, config) for index in range(config.num_layers)]

  def _layer(self, group: str, index: int, config: MelodiConfig) -> PaperLayer:
    spec, prefix = config.layer(index), f"melodi_layers_{index}/melodi_layer/"

    def read(name: str) -> np.ndarray:
      return self.stack(group, prefix + name)

    def mixer(name: str, normed: bool) -> TokenMixer:
      norms = [read(f"{name}/layernorm{i}/scale") for i in (1, 2)] if normed else [None, None]
      return TokenMixer(read(f"{name}/lin_mix/kernel"), read(f"{name}/lin_mix/bias"), *norms)

    def when(exists: object, make: Callable, *args) -> object:
      return make(*args) if exists else None

    return PaperLayer(
      **{field: read(name) for field, name in LAYER_NAMES.items()},
      gate=when(spec.increment, read, "attn_gate"),
      summary_mixer=when(spec.mixes_summary, mixer, MIXER_NAMES["summary_mixer"], True),
      short_mixer=when(spec.mixes_short, mixer, MIXER_NAMES["short_mixer"], spec.residual_short),
      long_mixer=when(spec.increment, mixer, MIXER_NAMES["long_mixer"], False),
    )

  def memory(self, group: str, mode: str = "test") -> Memory:
    """Memory variables of a group such as 'state1'; the reference does not count windows."""
    config, nested = self.config, "layer_stack/" if self.language_model else ""

    def variables(kind: str, wanted: list[bool], tokens: int) -> np.ndarray:
      own = [
        self[f"{group}/{nested}melodi_layers_{i}/{kind}/previous_mems_{mode}"]
        for i, want in enumerate(wanted)
        if want
      ]
      batch, width = self.meta["batch"], config.emb_dim
      return np.stack(own) if own else np.zeros((0, batch, tokens, width), np.float32)

    return Memory(
      variables(
        "short_memory", [s.short_tokens > 0 for s in config.layers], config.short_term_tokens
      ),
      variables("long_memory", [s.increment > 0 for s in config.layers], config.queue_tokens),
      np.zeros(self.meta["batch"], np.int32),
    )

  def embedding(self, group: str) -> np.ndarray:
    """The tied table of a language model."""
    return self[f"{group}/embed/embedding"]

  def streams(self, segment: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Recorded outputs of layers: layer, 0 for the context and 1 for the summary, stream."""
    for index in range(self.meta["num_layers"]):
      name = f"inter{segment}/melodi_layers_{index}"
      if f"{name}/xs" in self:
        yield index, 0, self[f"{name}/xs"]
        yield index, 1, self[f"{name}/us"]

  def positions(self, segment: int) -> np.ndarray:
    """Positions (B, T) of a segment (1, 2, ...): 0 at its start where the file says so."""
    starts = np.asarray(self["start_of_sequence"][segment - 1], bool)
    length = self.meta["segment_length"]
    return np.arange(length, dtype=np.int32)[None] + np.where(starts, 0, length)[:, None]
