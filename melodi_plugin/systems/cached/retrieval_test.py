"""Retrieval: blocks of scores against all at once, and a queue of more than 65,536 pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.config.layers import Neighbors
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.core.memory import resize
from melodi_plugin.systems.cached.retrieval import BLOCK, nearest, retrieve
from melodi_plugin.testing.baselines import batch_of, memorizing, memory_of, read
from melodi_plugin.testing.tiny import assert_close

EXACT = [pytest.param(True, id="exact"), pytest.param(False, id="buckets")]


def pairs(total: int, batch: int = 2, seed: int = 0) -> tuple[jax.Array, KeyValues]:
  """Queries and slots of which some are invisible, or empty; few values, so that scores tie."""
  random = np.random.default_rng(seed)
  query = random.integers(-2, 3, (batch, 3, 2, 4)).astype(np.float32)
  key, value = random.integers(-2, 3, (2, batch, total, 2, 4)).astype(np.float32)
  key[:, total // 3 : total // 2] = 0
  visible = random.random((batch, total)) > 0.3
  visible[0, : total // 4] = False
  return jnp.asarray(query), KeyValues(*map(jnp.asarray, (key, value, visible)))


@pytest.mark.parametrize("exact", EXACT)
@pytest.mark.parametrize("total", [3, 16, 37, 40])
def test_blocks_find_what_one_look_finds(exact, total):
  query, slots = pairs(total)
  neighbors = Neighbors(4, exact)
  whole = nearest(query, slots, neighbors, block=1000)
  for block in (1, 4, 7, 16):
    np.testing.assert_array_equal(nearest(query, slots, neighbors, block), whole)


@pytest.mark.parametrize("exact", EXACT)
def test_slots_that_cannot_be_seen_are_found_in_blocks_as_in_one_look(exact):
  query, slots = pairs(37)
  slots = slots._replace(visible=slots.visible.at[1, 2:].set(False))
  whole = nearest(query, slots, Neighbors(4, exact), block=1000)
  np.testing.assert_array_equal(nearest(query, slots, Neighbors(4, exact), block=8), whole)


def chosen_by_hand(query, slots: KeyValues, neighbors: Neighbors) -> np.ndarray:
  """What sorting all scores chooses, as a mask."""
  scores = np.einsum("BtNH,BsNH->BNts", query, slots.key)
  scores[~np.broadcast_to(np.asarray(slots.visible)[:, None, None], scores.shape)] = -np.inf
  chosen, places, count = np.zeros(scores.shape, bool), np.arange(scores.shape[-1]), neighbors.count
  for own in [places] if neighbors.exact else [places[j::count] for j in range(count)]:
    best = own[np.argsort(-scores[..., own], axis=-1)[..., : count if neighbors.exact else 1]]
    np.put_along_axis(chosen, best, True, axis=-1)
  return chosen


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "exact", [pytest.param(True, id="exact", marks=pytest.mark.broad), EXACT[1]]
)
def test_more_than_65536_pairs_are_found_and_learned_from(exact):
  total, random = 70_003, np.random.default_rng(0)
  assert total > 65_536 > 2 * BLOCK and total % BLOCK
  draw = random.standard_normal
  query, weights = draw((2, 1, 3, 2, 4))
  slots = KeyValues(*draw((2, 1, total, 2, 4)), random.random((1, total)) > 0.5)
  slots, neighbors = KeyValues(*map(jnp.asarray, slots)), Neighbors(4, exact)
  chosen = chosen_by_hand(query, slots, neighbors)

  def by_hand(query, temperature):
    logits = jnp.einsum("BtNH,BsNH->BNts", query, slots.key) * temperature[None, :, None, None]
    shares = jax.nn.softmax(jnp.where(chosen, logits, -jnp.inf), axis=-1)
    return jnp.sum(jnp.einsum("BNts,BsNH->BtNH", shares, slots.value) * weights)

  def found(query, temperature):
    return jnp.sum(retrieve(query, slots, temperature, neighbors) * weights)

  given = jnp.asarray(query), jnp.asarray([1.5, 0.5])
  one, other = (jax.value_and_grad(read, (0, 1))(*given) for read in (found, by_hand))
  assert_close(one, other, 1e-9, 1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_model_with_a_queue_of_80000_pairs_reads_as_with_one_that_is_long_enough():
  sizes = dict(num_layers=1, memory_layers=(0,))
  enough, huge = (memorizing(2, queue_windows=windows, **sizes) for windows in (10, 20_000))
  memory, batch = memory_of(enough), batch_of(enough, [[-12], [-7]])
  y, after, gradients = read(enough, batch, memory)
  longer = resize(memory, huge.queue_tokens, huge.long_term_increment)
  own_y, own_after, own = read(huge, batch, longer)
  assert own_after.long.shape[2] == 80_000
  assert_close((own_y, own[0], own[1]), (y, gradients[0], gradients[1]), 1e-9, 1e-9)
  assert_close(own_after.long[:, :, -enough.queue_tokens :], after.long, 1e-9, 1e-9)
