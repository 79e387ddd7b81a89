"""`python -m melodi_plugin.train config.yml [key=value ...]`: MaxText's trainer, with MELODI.

Two keys of ours act here: `melodi_prepare_data` writes a demo corpus first, and
`melodi_evaluate_after_training` reads the documents of `grain_eval_files` at the end.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import app

from melodi_plugin.launch import load_config, stop
from melodi_plugin.progress import quiet_checkpoint_log


def prepare(config: Any) -> None:
  """Writes the corpus of `melodi_prepare_data` into the folder of `grain_train_files`."""
  from melodi_plugin.data.corpus.presets import prepare_corpus

  prepare_corpus(config.melodi_prepare_data, pathlib.Path(config.grain_train_files).parent)


def evaluate_last_checkpoint(argv: Sequence[str], config: Any) -> None:
  """Evaluates what training left, with memory and with memory reset at every window."""
  from melodi_plugin.evaluate import evaluate, memory_of
  from melodi_plugin.scoring import find_checkpoints

  try:
    checkpoint = find_checkpoints(f"{config.checkpoint_dir.rstrip('/')}/*/items")[-1]
  except ValueError:
    stop(
      f"melodi_evaluate_after_training needs a checkpoint, but {config.checkpoint_dir} has none; "
      "set enable_checkpointing=true."
    )
  argv = [*argv, f"load_parameters_path={checkpoint}"]
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
    "  uv run python -m melodi_plugin.train configs/yaml/window_only_shakespeare_cpu.yml"
  )


def _number(evaluation: dict[str, Any]) -> str:
  perplexity = evaluation["perplexity"]
  return "not finite" if perplexity is None else f"{perplexity:.2f}"


def main(argv: Sequence[str]) -> None:
  """Registers the plugin and hands over to `maxtext.trainers.pre_train.train`."""
  quiet_checkpoint_log()
  config = load_config(argv)
  from maxtext.trainers.pre_train import train

  from melodi_plugin.data.documents import BrokenDocument
  from melodi_plugin.data.row import StateMismatch

  if config.melodi_prepare_data:
    prepare(config)
  try:
    train.main(argv)
  except (BrokenDocument, StateMismatch) as error:
    stop(str(error))
  if config.melodi_evaluate_after_training:
    evaluate_last_checkpoint(argv, config)


if __name__ == "__main__":
  app.run(main)
