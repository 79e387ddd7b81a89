"""`melodi bench`: trace, compile, step time and memory against the number of windows."""

import argparse
import platform

import jax
import jax.numpy as jnp

from melodi_plugin.bench.windows import BATCH, CONFIG, measure
from melodi_plugin.cost.accounting import parameters


def main(options: argparse.Namespace) -> None:
  """Prints one row per schedule and number of windows."""
  device = jax.devices()[0]
  jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(2)))  # start the backend before measuring
  print(f"{device.platform} {device.device_kind}, {platform.machine()}, jax {jax.__version__}, ")
  print(f"{parameters(CONFIG):,} parameters, batch {BATCH}, float32\n")
  print("| schedule | windows (T) | trace s | compile s | StableHLO lines ", end="")
  print("| step median / min s | tokens/s | temp MB |")
  print("|---|---|---|---|---|---|---|---|")
  for schedule in options.schedules:
    for windows in options.windows:
      row = measure(schedule, windows, options.repeats)
      print(
        f"| {schedule} | {windows} ({windows * CONFIG.window_length}) | {row['trace']:.1f} "
        f"| {row['compile']:.1f} | {row['lines']:,} | {row['median']:.2f} / {row['min']:.2f} "
        f"| {row['tokens_per_second']:,.0f} | {row['temp_mb']:,.0f} |",
        flush=True,
      )
