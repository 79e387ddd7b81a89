"""What the paper prints (Chen et al., ICLR 2025), and nothing else: memory, model size, perplexity.

By the names of `paper_configs.ROWS`.  A row of several tables stands here once.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Corpus and vocabulary.  The ablations name the corpus only; their numbers fit T5's.
CORPORA = (
  "PG-19 Meena",
  "PG-19 T5",
  "PG-19 custom",
  "arXiv Meena",
  "arXiv custom",
  "C4(4K+) custom",
  "PG-19",
)
_T5, _ARXIV, _ABLATED = CORPORA[1], CORPORA[3], CORPORA[-1]


class Printed(NamedTuple):
  """Millions of numbers, and perplexities by `CORPORA`; None where the paper prints none."""

  all: float | None = None
  short: float | None = None
  long: float | None = None
  parameters: float | None = None  # without the embedding table
  perplexity: Mapping[str, float] = {}

  @property
  def figures(self) -> tuple[float | None, ...]:
    """All but the perplexities: what is counted without training."""
    return self[:4]


def _main(memory: tuple[float, float, float], size: float | None, *perplexity: float) -> Printed:
  return Printed(*memory, size, dict(zip(CORPORA[:-1], perplexity, strict=True)))


def _t5(memory: float, size: float | None, perplexity: float) -> Printed:
  return Printed(memory, parameters=size, perplexity={_T5: perplexity})


def _headline(pg19: float, arxiv: float) -> Printed:
  return Printed(perplexity={_T5: pg19, _ARXIV: arxiv})


def _ablated(perplexity: float, short: float | None = None, long: float | None = None) -> Printed:
  return Printed(short=short, long=long, perplexity={_ABLATED: perplexity})


_MAIN = {
  "xl": _main((12.6, 12.6, 0.0), 151.0, 8.76, 11.54, 12.63, 2.61, 3.23, 18.61),
  "block_recurrent": _main((12.1, 12.1, 0.0), None, 8.47, 11.12, 12.11, 2.27, 2.73, 18.27),
  "s192_l32": _main((10.8, 2.4, 8.4), None, 8.22, 10.66, 11.66, 2.13, 2.55, 18.03),
  "memorizing": _main((146.8, 12.6, 134.2), 151.0, 8.15, 10.74, 11.68, 2.15, 2.57, 17.88),
  "s128_l64": _main((18.4, 1.6, 16.8), 153.0, 8.16, 10.61, 11.66, 2.13, 2.55, 18.01),
  "s192_l96": _main((27.6, 2.4, 25.2), 153.0, 8.08, 10.48, 11.47, 2.11, 2.51, 17.75),
}
_ABSTRACT = {
  "headline_s128_l64": _headline(10.44, 2.11),
  "headline_memorizing": _headline(10.62, 2.14),
}
_SCALING = {
  "xl_24_layers": _t5(25.2, 302.0, 10.15),
  "memorizing_24_layers": _t5(159.4, 302.0, 9.45),
  "s128_l64_24_layers": _t5(20.0, 306.0, 9.30),
  "s192_l96_24_layers": _t5(30.0, 309.0, 9.16),
  "xl_36_layers": _t5(37.8, 453.0, 9.61),
  "memorizing_36_layers": _t5(172.0, 453.0, 8.92),
  "s128_l64_36_layers": _t5(21.6, 459.0, 8.81),
  "s192_l96_36_layers": _t5(32.4, 463.0, 8.70),
  "xl_16_layers_1536_wide": _t5(25.2, 453.0, 9.69),
  "memorizing_16_layers_1536_wide": _t5(226.5, 453.0, 9.01),
  "s128_l64_16_layers_1536_wide": _t5(28.3, 456.0, 8.89),
  "s192_l96_16_layers_1536_wide": _t5(42.5, 459.0, 8.79),
}
_WINDOWS = {
  "xl_window_1024": _t5(25.2, None, 11.26),
  "memorizing_window_1024": _t5(159.4, None, 10.64),
  "s256_l128_window_1024": _t5(20.0, None, 10.47),
  "s384_l192_window_1024": _t5(30.0, None, 10.36),
  "xl_window_1024_sequence_8192": _t5(25.2, None, 11.18),
  "memorizing_window_1024_sequence_8192": _t5(159.4, None, 10.42),
  "s256_l128_window_1024_sequence_8192": _t5(20.0, None, 10.27),
  "s384_l192_window_1024_sequence_8192": _t5(30.0, None, 10.19),
  "xl_window_2048_sequence_8192": _t5(50.3, None, 10.94),
  "memorizing_window_2048_sequence_8192": _t5(184.5, None, 10.38),
  "s512_l256_window_2048_sequence_8192": _t5(23.1, None, 10.20),
  "s768_l384_window_2048_sequence_8192": _t5(34.6, None, 10.10),
}

# Ablation 1: L across, S and its memory down.
ABLATED_LONG = {0: 0.0, 8: 2.1, 16: 4.2, 32: 8.4, 64: 16.8, 96: 25.2}
ABLATED_SHORT = {8: 0.1, 16: 0.2, 32: 0.4, 64: 0.9, 128: 1.7, 192: 2.6, 256: 3.4}
_GRID = (
  (11.81, 11.69, 11.59, 11.42, 11.34, 11.15),
  (11.75, 11.63, 11.47, 11.35, 11.24, 11.10),
  (11.60, 11.57, 11.40, 11.25, 11.11, 11.07),
  (11.52, 11.43, 11.36, 11.23, 11.08, 10.98),
  (11.39, 11.41, 11.27, 11.08, 10.95, 10.90),
  (11.28, 11.25, 11.14, 11.02, 10.89, 10.83),
  (11.26, 11.23, 11.11, 10.93, 10.83, 10.77),
)
_ABLATION = {
  f"ablation_s{short}_l{long}": _ablated(perplexity, short_memory, long_memory)
  for (short, short_memory), line in zip(ABLATED_SHORT.items(), _GRID, strict=True)
  for (long, long_memory), perplexity in zip(ABLATED_LONG.items(), line, strict=True)
}
# Ablation 2; with branching they are two of ablation 1.
_UNBRANCHED = {
  "ablation_s128_l0_unbranched": _ablated(11.68),
  "ablation_s128_l64_unbranched": _ablated(11.24),
}

PRINTED = _MAIN | _ABSTRACT | _SCALING | _WINDOWS | _ABLATION | _UNBRANCHED


def perplexity_columns(
  rows: Sequence[Mapping[str, float]],
) -> tuple[list[str], list[list[str]]]:
  """A column for every corpus that a row has a perplexity of: the header, and every row's cells."""
  corpora = [corpus for corpus in CORPORA if any(corpus in row for row in rows)]
  cells = [[f"{row[c]:.2f}" if c in row else "-" for c in corpora] for row in rows]
  return [f"printed, {corpus}" for corpus in corpora], cells
