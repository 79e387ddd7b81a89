"""Seconds to trace, compile and run, and memory, against the number of windows.

One training step of the stack alone (forward and backward of sum(y * R), no MaxText), at the sizes
at which the official implementation was measured: 12 layers of width 256, windows of 128 tokens,
batch 2, float32, one long-term layer, 9,606,200 parameters.
"""

import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.schedules.segment import read_segment
from melodi_plugin.core.stack import Section
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.table import empty_memory, make_cell

CONFIG = MelodiConfig(
  num_layers=12,
  emb_dim=256,
  num_heads=4,
  head_dim=64,
  mlp_dim=1024,
  window_length=128,
  summary_tokens=32,
  short_term_tokens=32,
  long_term_increment=8,
  long_term_windows=16,
  long_term_layers=(6,),
  short_term_layers=tuple(range(12)),
)
BATCH = 2


def stack_params(config: MelodiConfig) -> list:
  """Random parameters of every run, layers first."""
  runs = []
  with nnx.use_eager_sharding(False):
    for run in config.runs():
      make = functools.partial(PaperLayerParams, config, run.spec, dtype=jnp.float32)
      layers = [make(rngs=nnx.Rngs(run.first + i)).parameters() for i in range(run.length)]
      runs.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))
  return runs


def make_step(config: MelodiConfig, schedule: str):
  """The jitted step: (params, summary, x, weights, memory, positions) -> loss, memory, grads."""

  def loss(params, summary, x, weights, memory, positions):
    ids = jnp.ones_like(positions)
    sections = [
      Section(run, make_cell(config, run.spec), own)
      for run, own in zip(config.runs(), params, strict=True)
    ]
    y, memory = read_segment(
      sections, config, x, summary, memory, positions, ids, schedule=schedule
    )
    return jnp.sum(y * weights), memory

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def measure(schedule: str, windows: int, repeats: int) -> dict[str, float]:
  """Seconds and MB of one number of windows; compiled afresh."""
  config, tokens = CONFIG, windows * CONFIG.window_length
  rng = np.random.default_rng(0)
  shape = (BATCH, tokens, config.emb_dim)
  x, weights = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
  summary = jnp.asarray(rng.normal(size=(config.summary_tokens, config.emb_dim)), jnp.float32)
  positions = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (BATCH, tokens))
  args = stack_params(config), summary, x, weights, empty_memory(config, BATCH), positions

  began = time.perf_counter()
  lowered = make_step(config, schedule).lower(*args)
  traced = time.perf_counter()
  compiled = lowered.compile()
  done = time.perf_counter()
  steps = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    steps.append(time.perf_counter() - start)
  stats: Any = compiled.memory_analysis()
  return {
    "trace": traced - began,
    "compile": done - traced,
    "lines": len(lowered.as_text().splitlines()),
    "median": statistics.median(steps[1:]),
    "min": min(steps[1:]),
    "tokens_per_second": BATCH * tokens / statistics.median(steps[1:]),
    "temp_mb": stats.temp_size_in_bytes / 1e6,
  }
