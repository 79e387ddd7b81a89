"""Seconds to trace, compile and run, and memory, against the number of windows.

One training step of the stack alone (forward and backward of sum(y * R), no MaxText), at the sizes
at which the official implementation was measured: 12 layers of width 256, windows of 128 tokens,
batch 2, float32, one long-term layer, 9,606,200 parameters.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from melodi_plugin.bench.timing import Seconds, Watch, medians
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.schedules.segment import read_segment
from melodi_plugin.core.schedules.walk import Wrap
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


def make_step(config: MelodiConfig, schedule: str, remat: Wrap):
  """The jitted step: (params, summary, x, weights, memory, positions) -> loss, memory, grads."""

  def loss(params, summary, x, weights, memory, positions):
    ids = jnp.ones_like(positions)
    sections = [
      Section(run, make_cell(config, run.spec), own)
      for run, own in zip(config.runs(), params, strict=True)
    ]
    y, memory = read_segment(
      sections, config, x, summary, memory, positions, ids, schedule=schedule, remat=remat
    )
    return jnp.sum(y * weights), memory

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


class Measured(NamedTuple):
  """What one number of windows takes."""

  trace: Seconds
  compile: Seconds
  lines: int  # of StableHLO
  steps: list[Seconds]
  tokens_per_second: float  # by the clock, the median
  temporaries: int  # bytes, by the compiler

  @property
  def start(self) -> Seconds:
    """Trace and compile."""
    return Seconds(*(a + b for a, b in zip(self.trace, self.compile, strict=True)))


class Case(NamedTuple):
  """What was measured of which program."""

  schedule: str
  remat: str  # MaxText's name of the policy
  windows: int
  measured: Measured

  def as_json(self) -> dict[str, Any]:
    """All of it, by name."""
    return self._asdict() | {"measured": self.measured._asdict()}


def arguments(config: MelodiConfig, windows: int) -> tuple:
  """Of the step: noise in rows of so many windows, whose documents begin with them."""
  tokens, rng = windows * config.window_length, np.random.default_rng(0)
  shape = (BATCH, tokens, config.emb_dim)
  x, weights = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
  summary = jnp.asarray(rng.normal(size=(config.summary_tokens, config.emb_dim)), jnp.float32)
  positions = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (BATCH, tokens))
  return stack_params(config), summary, x, weights, empty_memory(config, BATCH), positions


def measure(schedule: str, windows: int, repeats: int, remat: Wrap) -> Measured:
  """One number of windows, compiled afresh; `remat` is wrapped around every cell."""
  args = arguments(CONFIG, windows)
  start, steps = Watch(), Watch()
  with start.piece():
    lowered = make_step(CONFIG, schedule, remat).lower(*args)
  with start.piece():
    compiled = lowered.compile()
  for _ in range(repeats + 1):
    with steps.piece():
      jax.block_until_ready(compiled(*args))
  stats: Any = compiled.memory_analysis()
  timed = steps.taken[1:]  # the first warms up
  trace, compile = start.taken
  return Measured(
    trace,
    compile,
    len(lowered.as_text().splitlines()),
    timed,
    BATCH * windows * CONFIG.window_length / medians(timed).clock,
    stats.temp_size_in_bytes,
  )
