"""Adafactor against a slow, obvious one, and stacked layers against single ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from melodi_plugin.testing.tiny import assert_close
from melodi_plugin.training.adafactor import adafactor, factored_dims

STEPS = 4
SHAPES = {
  "matrix": (128, 160),  # factored
  "square": (128, 128),
  "narrow": (127, 300),  # not: one dimension is below 128
  "kernel": (130, 2, 140),  # factored in its two largest dimensions
  "bias": (256,),
  "scalar": (),
}
LAYERS = 150  # more than 128: a stack must not be factored along its layers


CLOSE = {"absolute": 1e-6, "relative": 2e-5}  # of float32 to float64


def rates(step):
  return 0.01 * (jnp.asarray(step, jnp.float32) + 1)


def random_tree(seed, shapes=SHAPES, scale=1.0):
  rng = np.random.default_rng(seed)
  return {name: scale * rng.normal(size=shape) for name, shape in sorted(shapes.items())}


def slow_step(step, param, gradient, state):
  """SEMANTICS 3.1, for one tensor in float64."""
  beta = 1 - (step + 1) ** -0.8
  square = gradient**2 + 1e-30
  dims = np.argsort(param.shape)[-2:]
  if len(dims) == 2 and min(param.shape[dim] for dim in dims) >= 128:
    rows, columns = (square.mean(axis=dim, keepdims=True) for dim in dims)
    state["rows"] = beta * state.get("rows", 0) + (1 - beta) * rows
    state["columns"] = beta * state.get("columns", 0) + (1 - beta) * columns
    mean = state["rows"].mean(axis=dims[1], keepdims=True)
    second = state["rows"] * state["columns"] / mean
  else:
    second = state["second"] = beta * state.get("second", 0) + (1 - beta) * square
  update = gradient / np.sqrt(second)
  update = update / max(1.0, np.sqrt(np.mean(update**2)))
  update = update * float(rates(step)) * max(np.sqrt(np.mean(param**2)), 1e-3)
  state["momentum"] = 0.9 * state.get("momentum", 0) + 0.1 * update
  return param - state["momentum"]


def slow(params, gradients):
  states = {name: {} for name in params}
  for step, gradient in enumerate(gradients):
    params = {
      name: slow_step(step, param, gradient[name], states[name]) for name, param in params.items()
    }
  return params


def as_float32(tree):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def train(params, gradients, layer_axis=lambda path: None):
  """Parameters and optimizer state after a step with each of the gradients."""
  optimizer = adafactor(rates, layer_axis)
  params = as_float32(params)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  for gradient in gradients:
    params, state = step(params, state, as_float32(gradient))
  return params, state


def gradients_of(shapes):
  """Of very different sizes, so that updates are clipped."""
  return [random_tree(10 + step, shapes, scale=100.0**step) for step in range(STEPS)]


def test_parameters_are_those_of_the_slow_optimizer():
  params = random_tree(0) | {"zeros": np.zeros(256)}  # as biases start
  gradients = gradients_of(SHAPES | {"zeros": (256,)})
  expected = slow(params, gradients)
  actual, _ = train(params, gradients)
  assert_close(actual, expected, **CLOSE)
  assert all(np.abs(expected[name] - params[name]).max() > 1e-5 for name in params)


@pytest.mark.parametrize("shape", [*SHAPES.values(), (200, 128, 128), (128, 300, 128), (3, 128)])
def test_factored_moments_lack_the_named_dimensions(shape):
  moments = adafactor(0.1).init(jnp.zeros(shape))[0]
  dims = factored_dims(shape)
  if dims is None:
    assert moments.v.shape == shape and moments.v_row.shape == moments.v_col.shape == (1,)
  else:
    row, column = (shape[:dim] + shape[dim + 1 :] for dim in dims)
    assert (moments.v_row.shape, moments.v_col.shape, moments.v.shape) == (row, column, (1,))


def test_dimensions_of_equal_size_are_told_apart():
  gradient = np.zeros((128, 128), np.float32)
  gradient[3, 5:9] = 1.0
  _, state = train({"square": np.ones_like(gradient)}, [{"square": gradient}])
  moments = state[0]
  remaining = {0: np.arange(5, 9), 1: np.array([3])}  # what is left of the ones along each axis
  for field, gone in zip((moments.v_row, moments.v_col), factored_dims((128, 128)), strict=True):
    np.testing.assert_array_equal(np.flatnonzero(field["square"] > 1e-20), remaining[gone])


@pytest.mark.parametrize("axis", [0, pytest.param(1, marks=pytest.mark.broad)])
def test_stacked_layers_train_as_single_ones(axis):
  shapes = {"matrix": (128, 130), "kernel": (128, 2, 128), "bias": (256,), "scalar": ()}
  singles = [random_tree(100 + layer, shapes) for layer in range(LAYERS)]
  alone = [
    [random_tree(1000 * step + layer, shapes, scale=100.0**layer) for layer in range(3)]
    for step in range(STEPS)
  ]
  # Gradients of very different sizes: large layers must not hide small ones.
  gradients = [own * (LAYERS // 3) for own in alone]

  def stack(layers):
    places = {name: min(axis, len(shape)) for name, shape in shapes.items()}
    return {
      "layers": {n: np.stack([layer[n] for layer in layers], places[n]) for n in shapes},
      "norm": np.ones(8),
    }

  def layer_axis(path):
    prefix, _, name = path.partition("/")
    return min(axis, len(shapes[name])) if prefix == "layers" else None

  stacked, state = train(stack(singles), [stack(step) for step in gradients], layer_axis)
  chosen = (0, 1, 2, LAYERS - 1)
  expected = [slow(singles[i], [step[i] for step in gradients]) for i in chosen]
  for layer, want in zip(chosen, expected, strict=True):
    own = {
      name: jnp.take(leaf, layer, axis=min(axis, len(shapes[name])))
      for name, leaf in stacked["layers"].items()
    }
    assert_close(own, want, **CLOSE)
  rows = state[0].v_row["layers"]
  assert rows["matrix"].shape == ((LAYERS, 128) if axis == 0 else (128, LAYERS))
  assert state[0].count.shape == () and int(state[0].count) == STEPS
