"""Runs the probe that a config names: `melodi evaluate cfg.yml … melodi_probe=mqar`."""

from typing import Any

from melodi_plugin.errors import UserError
from melodi_plugin.evaluation.probes import mqar, passkey, rare_words, reading, result


def run(config: Any) -> dict[str, Any]:
  """Runs the probe `melodi_probe` on the checkpoint of `config`, writes and prints what it finds.

  Returns:
    What `probe_<name>.json` holds.
  """
  measure = {
    "mqar": mqar.measure,
    "passkey": passkey.measure,
    "rare_words": rare_words.measure,
  }[config.melodi_probe]
  try:
    found = reading.conditions(config) | measure(config)
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error
  result.table([found]).show()
  print(f"written to {result.write(config, found)}", flush=True)
  return found
