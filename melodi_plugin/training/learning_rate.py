"""The paper's learning rate (SEMANTICS 3.2): warm-up and cosine share one axis of steps."""

import jax
import jax.numpy as jnp
import optax


def paper_schedule(
  learning_rate: float, final_fraction: float, warmup_steps: int, decay_steps: int
) -> optax.Schedule:
  """Warm-up times cosine, then halved every `decay_steps`; training may go on for ever.

  The cosine starts at step 0, not after the warm-up, so the peak is slightly below `learning_rate`.

  Args:
    learning_rate: of the cosine at step 0.
    final_fraction: of `learning_rate`, at step `decay_steps`.
    warmup_steps: the factor grows from 0 at step 0 to 1 at this step.
    decay_steps: length of the cosine.
  """
  final = learning_rate * final_fraction

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    warmup = jnp.minimum(step / warmup_steps, 1) if warmup_steps else 1.0
    progress = jnp.maximum(step, warmup_steps) / decay_steps
    cosine = final + (learning_rate - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return warmup * jnp.where(progress < 1, cosine, final * 2.0 ** (1 - progress))

  return schedule
