"""All schedules against `reference/melodi.py`: outputs, memory and gradients."""

import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import document_rows, jit, read_rows, stack_layers
from melodi_plugin.reference import melodi as naive
from melodi_plugin.testing import segments
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.segments import value_and_grads
from melodi_plugin.testing.tiny import assert_close, quick_layers, random_memory, tiny_config
from melodi_plugin.testing.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("float64")

SIZES = dict(num_layers=2, short_term_layers=(0, 1))
# Carried on, then a document; one of two windows.
ROWS = [[-5, 8], [16]]
# Carried on, then a whole window and a short one; two documents.
LONGER = [[-5, 8, 3], [5, 16]]


def fast(config, schedule):
  def run(layers, *arguments):
    sections = stack_layers(layers, config, dtype=jnp.float64)
    return read_rows(sections, config, *arguments, schedule=schedule)

  return run


def slow(config, positions, ids, windows):
  def run(layers, x, summary, memory):
    memory = memory._replace(windows=windows)  # known to Python, whose loops need it
    return naive.read_segment(layers, config, x, summary, memory, positions, ids)

  return run


def inputs(name):
  """Config, plan of the documents, and what is differentiated: layers, x, summary, memory."""
  config = tiny_config(**SIZES | VARIANTS[name])
  rows = LONGER if name == "queue shorter than segment" else ROWS
  if config.window_length == 1:
    rows = [[-1, 2], [3]]
  segment = 3 * config.window_length if config.window_length == 1 or rows is LONGER else 16
  positions, ids = document_rows(rows, segment, config.window_length)
  rng = np.random.default_rng(1)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float64)  # noqa: E731
  batch = len(rows)
  x = draw(batch, segment, config.emb_dim)
  summary = draw(config.summary_tokens, config.emb_dim)
  weights = draw(batch, segment, config.emb_dim)
  memory = random_memory(config, batch, dtype=jnp.float64)
  return config, (positions, ids), weights, (quick_layers(config), x, summary, memory)


SCHEDULES = ("layers", "windows", "diagonal")


@pytest.mark.parametrize(
  "name", broad_but(["queue shorter than segment"], [n for n in VARIANTS if n != "paper"])
)
def test_schedules_equal_naive(name):
  config, plan, _, arguments = inputs(name)
  truth = jit(slow(config, *plan, arguments[-1].windows))(*arguments)
  for schedule in SCHEDULES:
    assert_close(jit(fast(config, schedule))(*arguments, *plan), truth, 1e-9, 1e-9)


# A gradient is another than its value's only where something is masked, cut or computed twice.
_UNCUT = [n for n in VARIANTS if n not in ("paper", "empty slots masked")]


@pytest.mark.parametrize("name", broad_but(["paper"], VARIANTS, slow=_UNCUT))
def test_schedules_and_gradients_equal_naive(name):
  config, plan, weights, arguments = inputs(name)
  naive_read = slow(config, *plan, arguments[-1].windows)
  truth = jit(lambda *args: value_and_grads(naive_read, *args))(*arguments, weights)
  for schedule in SCHEDULES:
    run = jit(lambda *args, schedule=schedule: value_and_grads(fast(config, schedule), *args))
    assert_close(run(*arguments, weights, *plan), truth, 1e-9, 1e-9)


@pytest.mark.broad
def test_equal_layers_read_at_once_have_the_same_gradients():
  every = (0, 1, 2)
  config = segments.small_config(num_layers=3, short_term_layers=every, long_term_layers=every)
  assert [run.length for run in config.runs()] == [3]
  arguments = segments.inputs(config)
  weights = segments.draw(*arguments[1].shape, seed=3)

  def run(schedule):
    read = segments.reader(config, schedule=schedule)
    return jit(lambda *args: value_and_grads(read, *args))(*arguments[:4], weights, *arguments[4:])

  assert_close(run("diagonal"), run("layers"), 1e-9, 1e-9)
