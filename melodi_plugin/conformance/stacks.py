"""Small stacks of any system with random parameters, and rows of documents for them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.layers import LayerSpec, Run
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import user_keys
from melodi_plugin.conformance import naive
from melodi_plugin.core.memory import Memory
from melodi_plugin.core.schedules.segment import read_segment
from melodi_plugin.core.segments import Windows, plan_windows
from melodi_plugin.core.stack import Section
from melodi_plugin.systems.table import empty_memory, make_cell, parts

_SIZES = dict(
  num_decoder_layers=2,
  emb_dim=16,
  num_query_heads=2,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  dropout_rate=0.0,
)
BATCH, WINDOWS = 2, 3  # rows, and windows of a segment
TOLERANCE = 1e-9  # all is float64
# Compiling well would take longer than running.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def small_config(system: str, **keys: Any) -> MelodiConfig:
  """Two layers of width 16 with windows of 4 tokens, or other sizes; `keys` as in a config."""
  given, keys = _SIZES | {"melodi_window_length": 4} | keys, {}
  for group in (MelodiKeys, *user_keys()):
    own = {name: given.pop(name) for name in group.model_fields if name in given}
    keys |= group.model_validate(own).model_dump()
  return MelodiConfig.from_maxtext(SimpleNamespace(decoder_block=system, **given, **keys))


class Batch(NamedTuple):
  """One segment of `BATCH` rows; padding holds noise, of weight zero."""

  x: jax.Array
  weights: jax.Array  # of the outputs in the loss
  positions: np.ndarray
  ids: np.ndarray
  share: float = 1.0  # of memory in the loss


class Read(NamedTuple):
  """What reading a batch gives."""

  y: jax.Array  # zeros at padding
  memory: Memory
  gradients: tuple  # of the loss, by parameters, x, summary tokens, short and long


@dataclasses.dataclass(frozen=True)
class Subject:
  """A system to be looked at.

  Attributes:
    config: few narrow layers and short windows: float64 is exact, not fast.
    read_window: the slow truth, if there is one.
  """

  config: MelodiConfig
  read_window: naive.ReadWindow | None = None

  @property
  def schedules(self) -> tuple[str, ...]:
    """The orders in which its layers and windows can be read."""
    tells = any(make_cell(self.config, spec).long.tells for spec in self.config.layers)
    return ("windows",) if tells else ("layers", "windows", "diagonal")

  @property
  def segment(self) -> int:
    """T."""
    return WINDOWS * self.config.window_length

  @functools.cached_property
  def layers(self) -> list[Any]:
    """Parameters off their initial values, so that a missing term shows."""
    return random_layers(self.config)

  @functools.cached_property
  def summary(self) -> jax.Array:
    """The table of summary tokens."""
    return jnp.asarray(draw(9, self.config.summary_tokens, self.config.emb_dim))

  def memory(self, rows: int = BATCH) -> Memory:
    """What rows remember of two windows that they have really read."""
    length = 2 * self.config.window_length
    batch = self.batch([[length]] * rows, seed=7)
    return self.read_forwards(batch, empty_memory(self.config, rows, jnp.float64))[1]

  def batch(self, rows: Sequence[Sequence[int]], seed: int = 0, windows: int = WINDOWS) -> Batch:
    """Random tokens of documents of these lengths; see `document_rows`."""
    window = self.config.window_length
    positions, ids = document_rows(rows, windows * window, window)
    shape = (*ids.shape, self.config.emb_dim)
    weights = np.where(ids[..., None] > 0, draw(seed + 1, *shape), 0)
    return Batch(jnp.asarray(draw(seed, *shape)), jnp.asarray(weights), positions, ids)

  def read(self, batch: Batch, memory: Memory, schedule: str = "") -> Read:
    """Reads a batch the fast way."""
    run = self._compiled(schedule or self.schedules[0])
    return Read(*run(self.layers, self.summary, memory, *batch))

  def read_forwards(
    self, batch: Batch, memory: Memory, scan_layers: bool = True
  ) -> tuple[jax.Array, Memory]:
    """The same without gradients, which compiles faster."""
    run = self._compiled(self.schedules[0], scan_layers, gradients=False)
    return run(self.layers, self.summary, memory, batch.x, batch.positions, batch.ids)

  def read_naively(self, batch: Batch, memory: Memory) -> Read:
    """Reads a batch with `read_window`."""
    run = functools.partial(self._in_loops, np.asarray(memory.windows))
    return Read(*_with_gradients(run, self.layers, self.summary, memory, *batch))

  def read_naively_forwards(self, batch: Batch, memory: Memory) -> tuple[jax.Array, Memory]:
    """The same without gradients."""
    own = self.layers, self.summary, memory, batch.x, batch.positions, batch.ids
    return self._in_loops(np.asarray(memory.windows), *own)

  def _in_loops(self, held: np.ndarray, layers, summary, memory: Memory, x, positions, ids):
    """`held` is in the memory, too, but Python has to know it."""
    assert self.read_window is not None
    memory = memory._replace(windows=held)
    own = self.read_window, layers, self.config, x, summary, memory
    return naive.read_segment(*own, positions, ids)

  @functools.cache  # noqa: B019, subjects are few and live as long as their tests
  def _compiled(self, schedule: str, scan_layers: bool = True, gradients: bool = True) -> Any:
    def run(layers, summary, memory, x, positions, ids):
      sections = stack_layers(layers, self.config, scan_layers, jnp.float64)
      own = sections, self.config, x, summary, memory, positions, ids
      return read_rows(*own, schedule=schedule)

    return jit(functools.partial(_with_gradients, run) if gradients else run)


Check = Callable[[Subject], None]


def in_float64(check: Check) -> Check:
  """A check in exact numbers, whatever JAX is set to."""

  @functools.wraps(check)
  def run(subject: Subject) -> None:
    with jax.enable_x64(True):
      check(subject)

  return run


def _with_gradients(run, layers, summary, memory: Memory, x, weights, positions, ids, share):
  """Outputs, memory after, and gradients of a loss that sees outputs and memory."""

  def loss(layers, x, summary, short, long):
    own = memory._replace(short=short, long=long)
    y, after = run(layers, summary, own, x, positions, ids)
    kept = jax.tree.leaves((after.short, after.long))
    return jnp.sum(y * weights) + share * sum(jnp.sum(jnp.sin(leaf)) for leaf in kept), (y, after)

  gradients, (y, after) = jax.grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)(
    layers, x, summary, memory.short, memory.long
  )
  return y, after, gradients


def random_layers(
  config: MelodiConfig, seed: int = 0, dtype: Any = jnp.float64, spread: float = 0.0
) -> list[Any]:
  """The parameters of every layer, drawn; one head's temperature is negative.

  Vectors lie around 1; matrices have the standard deviation `spread`, or one by their width.
  """
  rng = np.random.default_rng(seed)

  def parameters(spec) -> Any:
    with nnx.use_eager_sharding(False):  # there is no mesh here
      module = parts(config, spec).params(config, spec, dtype=dtype, rngs=nnx.Rngs(0))
    return module.parameters()

  def number(path, leaf) -> jax.Array:
    vector = leaf.ndim == 1  # norms and temperatures, mostly: near 1
    scale = 0.4 if vector else spread or leaf.shape[0] ** -0.5
    values = vector + scale * rng.normal(size=leaf.shape)
    if "temperature" in jax.tree_util.keystr(path):
      values[0] *= -1.5
    return jnp.asarray(values, dtype)

  # Without initialisers, which would take longer to compile than a test.
  shapes = [jax.eval_shape(lambda spec=spec: parameters(spec)) for spec in config.layers]
  return jax.tree_util.tree_map_with_path(number, shapes)


def stack_layers(
  layers: list,
  config: MelodiConfig,
  scan_layers: bool = True,
  dtype: Any = jnp.float32,
  reader_of: Callable[[LayerSpec], Any] = lambda spec: None,
) -> list[Section]:
  """The sections of a stack from one parameter tuple per layer.

  `reader_of` makes the reader of a layer, where it is not that of the system.
  """

  def section(run: Run) -> Section:
    own = layers[run.first : run.first + run.length]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    return Section(run, make_cell(config, run.spec, dtype, reader_of(run.spec)), params)

  return [section(run) for run in config.runs(scan_layers)]


def plan(config: MelodiConfig, held: Any, positions: Any, ids: Any) -> Windows:
  """The plan of a segment; `held` windows are in memory."""
  return plan_windows(
    jnp.asarray(positions),
    jnp.asarray(ids),
    jnp.asarray(held),
    window_length=config.window_length,
    queue_windows=config.long_term_windows,
  )


def read_rows(
  sections: list[Section],
  config: MelodiConfig,
  x: jax.Array,
  summary: jax.Array,
  memory: Memory,
  positions: Any,
  ids: Any,
  **options: Any,
) -> tuple[jax.Array, Memory]:
  """`read_segment` of rows of documents; outputs at padding are zeros."""
  positions, ids = jnp.asarray(positions), jnp.asarray(ids)
  y, memory = read_segment(sections, config, x, summary, memory, positions, ids, **options)
  return jnp.where(ids[..., None] > 0, y, 0), memory


def draw(seed: int, *shape: int) -> np.ndarray:
  """Normal numbers."""
  return np.random.default_rng(seed).normal(size=shape)


def document_rows(
  rows: Sequence[Sequence[int]], segment: int, window: int
) -> tuple[np.ndarray, np.ndarray]:
  """Positions and segment ids (B, T) of rows of documents.

  Args:
    rows: per row the lengths of its documents; a negative first length continues a document that
      began two windows before this segment.
    segment: T.
    window: W; every document starts at a window boundary.
  """
  positions, ids = np.zeros((2, len(rows), segment), np.int32)
  for row, lengths in enumerate(rows):
    at = 0
    for number, length in enumerate(lengths, start=1):
      first = 2 * window if length < 0 else 0
      stop = min(at + abs(length), segment)
      positions[row, at:stop] = first + np.arange(stop - at)
      ids[row, at:stop] = number
      at = -(-stop // window) * window
  return positions, ids


def assert_close(
  actual: Any, expected: Any, absolute: float = TOLERANCE, relative: float = TOLERANCE
) -> None:
  """Compares trees leaf by leaf, naming the leaf that differs.

  |Δ| <= absolute + relative·max|ref|, with the greatest number of the leaf: gradients of a sum in
  which large terms cancel are as exact as those terms.
  """
  flat, treedef = jax.tree_util.tree_flatten_with_path(expected)
  assert jax.tree.structure(actual) == treedef, f"{jax.tree.structure(actual)} != {treedef}"
  for (path, want), got in zip(flat, jax.tree.leaves(actual), strict=True):
    scale = np.abs(np.asarray(want)).max(initial=0.0, where=np.isfinite(want))
    np.testing.assert_allclose(
      np.asarray(got),
      np.asarray(want),
      rtol=0,
      atol=absolute + relative * scale,
      err_msg=jax.tree_util.keystr(path),
    )
