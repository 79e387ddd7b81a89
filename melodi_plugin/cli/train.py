"""`melodi train`: MaxText's trainer, with memory; `melodi compile`: its step, ahead of time.

Two keys of ours act here: `melodi_prepare_data` writes a demo corpus first, and
`melodi_evaluate_after_training` reads the documents of `grain_eval_files` at the end.
"""

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

import jax

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.errors import UserError
from melodi_plugin.evaluation.conditions import memory_of
from melodi_plugin.evaluation.evaluate import evaluate
from melodi_plugin.maxtext.launch import compile_ahead, train
from melodi_plugin.maxtext.machine import written
from melodi_plugin.maxtext.weights import reading, run_checkpoints
from melodi_plugin.training.progress import quiet_logs


def evaluate_last_checkpoint(argv: Sequence[str], config: Any) -> None:
  """Evaluates what training left, with memory and with memory reset at every window."""
  try:
    checkpoint = _last_checkpoint(config)
  except ValueError:
    raise UserError(
      f"melodi_evaluate_after_training needs a checkpoint, but {config.checkpoint_dir} has none; "
      "set enable_checkpointing=true."
    ) from None
  argv = [*argv, *reading(checkpoint)]
  if written(argv, "hardware") is None:  # found by training, and said
    argv.append(f"hardware={config.hardware}")
  if config.melodi_probe:
    evaluate(argv)
    return
  carried = evaluate([*argv, "melodi_reset_every_window=false"])[0]
  if memory_of(config) == "none":
    print(f"\ntest perplexity {_number(carried)} (a model without memory)")
    return
  control = evaluate([*argv, "melodi_reset_every_window=true"])[0]
  print(
    f"\ntest perplexity {_number(carried)} with memory, "
    f"{_number(control)} with memory reset at every window\n"
    "(the second is out of distribution for this model: it never saw an empty memory in the middle "
    "of a document.)\n"
    f"checkpoint: {checkpoint}\n"
    "Next: train the same model without memory, for the fair comparison:\n"
    "  uv run melodi train configs/yaml/window_only_shakespeare_cpu.yml"
  )


def _number(evaluation: dict[str, Any]) -> str:
  perplexity = evaluation["perplexity"]
  return "not finite" if perplexity is None else f"{perplexity:.2f}"


def train_and_evaluate(options: argparse.Namespace) -> None:
  """Trains, then evaluates if the config asks for it."""
  argv = ["", options.config, *options.keys]
  config = train(argv)
  if config.melodi_evaluate_after_training:
    quiet_logs()
    evaluate_last_checkpoint(argv, config)
  if jax.process_index() == 0 and (command := decode_command(config, options)):
    print(f"Write text with what was trained:\n  {command}")


def decode_command(config: Any, options: argparse.Namespace) -> str | None:
  """How to write text with the last checkpoint; None without one, or without memory."""
  if not config.enable_checkpointing or not is_melodi(config):
    return None
  try:
    checkpoint = _last_checkpoint(config)
  except ValueError:
    return None
  others = ("load_parameters_path=", "melodi_adapter=", "prompt=")
  keys = [key for key in options.keys if not key.startswith(others)]
  words = [options.config, *keys, f"load_parameters_path={checkpoint}", "prompt=The"]
  return f"uv run melodi decode {shlex.join(words)}"


def _last_checkpoint(config: Any) -> str:
  return run_checkpoints(config.checkpoint_dir)[-1]


def compile_only(options: argparse.Namespace) -> None:
  """Compiles; MaxText prints what it finds."""
  compile_ahead(["", options.config, *options.keys])
