"""`melodi bench`: how fast a model trains (windows), beside which others (systems), how fast it
writes (decode), and answers many (serve).

`bench compile` counts what a training step costs on accelerators that are not here.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from melodi_plugin.bench import decode as decoding
from melodi_plugin.bench import figures, peers
from melodi_plugin.bench import systems as side_by_side
from melodi_plugin.bench.compiled import Costs, costs
from melodi_plugin.bench.windows import BATCH, CONFIG, Case, measure
from melodi_plugin.config.systems import has_base_block, is_melodi
from melodi_plugin.cost.accounting import parameters
from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.maxtext.launch import compile_ahead
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.maxtext.run_log import off_the_screen
from melodi_plugin.maxtext.steps import remat_named
from melodi_plugin.maxtext.stock_decoder import StockDecoder, fresh_params, stock_keys
from melodi_plugin.output.bars import tokens_bar
from melodi_plugin.output.files import check_writable, write_file
from melodi_plugin.output.tables import with_unit
from melodi_plugin.serving.engine import Engine
from melodi_plugin.training.progress import quiet_logs

# What `bench decode` measures where no config is given: six layers with the paper's windows.
_SMALL = (
  *peers.NARROW,
  "base_num_decoder_layers=6",
  "max_target_length=1024",
  "melodi_window_length=512",
  "melodi_long_term_windows=16",
)
_BASE = "src/maxtext/configs/base.yml"
_STOCK_STEPS = 256  # no windows close there
_PARTS = 10  # of a long text


def windows(options: argparse.Namespace) -> None:
  """Prints one row per schedule, remat policy and number of windows, or JSON."""
  with user_errors(ValueError):
    policies = {name: remat_named(name) for name in options.remat}
  machine, found = _started(), []
  for schedule, (name, remat), count in itertools.product(
    options.schedules, policies.items(), options.windows
  ):
    print(f"{schedule}, remat {name}, {count} windows", file=sys.stderr)
    found.append(Case(schedule, name, count, measure(schedule, count, options.repeats, remat)))
  if options.json:
    print(json.dumps({"machine": machine, "cases": [own.as_json() for own in found]}))
    return
  print(f"{machine}, {parameters(CONFIG):,} parameters, batch {BATCH}, float32")
  print(f"\n{figures.windows_table(found, CONFIG.window_length).markdown()}", end="")


def systems(options: argparse.Namespace) -> None:
  """Prints two tables, or JSON, and writes a picture."""
  quiet_logs()
  words = _words(options, peers.SMALL)
  shared = load_config(words)
  _check_memory(shared)
  if has_base_block(shared):
    raise UserError(
      f"melodi_base_block={shared.melodi_base_block} keeps the layers of a stock block, and the "
      "systems that are compared have the paper's; give a config without it."
    )
  with user_errors(ValueError, OSError):
    check_writable(options.out)
  lengths = _documents(options.read, shared.max_target_length)
  configs = _configs(shared, [*words, f"hardware={shared.hardware}"], options)
  tokens = shared.global_batch_size_to_train_on * shared.max_target_length
  steps = len(configs) * (options.repeats + 1)
  machine = f"{_started()}, load {os.getloadavg()[0]:.1f}"
  # As MaxText's trainer does; drawing dropout's bits takes time.
  jax.config.update("jax_default_prng_impl", "unsafe_rbg")
  with user_errors(ValueError, OSError):
    with tokens_bar("training", steps * tokens) as advance, off_the_screen():
      trained, limit = side_by_side.train(configs, options.repeats, advance)
    total = options.repeats * side_by_side.tokens_to_read(configs, lengths, options.stock)
    with tokens_bar("reading", total) as advance, off_the_screen():
      read = side_by_side.read(configs, lengths, options.stock, options.repeats, advance)
    write_file(options.out, figures.systems_picture(trained, read))
  load = f"load {os.getloadavg()[0]:.1f} at the end"
  if options.json:
    found = {name: own.as_json() | read[name]._asdict() for name, own in trained.items()}
    both = {"machine": f"{machine}, {load}", "limit": limit._asdict(), "systems": found}
    print(json.dumps(both))
    return
  print(f"{machine}, {load}\n{_sizes_of(shared)}\n{figures.said_of(limit)}")
  print(f"\n{figures.trained_table(trained, limit).markdown()}")
  print(figures.read_table(read).markdown(), end="")
  print(f"\npicture in {options.out}")


def _documents(asked: list[int] | None, segment: int) -> list[int]:
  """Tokens of the documents to read, which are read in whole segments."""
  lengths = asked or [2 * segment, 8 * segment, 16 * segment]
  for length in lengths:
    if length % segment:
      raise UserError(
        f"--read {length}: documents are read in whole segments of max_target_length={segment} "
        "tokens; give multiples of it."
      )
  return lengths


def _sizes_of(config: Any) -> str:
  """What the systems share, in a line."""
  rows, length = config.global_batch_size_to_train_on, config.max_target_length
  sizes = f"{config.num_decoder_layers} layers of {config.emb_dim}, FFN {config.mlp_dim}"
  text = f"{rows} rows of {length:,} tokens in windows of {config.melodi_window_length:,}"
  return f"{sizes}, {text}, {config.dtype}, remat_policy {config.remat_policy}"


def _configs(shared: Any, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
  """MaxText's config of every system that is measured, by name; what is wrong is said here."""
  keys = {
    name: stock_keys(shared) if name == peers.STOCK else peers.keys_of(name, shared)
    for name in options.systems
  }
  for length in options.xl_windows:
    own = f"melodi_window_length={length}"
    keys[peers.with_windows(length)] = [*peers.keys_of(peers.YARDSTICK, shared), own]
  return {name: load_config([*words, *own]) for name, own in keys.items()}


def _started() -> str:
  """Starts the backend, and says what it is."""
  device = jax.devices()[0]
  jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(2)))
  return f"{device.platform} {device.device_kind}, {platform.machine()}, jax {jax.__version__}"


def compile_step(options: argparse.Namespace) -> None:
  """Prints tables, and writes all numbers if they are wanted."""
  quiet_logs()
  words = ["", options.config, *options.keys, WITHOUT_DOCUMENTS]
  config = load_config(words, here=False)
  _check_memory(config)
  if options.json:
    with user_errors(OSError):
      check_writable(options.json)
  stock = [*words, *stock_keys(config)]
  load_config(stock, here=False)  # what is wrong with it is said before minutes of compiling
  found = {figures.MEMORY: _compiled(words), figures.STOCK: _compiled(stock)}
  if options.json:
    text = json.dumps({name: own.as_json() for name, own in found.items()}, indent=2)
    write_file(options.json, text.encode())
  print(f"{config.compile_topology}, one chip, one step, {config.max_target_length} tokens a row\n")
  print(figures.costs_table(found).markdown())
  print(figures.collectives_table(found).markdown())
  print(figures.buffers_table(found).markdown(), end="")


def _check_memory(config: Any) -> None:
  if not is_melodi(config):
    raise UserError(
      f"decoder_block: {config.decoder_block.value} has no memory; give a config with one."
    )


def _compiled(words: list[str]) -> Costs:
  began = time.perf_counter()
  with off_the_screen():
    step = compile_ahead(words)
  return costs(step, time.perf_counter() - began)


def decode(options: argparse.Namespace) -> None:
  """Prints a table, or JSON, and writes a picture."""
  quiet_logs()
  words = _words(options, _SMALL)
  config = load_config(words)
  _check_memory(config)
  with user_errors(ValueError, OSError), decoding.Compiles().counted() as compiles:
    machine = f"{_started()}, load {os.getloadavg()[0]:.1f}"
    found = _with_memory(config, options, compiles)
    stock = [_stock(config, words, tokens, compiles) for tokens in sorted(options.stock)]
    curves = {figures.MEMORY: found["points"], figures.STOCK: stock}
    write_file(options.out, figures.picture(curves))
  if options.json:
    points = {name: [point._asdict() for point in points] for name, points in curves.items()}
    long = [part._asdict() for part in found["long"]]
    print(json.dumps(found | {"machine": machine, "points": points, "long": long}))
    return
  print(
    f"{machine}, {options.slots} slots, {config.dtype}, load {os.getloadavg()[0]:.1f} at the end"
  )
  print(f"\n{figures.points_table(curves).markdown()}")
  print(f"reading {found['reading']:,.0f} tokens/s; ", end="")
  if found["close"] is not None:
    print(f"closing windows takes {found['close']:.1f} ms; ", end="")
  print(f"a slot takes {with_unit(found['slot_bytes'], 'B')}; picture in {options.out}")
  if found["long"]:
    print(f"\n{figures.stretches_table(found['long']).markdown()}", end="")


def _words(options: argparse.Namespace, small: Sequence[str]) -> list[str]:
  """The command line of a config that is measured; without one, that of a small model."""
  own = options.keys if options.config else [*small, *options.keys]
  return ["", options.config or _BASE, WITHOUT_DOCUMENTS, "enable_checkpointing=false", *own]


def _with_memory(
  config: Any, options: argparse.Namespace, compiles: decoding.Compiles
) -> dict[str, Any]:
  """What the model with memory costs, by name."""
  with off_the_screen():
    engine = Engine(PreparedModel.fresh(config), options.slots)
  read = sorted(options.read)
  with tokens_bar("with memory", read[-1] + 2 * engine.window) as advance:
    found = decoding.with_memory(engine, read, compiles, advance)
  long = []
  if options.tokens:
    with tokens_bar("reading", options.tokens) as advance:
      long = decoding.read_long(engine, options.tokens, _PARTS, compiles, advance)
  return found._asdict() | {"slot_bytes": engine.row_bytes, "long": long}


def _stock(
  config: Any, words: list[str], tokens: int, compiles: decoding.Compiles
) -> decoding.Point:
  """What the stock decoder costs with room for so many tokens."""
  window = config.melodi_window_length
  text = decoding.noise(min(window, tokens // 2), config.vocab_size)
  room = tokens - len(text)
  print(f"stock decoder, {tokens:,} tokens", file=sys.stderr)
  # Of scanned layers MaxText would lay out all weights anew at every token.
  stock = load_config([*words, *stock_keys(config), "scan_layers=false"])
  with off_the_screen():
    decoder = StockDecoder(stock, text.tolist(), room, fresh_params(stock))
    return decoding.without_memory(decoder, tokens, min(_STOCK_STEPS, room - 1), compiles)


def serve(options: argparse.Namespace) -> None:
  """Starts servers, asks them, and prints two tables, or JSON."""
  try:
    from melodi_plugin.bench import serve as serving  # needs an extra
  except ModuleNotFoundError as error:
    raise UserError(f"bench serve needs {error.name}; install melodi-plugin[serve].") from error
  quiet_logs()
  words = [options.config, *options.keys]
  prompts = serving.Prompts(load_config(["", *words, WITHOUT_DOCUMENTS], here=False).vocab_size)
  rates, waits, slots = [], None, sorted(options.slots)
  with user_errors(ValueError, OSError), tokens_bar("servers", len(slots)) as advance:
    for count in slots:
      with serving.running_server(words, count) as url:
        own = serving.rate(url, count, options.tokens, options.repeats, prompts)
        rates.append(asyncio.run(own))
        if count == max(slots):  # two slots at least, where there are any
          first = asyncio.run(serving.first_token(url, options.prefix, options.repeats, prompts))
          between = asyncio.run(serving.gaps(url, options.tokens, options.read, prompts))
          waits = first, between
      advance(1)
  assert waits is not None
  machine = f"{_started()}, load {os.getloadavg()[0]:.1f}"
  if options.json:
    found = {"rates": [own._asdict() for own in rates]}
    print(json.dumps(found | waits[0]._asdict() | waits[1]._asdict() | {"machine": machine}))
    return
  print(f"{machine} at the end\n\n{figures.rates_table(rates).markdown()}")
  print(figures.waits_table(*waits, options.prefix, options.read).markdown(), end="")
