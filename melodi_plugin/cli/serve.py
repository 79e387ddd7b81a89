"""`melodi serve`: a model with memory over HTTP."""

import argparse
import logging
import os
import sys

from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS
from melodi_plugin.training.progress import quiet_logs


def main(options: argparse.Namespace) -> None:
  """Answers until it is told to end."""
  try:
    from melodi_plugin.server import opening, process  # needs an extra
    from melodi_plugin.server.api.app import make_app
  except ModuleNotFoundError as error:
    raise UserError(
      f"the server needs {error.name}; install it with pip install 'melodi-plugin[serve]'."
    ) from error
  quiet_logs()
  logging.getLogger("melodi_plugin.server").setLevel(logging.INFO)
  config = load_config(["", options.config, *options.keys, WITHOUT_DOCUMENTS])
  if not config.load_parameters_path:
    raise UserError("load_parameters_path is not set; add load_parameters_path=<checkpoint>/items.")
  with user_errors(ValueError, OSError):
    service = opening.new_service(config)
    listening = process.listen(config.melodi_serve_host, config.melodi_serve_port)
    url = process.url_of(listening)
    _tell(f"{url} listens; the model is loaded and compiled before it answers")

    def load() -> None:
      opening.load(service, config)
      kept = config.melodi_serve_folder or "nothing: set melodi_serve_folder"
      _tell(
        f"{service.name} answers at {url}/v1: {config.melodi_slots} slots of "
        f"{service.row_bytes / 1e6:,.1f} MB, kept in {kept}"
      )

    seconds = config.melodi_serve_drain_seconds
    all_ended = process.run(make_app(service), service, load, listening, seconds)
  _tell("ended; everything that was answered is kept")
  if not all_ended:
    os._exit(0)  # XLA crashes if Python is taken down under a thread that compiles


def _tell(line: str) -> None:
  print(f"melodi serve: {line}", file=sys.stderr, flush=True)
