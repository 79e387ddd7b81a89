"""The letters of every shape, and the array types that public functions are annotated with.

  B  batch rows                      D  model width
  T  tokens of a segment (K * W)     N  attention heads
  K  windows of a segment            H  head size
  W  tokens of a window              F  feed-forward width
  U  summary tokens of a window      V  vocabulary
  S  short-term memory tokens        Y  layers
  L  tokens a window adds to the long-term memory
  Q  windows that the long-term queue holds
  M  tokens of the long-term queue (Q * L)

Lower-case `t` and `s` count the queries and the keys of one attention, whatever they are.  Array
names end in the letters of their axes where that helps the reader (`x_BWD`); einsums spell the
same letters.  The types are checked in tests only (see conftest.py).
"""

from typing import TypeAlias

import jax
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt32

Array: TypeAlias = jax.Array
Rng: TypeAlias = PRNGKeyArray | UInt32[Array, "words"]  # a key of random numbers

Context: TypeAlias = Float[Array, "B W D"]  # context tokens of one window
Summary: TypeAlias = Float[Array, "B U D"]  # summary tokens of one window
Heads: TypeAlias = Float[Array, "B t N H"]  # tokens, split into heads
Rows: TypeAlias = Bool[Array, "B"]  # one flag per batch row

__all__ = [
  "Array",
  "Bool",
  "Context",
  "Float",
  "Heads",
  "Int",
  "Rng",
  "Rows",
  "Summary",
]
