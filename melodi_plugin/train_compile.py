"""`python -m melodi_plugin.train_compile config.yml compile_topology=...`: no TPU needed."""

from collections.abc import Sequence

from absl import app

from melodi_plugin.launch import load_config


def main(argv: Sequence[str]) -> None:
  """Registers the plugin and hands over to `maxtext.trainers.pre_train.train_compile`."""
  load_config(argv)  # reads it once more below, but says what is wrong in one sentence
  from maxtext.trainers.pre_train import train_compile

  train_compile.main(argv)


if __name__ == "__main__":
  app.run(main)
