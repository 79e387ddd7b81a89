"""LongPPL: perplexity on the tokens that need far context.

Fang et al. 2024, "What is Wrong with Perplexity for Long-context Language Modeling?", section 3: a
token is key if a judge finds it much easier with long context than with short (nats less by more
than alpha = 2) and easy with long context (nats below -beta = 2); LongPPL is exp of the mean loss
of the evaluated model on key tokens.  The judge is two files of losses of any model that reads the
same tokens, or the model itself, with memory and without.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.evaluation.conditions import memory_of
from melodi_plugin.evaluation.losses import Losses, read_losses
from melodi_plugin.evaluation.probes import paired
from melodi_plugin.evaluation.probes.paired import Pair
from melodi_plugin.evaluation.probes.reading import Tokens, eval_documents, read_twice
from melodi_plugin.evaluation.probes.result import doubling_ranges
from melodi_plugin.evaluation.reading import ScoredDocument

ALPHA, BETA = 2.0, -2.0  # of the paper and its code


class Judge(NamedTuple):
  """What a judge lost on every token with long and with short context, by document."""

  long: Mapping[str, Losses]
  short: Mapping[str, Losses]

  @classmethod
  def read(cls, paths: str) -> "Judge":
    """From 'long.npz,short.npz'; raises ValueError."""
    named = [path.strip() for path in paths.split(",")]
    if len(named) != 2:
      raise ValueError(
        f"melodi_judge={paths} does not name two files; write melodi_judge=long.npz,short.npz, "
        "the losses of one model with long and with short context."
      )
    return cls(*map(read_losses, named))

  def keys(self, document: ScoredDocument) -> np.ndarray:
    """Whether each token but the first is key, bool [N-1]; raises ValueError for other tokens."""
    both = []
    for losses in self:
      own = losses.get(document.id)
      if own is None or not np.array_equal(own.tokens, document.tokens):
        raise ValueError(
          f"melodi_judge has not read the tokens of {document.id} as this model does; a judge "
          "needs the same documents and tokenizer."
        )
      both.append(own.nats)
    return key_tokens(*both)


def key_tokens(long: np.ndarray, short: np.ndarray) -> np.ndarray:
  """Which tokens need far context, from a judge's nats with long and with short context."""
  return (short - long > ALPHA) & (long < -BETA)


def measure(config: Any) -> dict[str, Any]:
  """Reads the documents of `grain_eval_files` with memory and without.

  Raises:
    ValueError: if there are no documents or no judge, or if the judge has read something else or
      finds no key token.
  """
  judge = Judge.read(config.melodi_judge) if config.melodi_judge else None
  if judge is None and memory_of(config) == "none":
    raise ValueError(
      "this model has no memory, so it cannot say which tokens need far context; name a judge with "
      "melodi_judge=long.npz,short.npz."
    )
  source, tokens, pairs, scored = eval_documents(config), Tokens(), [], 0
  for on, off in read_twice(config, source, tokens):
    keys = judge.keys(on) if judge else key_tokens(on.nats, off.nats)
    scored += len(keys)
    for at in np.flatnonzero(keys).tolist():
      window = (at + 1) // config.melodi_window_length
      pairs.append(
        Pair(on.index, window, bool(on.hits[at]), float(on.nats[at]), float(off.nats[at]))
      )
  if not pairs:
    raise ValueError(
      f"the judge finds no token in {config.grain_eval_files} that needs far context, so there is "
      "no LongPPL; give longer documents, or another melodi_judge."
    )
  return {
    "what": f"{_words(pairs, scored)}  Tokens are listed by their window in the document.  Judge: "
    f"{config.melodi_judge or 'the model itself, with memory and without: chosen in its favour'}.",
    "documents": len(source),
    **tokens.counted(),
    "key_tokens": len(pairs),
    "scored_tokens": scored,
    "longppl": _perplexity([pair.on for pair in pairs]),
    "longppl_without_memory": _perplexity([pair.off for pair in pairs]),
    "all": paired.rates(pairs),
    "points": paired.points(pairs, doubling_ranges(max(pair.distance for pair in pairs))),
  }


def _perplexity(nats: list[float]) -> float | None:
  mean = float(np.mean(nats))
  return math.exp(mean) if mean < 700 else None


def _words(pairs: list[Pair], scored: int) -> str:
  on, off = (_perplexity([getattr(pair, name) for pair in pairs]) for name in ("on", "off"))
  both = " and ".join("-" if value is None else f"{value:,.2f}" for value in (on, off))
  share = f"{len(pairs):,} of {scored:,} tokens are key ({len(pairs) / scored:.2%})"
  return f"LongPPL with memory and without: {both}; {share}."
