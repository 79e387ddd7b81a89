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
  from melodi_plugin.data.corpora import prepare_corpus

  prepare_corpus(config.melodi_prepare_data, pathlib.Path(config.grain_train_files).parent)


def evaluate_last_checkpoint(argv: Sequence[str], config: Any) -> None:
  """Evaluates what training left, with memory and with memory reset at every window."""
  from melodi_plugin.evaluate import evaluate

  folder = pathlib.Path(config.checkpoint_dir)
  steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
  if not steps:
    stop(
      f"melodi_evaluate_after_training needs a checkpoint, but {folder} has none; set "
      "enable_checkpointing=true."
    )
  checkpoint = folder / str(max(steps)) / "items"
  argv = [*argv, f"load_parameters_path={checkpoint}"]
  carried = evaluate(argv)
  if not config.melodi_summary_tokens:
    print(f"\ntest perplexity {carried['perplexity']:.2f} (a model without memory)")
    return
  control = evaluate([*argv, "melodi_reset_every_window=true"])
  print(
    f"\ntest perplexity {carried['perplexity']:.2f} with memory, "
    f"{control['perplexity']:.2f} with memory reset at every window\n"
    "(the second is out of distribution for this model: it never saw an empty memory in the middle "
    "of a document.)\n"
    f"checkpoint: {checkpoint}\n"
    "Next: train the same model without memory, for the fair comparison:\n"
    "  uv run python -m melodi_plugin.train configs/yaml/window_only_shakespeare_cpu.yml"
  )


def main(argv: Sequence[str]) -> None:
  """Registers the plugin and hands over to `maxtext.trainers.pre_train.train`."""
  quiet_checkpoint_log()
  config = load_config(argv)
  from maxtext.trainers.pre_train import train

  if config.melodi_prepare_data:
    prepare(config)
  train.main(argv)
  if config.melodi_evaluate_after_training:
    evaluate_last_checkpoint(argv, config)


if __name__ == "__main__":
  app.run(main)
