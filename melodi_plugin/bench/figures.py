"""What was measured, as tables and a picture."""

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from melodi_plugin.bench.compiled import Costs
from melodi_plugin.bench.decode import Point, Stretch
from melodi_plugin.bench.systems import LINEAR, Limit, Read, Trained
from melodi_plugin.bench.timing import medians
from melodi_plugin.bench.waits import First, Gaps, Rate
from melodi_plugin.bench.windows import Case
from melodi_plugin.output.figures import new_figure, png, style
from melodi_plugin.output.tables import Table, with_unit

MEMORY, STOCK = "with memory", "stock decoder"
_HEADER = (
  "",
  "tokens",
  "median ms",
  "min ms",
  "p99 ms",
  "CPU ms",
  "state of a row",
  "per token",
  "compiled",
)


def points_table(curves: dict[str, Sequence[Point]]) -> Table:
  """One line per model and number of tokens; `compiled` counts programs of the process so far."""
  rows = [
    [
      name,
      f"{point.tokens:,}",
      *(f"{number:.2f}" for number in point[1:5]),
      with_unit(point.state_bytes, "B"),
      with_unit(point.state_bytes / point.tokens, "B"),
      str(point.compiles),
    ]
    for name, points in curves.items()
    for point in points
  ]
  return Table("decode", _HEADER, rows)


def stretches_table(stretches: Sequence[Stretch]) -> Table:
  """One line per part of a long text."""
  header = ("tokens read", "tokens/s", "peak memory of the process", "state of the row", "compiled")
  rows = [
    [
      f"{part.tokens:,}",
      f"{part.reading:,.0f}",
      with_unit(part.peak_memory, "B"),
      with_unit(part.state_bytes, "B"),
      str(part.compiles),
    ]
    for part in stretches
  ]
  return Table("reading", header, rows)


def picture(curves: dict[str, Sequence[Point]]) -> bytes:
  """Time of a token, and bytes of a row, against the tokens that were read."""
  figure, (times, sizes) = new_figure(3.6, columns=2)
  for number, (name, points) in enumerate(curves.items()):
    x = [point.tokens for point in points]
    times.plot(x, [point.median for point in points], label=name, **style(number))
    sizes.plot(x, [point.state_bytes / 1e6 for point in points], **style(number))
  times.set_ylabel("milliseconds per token, median")
  sizes.set_ylabel("state of a row, MB")
  ticks = sorted({point.tokens for points in curves.values() for point in points})
  for axes in (times, sizes):
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(float(x))))
    axes.set_xlabel("tokens read")
  return png(figure)


def _short(tokens: int | float) -> str:
  return f"{tokens / 1024:g}K" if tokens >= 1024 else f"{tokens:g}"


def costs_table(models: dict[str, Costs]) -> Table:
  """One line per model."""
  header = ("", "arguments", "temporaries", "operations of products", "collectives", "compile s")
  rows = [
    [
      name,
      with_unit(own.arguments, "B"),
      with_unit(own.temporaries, "B"),
      with_unit(own.products),
      with_unit(sum(each.bytes for each in own.collectives), "B"),
      f"{own.seconds:,.0f}",
    ]
    for name, own in models.items()
  ]
  return Table("a chip, a step", header, rows)


def collectives_table(models: dict[str, Costs]) -> Table:
  """One line per model, kind, and turns of the loops around."""
  header = ("", "kind", "turns of loops", "count", "bytes")
  rows = [
    [name, own.kind, " x ".join(map(str, own.loops)), f"{own.count:,}", with_unit(own.bytes, "B")]
    for name, costs in models.items()
    for own in costs.collectives
  ]
  return Table("collectives", header, rows)


def buffers_table(models: dict[str, Costs]) -> Table:
  """The largest arrays of every type of element, each with what one of them is made by."""
  header = ("", "array", "bytes", "written by", "of which one is")
  rows = [
    [name, own.shape, with_unit(own.bytes, "B"), f"{own.count:,}", own.source]
    for name, costs in models.items()
    for own in costs.buffers
  ]
  return Table("largest arrays", header, rows)


def rates_table(rates: Sequence[Rate]) -> Table:
  """One line per number of slots."""
  header = ("slots and clients", "tokens/s, median", "least", "most")
  rows = [
    [f"{own.slots}", *(f"{f(own.rates):,.1f}" for f in (statistics.median, min, max))]
    for own in rates
  ]
  return Table("all clients together", header, rows)


def waits_table(first: First, between: Gaps, prefix: int, long: int) -> Table:
  """What one client waits for."""
  header = ("milliseconds to", "median", "least", "p99", "how many")
  named = {
    f"first token, {prefix:,} new tokens": first.cold,
    "first token, the same tokens with another end": first.warm,
    "next token, alone": between.alone,
    f"next token, beside {long:,} tokens that are read": between.beside,
  }
  rows = [
    [name, *(f"{1e3 * f(own):,.1f}" for f in (statistics.median, min, _p99)), f"{len(own)}"]
    for name, own in named.items()
    if own
  ]
  return Table("one client", header, rows)


def _p99(seconds: Sequence[float]) -> float:
  return float(np.quantile(seconds, 0.99))


def windows_table(cases: Sequence[Case], length: int) -> Table:
  """One line per program; trace and compile also in those of its fewest windows of `length`."""
  header = (
    "schedule, remat",
    "windows",
    "tokens of a row",
    "trace s",
    "compile s",
    "trace + compile, CPU s",
    "the same, fewest windows = 1",
    "StableHLO lines",
    "step s, median",
    "least",
    "step CPU s, median",
    "tokens/s",
    "temporaries MB",
  )
  fewest: dict[str, Case] = {}
  for case in sorted(cases, key=lambda case: case.windows):
    fewest.setdefault(_program(case), case)
  rows = []
  for case in cases:
    own, first = case.measured, fewest[_program(case)].measured
    step = medians(own.steps)
    rows.append(
      [
        _program(case),
        str(case.windows),
        f"{case.windows * length:,}",
        *(f"{number:.1f}" for number in (own.trace.clock, own.compile.clock, own.start.cpu)),
        f"{own.start.cpu / first.start.cpu:.2f}",
        f"{own.lines:,}",
        *(f"{number:.2f}" for number in (step.clock, min(own.steps).clock, step.cpu)),
        f"{own.tokens_per_second:,.0f}",
        f"{own.temporaries / 1e6:,.0f}",
      ]
    )
  return Table("windows", header, rows)


def _program(case: Case) -> str:
  return f"{case.schedule}, {case.remat}"


def trained_table(systems: dict[str, Trained], limit: Limit) -> Table:
  """One line per system; what a step takes is also said in steps of the first one."""
  yardstick = next(iter(systems))
  header = (
    "",
    "parameters",
    "FLOP of a step",
    "tokens/s, median",
    "least",
    "most",
    "CPU s of a step",
    "temporaries",
    "compile s",
    f"time, {yardstick} = 1",
    f"FLOP, {yardstick} = 1",
    "of the rate of products",
  )
  rows = []
  for name, own in systems.items():
    rates, (time, work) = own.rates, own.over(systems[yardstick])
    rows.append(
      [
        name,
        with_unit(own.parameters),
        with_unit(own.operations),
        *(f"{number:,.0f}" for number in (np.median(rates), min(rates), max(rates))),
        f"{medians(own.steps).cpu:.2f}",
        with_unit(own.temporaries, "B"),
        f"{own.compiling.clock:.1f}",
        f"{time:.2f}",
        f"{work:.2f}",
        f"{own.share(limit):.0%}",
      ]
    )
  return Table("training", header, rows)


def said_of(limit: Limit) -> str:
  """How fast the machine multiplies, in a sentence."""
  rate, taken = with_unit(limit.rate, "FLOP/s"), sorted(own.clock for own in limit.taken)
  spread = f"{1e3 * taken[0]:,.0f} to {1e3 * taken[-1]:,.0f} ms"
  return f"products of {limit.size:,} x {limit.size:,}: {rate}, a piece in {spread}"


def read_table(systems: dict[str, Read]) -> Table:
  """One line per system: seconds by the clock, and how they grow."""
  lengths = max((list(own.seconds) for own in systems.values()), key=len)
  seconds = (f"s, {_short(length)}" for length in lengths)
  header = ("", *seconds, "CPU s of the longest", "tokens/s", "growth", "linear")
  rows = []
  for name, own in systems.items():
    found = {length: medians(taken) for length, taken in own.seconds.items()}
    longest, growth = max(found, default=None), own.growth
    rows.append(
      [
        name,
        *(f"{found[length].clock:.2f}" if length in found else "-" for length in lengths),
        "-" if longest is None else f"{found[longest].cpu:.2f}",
        "-" if longest is None else f"{longest / found[longest].clock:,.0f}",
        "-" if growth is None else f"{growth:.2f}",
        "-" if growth is None else "yes" if growth <= 1 + LINEAR else "no",
      ]
    )
  return Table("reading", header, rows)


def systems_picture(trained: dict[str, Trained], read: dict[str, Read]) -> bytes:
  """Time of a step against its products, and of documents against their tokens."""
  yardstick = next(iter(trained))
  figure, (steps, documents) = new_figure(5.2, columns=2)
  for number, (name, own) in enumerate(trained.items()):
    time, work = own.over(trained[yardstick])
    steps.plot([work], [time], label=name, linestyle="none", **style(number))
    seconds = {length: medians(taken).clock for length, taken in read[name].seconds.items()}
    documents.plot(list(seconds), list(seconds.values()), **style(number))
  steps.axline((1, 1), slope=1, color="0.7", zorder=0)  # as many operations a second
  steps.set_xlabel(f"products of a step, {yardstick} = 1")
  steps.set_ylabel(f"time of a step, {yardstick} = 1")
  documents.set_xscale("log", base=2)
  documents.set_yscale("log")
  documents.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  documents.yaxis.set_minor_locator(NullLocator())
  documents.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
  documents.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(float(x))))
  documents.set_xlabel("tokens of a document")
  documents.set_ylabel("seconds to read it")
  return png(figure)
