"""Runs the probe that a config names: `melodi evaluate cfg.yml … melodi_probe=mqar`."""

from typing import Any

from melodi_plugin.errors import UserError
from melodi_plugin.evaluation.probes import (
  longppl,
  mqar,
  new_names,
  pages,
  passkey,
  rare_words,
  reading,
  recall,
)
from melodi_plugin.evaluation.probes.suites import suite


def run(config: Any) -> dict[str, Any]:
  """Runs the probe `melodi_probe` on the checkpoint of `config`, writes and prints what it finds.

  Returns:
    What `probe_<name>.json` holds.
  """
  measure = {
    "mqar": mqar.measure,
    "recall": recall.measure,
    "passkey": passkey.measure,
    "rare_words": rare_words.measure,
    "longppl": longppl.measure,
    "new_names": new_names.measure,
    "ruler": suite.ruler,
    "babilong": suite.babilong,
  }[config.melodi_probe]
  try:
    found = reading.conditions(config) | measure(config)
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error
  for table in pages.tables([found]):
    table.show()
  print(f"{pages.tokens_words(found)}; written to {pages.write(config, found)}", flush=True)
  return found
