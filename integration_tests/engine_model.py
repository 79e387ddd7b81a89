"""Tiny models in MaxText's engine, as it is, beside the same models in training."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from integration_tests import running, stock_model

SLOTS, CHUNK, WINDOW, SEGMENT = 4, 24, 16, 64
KEYS = {
  "max_prefill_predict_length": CHUNK,
  "use_chunked_prefill": True,
  "prefill_chunk_size": CHUNK,
  "enable_dropout": False,
  "dropout_rate": 0.0,
  "matmul_precision": "highest",
}
CACHED = {"melodi_cache_tokens": WINDOW + 3, "melodi_sink_tokens": 2}
CACHED |= {"melodi_long_term_pairs": True}


def keys_of(case: str) -> dict[str, Any]:
  """The keys of a tiny model: a system or a base block, perhaps `unscanned` or `cached`."""
  name, _, how = case.partition(" ")
  keys = KEYS | {"scan_layers": how != "unscanned", "max_target_length": SEGMENT}
  keys |= CACHED if how == "cached" else {}
  if name in stock_model.BLOCKS:
    return stock_model.keys(name, **keys)
  own = running.MELODI if name == "melodi" else running.SYSTEMS[name]
  return running.TINY | own | keys


def config_of(case: str, rows: int, devices: int = 1, **more: Any) -> Any:
  """Its config for so many rows on so many of conftest's devices."""
  from maxtext.configs import pyconfig

  config = running.initialize(**(keys_of(case) | more))
  names = ("micro_batch_size_to_train_on", "global_batch_size_to_train_on")
  changed = dict.fromkeys(names, rows) | {"per_device_batch_size": rows / devices}
  return pyconfig.HyperParameters(config._pydantic_config.model_copy(update=changed))


def new_model(case: str, **more: Any) -> nnx.Module:
  """Its model in training, of one row, with random parameters so that memory speaks."""
  model, chance = stock_model.build(config_of(case, 1, **more)), np.random.default_rng(3)
  stock_model.randomize(model)
  for name, param in stock_model.params_of(model).items():
    if name.rpartition("/")[2] in ("offset", "gate"):
      param[...] = jnp.asarray(3 * chance.normal(size=param.shape), param.dtype)
  return model


class Text:
  """What a slot has been given and has said, with the logits behind every token."""

  def __init__(self, prompt: np.ndarray):
    self.tokens = [int(token) for token in prompt]
    self.first = len(prompt)
    self.logits: list[np.ndarray] = []

  def say(self, token: Any, logits: Any) -> None:
    """Adds the next token, and the logits that it comes from."""
    self.tokens.append(int(token))
    self.logits.append(np.array(logits))


@dataclasses.dataclass
class Served:
  """An engine, the parameters in it, and the same model in training."""

  model: nnx.Module
  engine: Any
  params: Any

  def prefill(self, prompt: np.ndarray) -> dict[str, Any]:
    """Stock prefill, chunk by chunk; what was read before has no tokens, so no shape changes."""
    from maxtext.inference.maxengine.maxengine import ExistingPrefix

    known, prefix = None, {}
    for start in range(0, len(prompt), CHUNK):
      chunk = prompt[start : start + CHUNK]
      prefix, _ = self.engine.prefill(
        params=self.params,
        existing_prefix=known,
        padded_tokens=jnp.asarray(np.pad(chunk, (0, CHUNK - len(chunk)))),
        true_length=len(chunk),
      )
      known = ExistingPrefix(prefix["cache"], jnp.zeros((0,), jnp.int32))
    prefix["next_pos"] = jnp.full((1, 1), len(prompt), jnp.int32)
    return prefix

  def insert(self, prompt: np.ndarray, state: Any, slot: int) -> tuple[Any, Text]:
    """Reads a prompt into a slot."""
    prefix, text = self.prefill(prompt), Text(prompt)
    text.say(prefix["tokens"][0, 0], prefix["logits"][0, 0])
    return self.engine.insert(prefix, state, slot), text

  def generate(self, state: Any, texts: dict[int, Text], steps: int) -> Any:
    """Continues the texts of slots; returns the state of all slots."""
    for _ in range(steps):
      state, result = self.engine.generate(self.params, state)
      tokens, logits = jax.device_get((result.data[:, 0], state["logits"][:, 0]))
      for slot, text in texts.items():
        text.say(tokens[slot], logits[slot])
    return state

  @functools.cached_property
  def _read(self):
    return stock_model.reader(self.model)

  def logits(self, text: Text, *, remembers: bool = True) -> np.ndarray:
    """Logits of the model in training behind every token of a text but the last, teacher forced."""
    tokens = np.asarray(text.tokens[:-1], np.int32)
    padded = np.pad(tokens, (0, -len(tokens) % SEGMENT))[None]
    start = state = nnx.state(self.model)
    found = []
    for first in range(0, padded.shape[1], SEGMENT):
      positions = jnp.arange(first, first + SEGMENT, dtype=jnp.int32)[None]
      segment = padded[:, first : first + SEGMENT], positions, jnp.ones_like(positions)
      logits, state = self._read(state if remembers else start, *map(jnp.asarray, segment))
      found.append(np.asarray(logits[0]))
    return np.concatenate(found)[text.first - 1 : len(tokens)]


def serve(model: nnx.Module, config: Any, devices: list[jax.Device]) -> Served:
  """The parameters of a model in an engine."""
  from maxtext.inference.maxengine.maxengine import MaxEngine

  engine = MaxEngine(config, devices=devices)
  return Served(model, engine, engine.load_params(params=nnx.state(model, nnx.Param)))


def prompt_of(length: int, seed: int = 0) -> np.ndarray:
  """Random tokens."""
  return np.random.default_rng(seed).integers(0, 64, length, np.int32)


def rows_of(state: Any) -> dict[str, np.ndarray]:
  """What an engine keeps of rows, by name, slots in front."""
  rows = state["cache"]["decoder"]["rows"]
  arrays = {name: np.array(leaf["recurrent_state"]) for name, leaf in rows.items()}
  return {name: leaf if leaf.ndim == 1 else leaf.swapaxes(0, 1) for name, leaf in arrays.items()}


def noise_in_idle_slots(state: Any) -> Any:
  """Rows of other texts that nobody reads: nothing may come from them, and nothing go into them."""
  chance = np.random.default_rng(1)

  def draw(leaf: jax.Array) -> jax.Array:
    noise = (
      chance.integers(0, 2, leaf.shape) if leaf.dtype == bool else chance.normal(size=leaf.shape)
    )
    return jnp.asarray(noise, leaf.dtype)

  cache = jax.tree.map(draw, state["cache"])
  active = cache["decoder"]["rows"]["active"]
  active["recurrent_state"] = jnp.zeros_like(active["recurrent_state"])
  return state | {"cache": cache}


def assert_text_of_evaluate(own: Served, text: Text) -> None:
  expected, found = own.logits(text), np.stack(text.logits)
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
  assert text.tokens[text.first :] == expected.argmax(-1).tolist()
