"""`melodi graft`, `gates`, `verify` and `import-gguf`: checkpoints, made and looked into."""

import argparse
from pathlib import Path

from melodi_plugin.checkpoints import gates as gates_of
from melodi_plugin.checkpoints import graft as grafting
from melodi_plugin.checkpoints import verify as verifying
from melodi_plugin.checkpoints.gguf.importer import import_file
from melodi_plugin.config.systems import has_base_block
from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS
from melodi_plugin.maxtext.weights import find_checkpoints
from melodi_plugin.output.files import write_files
from melodi_plugin.output.tables import Table, with_unit
from melodi_plugin.training.progress import quiet_logs


def graft(options: argparse.Namespace) -> None:
  """Memory for a stock model, or a stock model without it: writes it, says what is in it."""
  quiet_logs()
  config = load_config(["", options.config, *options.keys, WITHOUT_DOCUMENTS])
  if not config.load_parameters_path:
    raise UserError("load_parameters_path is not set; add load_parameters_path=<checkpoint>/items.")
  if not has_base_block(config):
    raise UserError(
      "melodi_base_block is not set, so there is nothing to put memory around; set it to the "
      "decoder_block of the stock model, such as llama2."
    )
  if config.melodi_adapter:
    raise UserError("melodi_adapter is read by train, evaluate, decode and serve; leave it out.")
  if options.bfloat16 and not options.adapter:
    raise UserError("--bfloat16 rounds what --adapter writes; add --adapter FILE.")
  with user_errors(ValueError, OSError):
    if options.adapter:
      size = grafting.write_adapter(config, options.adapter, rounded=options.bfloat16)
      print(f"{size:,} bytes written to {options.adapter}", flush=True)
      return
    grafting.show(grafting.strip(config) if options.strip else grafting.graft(config))


def gates(options: argparse.Namespace) -> None:
  """Do the gates move?  A table and a picture."""
  quiet_logs()
  with user_errors(ValueError, OSError):
    checkpoints = [path for pattern in options.checkpoints for path in find_checkpoints(pattern)]
    folders = sorted({gates_of.run_folder(checkpoint) for checkpoint in checkpoints})
    if len(folders) > 1:
      raise UserError(
        f"these are checkpoints of several runs, {folders[0]} and {folders[1]}; give those of one."
      )
    series = sorted(map(gates_of.read_gates, checkpoints), key=lambda read: read.step)
    folder = options.folder or gates_of.run_folder(checkpoints[0])
    gates_of.show(series)
    write_files(folder, {"gates.png": gates_of.draw(series)})
  print(f"written to {folder}/gates.png", flush=True)


def verify(options: argparse.Namespace) -> None:
  """Reads everything, prints a line per checkpoint; raises UserError if one is damaged."""
  quiet_logs()  # Orbax warns of what the table says
  with user_errors(ValueError, OSError):
    found = [verifying.verify(path) for path in verifying.find(options.run)]
  rows = [
    [
      one.path,
      str(one.arrays),
      with_unit(one.size, "B"),
      str(one.unsealed),
      "damaged" if one.problem else "whole",
    ]
    for one in found
  ]
  header = ("checkpoint", "arrays", "read", "without checksums", "it is")
  print(Table("checkpoints", header, rows).markdown(), end="", flush=True)
  damaged = [one for one in found if one.problem]
  if damaged:
    raise UserError(
      f"{len(damaged)} of {len(found)} checkpoints are damaged; {damaged[0].path}: "
      f"{damaged[0].problem.rstrip('.')}; copy it back, or take another one."
    )


def import_gguf(options: argparse.Namespace) -> None:
  """A llama GGUF file becomes a stock checkpoint: parameters, tokenizer and config."""
  with user_errors(ValueError, OSError):
    import_file(
      Path(options.file),
      Path(options.out),
      scan_layers=options.scan_layers,
      own_head=options.own_head,
    )
