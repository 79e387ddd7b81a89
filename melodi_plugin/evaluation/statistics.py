"""Perplexities and their like, from the loss of every token of every document.

Pure NumPy.  Sums are taken in float64, in the order of the tokens and then of the documents, so
that they do not depend on how the documents were batched.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0

# The numbers by which evaluations of the same text are compared; lower is better but for the last.
RATES = ("perplexity", "word_perplexity", "bits_per_byte", "accuracy")


class Bucket(NamedTuple):
  """The targets of a document at positions first, ..., end - 1."""

  first: int
  end: int
  tokens: int
  nats: float


class DocumentScore(NamedTuple):
  """What the losses of one document add up to.

  Its first token has no loss and is not counted, nor is what of a conversation is not scored.
  """

  index: int
  id: str
  tokens: int
  words: int  # separated by white space, in the raw text
  bytes: int  # of the raw text in UTF-8
  nats: float
  hits: int  # tokens that were the model's first choice
  buckets: list[Bucket]


def position_edges(window: int, length: int) -> list[int]:
  """0, W, 2W, 4W, ...: edges of the position buckets of a document of `length` tokens."""
  edges = [0, window]
  while edges[-1] < length:
    edges.append(2 * edges[-1])
  return edges


def score_document(
  index: int,
  name: str,
  text: str,
  nats: np.ndarray,
  hits: np.ndarray,
  *,
  window: int,
  scored: np.ndarray | None = None,
) -> DocumentScore:
  """Adds up one document.

  Args:
    index: of the document in its source.
    name: its id.
    text: its raw text, or what of it counts.
    nats: [N-1] losses; nats[i] is that of the target at position i + 1.
    hits: [N-1] bool.
    window: W, the unit of the position buckets.
    scored: [N-1] bool, which of them count; None for all.
  """
  nats = nats.astype(np.float64)
  counts = np.ones(len(nats), bool) if scored is None else scored
  edges = position_edges(window, len(nats) + 1)
  buckets = []
  for first, end in itertools.pairwise(edges):
    here = slice(max(first - 1, 0), end - 1)
    inside = nats[here][counts[here]]
    if inside.size:
      buckets.append(Bucket(first, end, inside.size, float(inside.sum())))
  return DocumentScore(
    index=index,
    id=name,
    tokens=int(counts.sum()),
    words=len(text.split()),
    bytes=len(text.encode()),
    nats=float(nats[counts].sum()),
    hits=int(hits[counts].sum()),
    buckets=buckets,
  )


def summarise(documents: Sequence[DocumentScore]) -> dict[str, Any]:
  """The statistics of an evaluation, ready for JSON; a number that is not finite becomes None."""
  documents = sorted(documents, key=lambda document: document.index)
  found = [perplexity(document.nats / document.tokens) for document in documents]
  spread = [one for one in found if one is not None]
  broken = [document.id for document in documents if not math.isfinite(document.nats)]
  return {
    **_rates(documents),
    "interval": interval([d.tokens for d in documents], [d.nats for d in documents]),
    "not_finite": broken,
    "perplexity_per_document": {
      "min": min(spread),
      "median": statistics.median(spread),
      "max": max(spread),
      "standard_deviation": statistics.pstdev(spread),
    }
    if spread
    else None,
    "positions": _positions(documents),
    "documents": [{"id": document.id, **_rates([document])} for document in documents],
  }


def _rates(documents: Sequence[DocumentScore]) -> dict[str, Any]:
  tokens = sum(document.tokens for document in documents)
  words = sum(document.words for document in documents)
  size = sum(document.bytes for document in documents)
  nats = math.fsum(document.nats for document in documents)
  return {
    "tokens": tokens,
    "words": words,
    "bytes": size,
    "nats": nats if math.isfinite(nats) else None,
    "nats_per_token": nats / tokens if math.isfinite(nats) else None,
    "perplexity": perplexity(nats / tokens),
    "word_perplexity": perplexity(nats / words) if words else None,
    "bits_per_byte": nats / math.log(2) / size if math.isfinite(nats) else None,
    "accuracy": sum(document.hits for document in documents) / tokens,
  }


def _positions(documents: Sequence[DocumentScore]) -> list[dict[str, Any]]:
  """Perplexity by position of the target in its document; the longest documents reach farthest."""
  groups: dict[tuple[int, int], list[Bucket]] = {}
  for document in documents:
    for bucket in document.buckets:
      groups.setdefault((bucket.first, bucket.end), []).append(bucket)
  rows = []
  for (first, end), buckets in sorted(groups.items()):
    tokens = sum(bucket.tokens for bucket in buckets)
    nats = math.fsum(bucket.nats for bucket in buckets)
    rows.append(
      {
        "from": first,
        "to": end,
        "documents": len(buckets),
        "tokens": tokens,
        "nats": nats if math.isfinite(nats) else None,
        "perplexity": perplexity(nats / tokens),
      }
    )
  return rows


def _fits(nats: float) -> bool:
  return math.isfinite(nats) and bool(nats < 700)  # exp(710) overflows


def perplexity(nats: float) -> float | None:
  """The perplexity of a mean loss in nats; None where it is not a finite number."""
  return math.exp(nats) if _fits(nats) else None


# -- Uncertainty -----------------------------------------------------------------------------------


def interval(tokens: Sequence[int], nats: Sequence[float]) -> list[float] | None:
  """[low, high]: 95 % bootstrap interval of the perplexity, documents resampled.

  Documents weigh by their tokens.  None for fewer than two documents, or a loss not finite.
  """
  return _percentiles(np.asarray(nats, np.float64), np.asarray(tokens, np.float64))


class Change(NamedTuple):
  """Change of a perplexity against that of a base; 0.1 is 10 % more."""

  mean: float
  within: list[float] | None  # [low, high]: 95 % interval; None for fewer than two documents

  def __str__(self) -> str:
    if self.within is None:
      return f"{self.mean:+.1%}"
    low, high = self.within
    return f"{self.mean:+.1%} ({low:+.1%} to {high:+.1%})"


def same_tokens(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
  """Whether two evaluations have read the same tokens."""
  first, second = ([(d["id"], d["tokens"]) for d in e["documents"]] for e in (one, two))
  return first == second


def change(evaluation: Mapping[str, Any], base: Mapping[str, Any]) -> Change | None:
  """Change of the perplexity; None if other tokens were read, or a perplexity is not finite.

  Documents are resampled in pairs: what is hard is hard for both, so the interval is much narrower
  than those of the two perplexities.
  """
  if not same_tokens(evaluation, base) or None in (evaluation["perplexity"], base["perplexity"]):
    return None
  tokens, nats, others = (
    np.asarray([document[key] for document in e["documents"]], np.float64)
    for key, e in (("tokens", evaluation), ("nats", evaluation), ("nats", base))
  )
  bounds = _percentiles(nats - others, tokens)
  mean = math.expm1((evaluation["nats"] - base["nats"]) / evaluation["tokens"])
  return Change(mean, None if bounds is None else [bound - 1 for bound in bounds])


def _percentiles(nats: np.ndarray, tokens: np.ndarray) -> list[float] | None:
  bounds = mean_interval(nats, tokens)
  if bounds is None or not _fits(bounds[1]):
    return None
  return [math.exp(bound) for bound in bounds]


def mean_interval(sums: np.ndarray, counts: np.ndarray) -> list[float] | None:
  """[low, high]: 95 % bootstrap interval of sums / counts in all, documents resampled.

  Args:
    sums: [documents] of what is averaged.
    counts: [documents] how many each sum is of; all above 0.

  Returns:
    None for fewer than two documents, or a sum that is not finite.
  """
  if len(counts) < 2 or not np.isfinite(sums).all():
    return None
  means = [sums[drawn].sum() / counts[drawn].sum() for drawn in _resamples(len(counts))]
  low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  return [float(low), float(high)]


def _resamples(documents: int) -> Iterator[np.ndarray]:
  generator = np.random.Generator(np.random.PCG64(SEED))
  for _ in range(RESAMPLES):
    yield generator.integers(0, documents, documents)


# -- Batches ---------------------------------------------------------------------------------------


def padded_share(lengths: Sequence[int], rows: int, segment: int) -> float:
  """Share of slots with a token if `rows` documents at a time were read until the longest ends.

  Args:
    lengths: tokens of every document, in the order of reading.
    rows: B.
    segment: T; a batch is read in whole segments, as the compiled program has them.
  """
  slots = 0
  for first in range(0, len(lengths), rows):
    slots += rows * -(-max(lengths[first : first + rows]) // segment) * segment
  return sum(lengths) / slots
