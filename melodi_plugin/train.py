"""`python -m melodi_plugin.train config.yml [key=value ...]`: MaxText's trainer, with MELODI."""

from collections.abc import Sequence

from absl import app

from melodi_plugin.registration import register


def main(argv: Sequence[str]) -> None:
  """Registers the plugin and hands over to `maxtext.trainers.pre_train.train`."""
  register()
  from maxtext.trainers.pre_train import train

  train.main(argv)


if __name__ == "__main__":
  app.run(main)
