"""RULER's variable tracking: who has a value, over a chain of assignments.

Hsieh et al. 2024, one chain of four hops, as its default; without the example in front.
"""

import string

from melodi_plugin.evaluation.probes.suites.needles import noise
from melodi_plugin.evaluation.probes.suites.questions import (
  WRONG,
  Draw,
  Make,
  Question,
  Sample,
  hide,
)

_HOPS = 4
_LETTERS = 5  # of a variable
_INTRO = "Memorize and track the chain of variable assignment hidden in the following text.\n"
_PROMPT = (
  "\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer: "
  "According to the chain of variable assignment in the text above, {count} variables are assigned "
  "the value {value}, they are:"
)


def make(draw: Draw) -> Sample:
  """A text of `size` sentences of noise.  A variable needs all assignments up to its own."""
  random = draw.random
  letters = list(string.ascii_uppercase)
  names: dict[str, None] = {}
  while len(names) < _HOPS + 1 + WRONG:
    names["".join(random.choice(letters, _LETTERS))] = None
  chain, unseen = list(names)[: _HOPS + 1], list(names)[_HOPS + 1 :]
  value = int(random.integers(10_000, 100_000))
  facts = [f"VAR {chain[0]} = {value}"]
  facts += [f"VAR {chain[i + 1]} = VAR {chain[i]}" for i in range(_HOPS)]
  text, starts = hide(random, noise(draw.size), facts, _INTRO)
  prompt = _PROMPT.format(value=value, count=len(chain))
  right, wrong = (tuple(f" {name}" for name in own) for own in (chain, unseen))
  return Sample(text, [Question(prompt, right, wrong, (starts[0],) * len(right))])


TASKS: dict[str, Make] = {"variable_tracking": make}
