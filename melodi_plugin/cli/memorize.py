"""`melodi memorize`: documents read once, each into a memory file."""

import argparse

from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.output.bars import text_bar
from melodi_plugin.serving.checkpoint import Checkpoint
from melodi_plugin.serving.memorize import Memorizer
from melodi_plugin.serving.prompts import open_documents_of, skipped_list
from melodi_plugin.training.progress import quiet_logs


def main(options: argparse.Namespace) -> None:
  """Reads what melodi_documents names into files of the folder melodi_memory_out."""
  quiet_logs()
  config = load_config(["", options.config, *options.keys, "dataset_type=synthetic"])
  for key, example in (
    ("load_parameters_path", "<checkpoint>/items"),
    ("melodi_memory_out", "memories"),
  ):
    if not getattr(config, key):
      raise UserError(f"{key} is not set; add {key}={example}.")
  folder = config.melodi_memory_out
  with user_errors(ValueError, OSError):
    source = open_documents_of(config)
    skipped = skipped_list(config, source, folder)
    checkpoint = Checkpoint(config, slots=config.melodi_slots)
    memorizer = Memorizer(checkpoint, source, folder, compact=config.melodi_memory_compact)
    with text_bar("reading", int(source.sizes().sum())) as advance:
      memorizer.run(advance, skipped)
  totals = memorizer.totals
  said = f"{totals.written} documents of {totals.tokens:,} tokens written to {folder}"
  if totals.there_before:
    said += f", {totals.there_before} were there already"
  if broken := totals.broken + len(source.broken):
    said += f"; {broken} broken ones are left out, see skipped_documents.jsonl there"
  print(said)
