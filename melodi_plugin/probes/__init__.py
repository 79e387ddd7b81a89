"""Recall probes: what a model still knows of what it read d windows ago.

    mqar        key-value pairs, defined once and asked for later (its own corpus and tokenizer)
    passkey     a number hidden in filler text
    rare_words  names in real documents: loss on their repetitions

`python -m melodi_plugin.evaluate config.yml load_parameters_path=... melodi_probe=mqar` runs one;
`python -m melodi_plugin.probes a/probe_mqar.json b/probe_mqar.json out=mqar.png` compares results.

Reading order: result.py (what a probe finds), reading.py (how documents are scored), mqar.py,
passkey.py, spans.py (which characters a token stands for), rare_words.py, plots.py.
"""

from typing import Any


def run(config: Any) -> dict[str, Any]:
  """Runs the probe `melodi_probe` on the checkpoint of `config`, writes and prints what it finds.

  Returns:
    What `probe_<name>.json` holds.
  """
  from melodi_plugin.launch import stop
  from melodi_plugin.probes import mqar, passkey, rare_words, reading, result

  measure = {
    "mqar": mqar.measure,
    "passkey": passkey.measure,
    "rare_words": rare_words.measure,
  }[config.melodi_probe]
  try:
    found = reading.conditions(config) | measure(config)
  except (ValueError, OSError) as error:
    stop(str(error))
  result.table([found]).show()
  print(f"written to {result.write(config, found)}", flush=True)
  return found
