"""A service made of a config: who may ask and for how much, its model, and what is kept."""

import functools
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from melodi_plugin.data.chat import Chat, chat_from
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.metrics import Metrics
from melodi_plugin.server.queue import Limits
from melodi_plugin.server.scheduler import Scheduler
from melodi_plugin.server.service import Access, ServeLimits, Service
from melodi_plugin.server.states.store import Store
from melodi_plugin.server.texts import Text
from melodi_plugin.serving.checkpoint import Checkpoint
from melodi_plugin.serving.engine import Row
from melodi_plugin.serving.snapshots import Snapshots

_KEY = "MELODI_API_KEY"


def new_service(config: Any) -> Service:
  """Everything but the model, which `load` brings; raises ValueError for a key that is wrong."""
  tokenizer = Tokenizer(config)
  _ = tokenizer.eos_ids  # loads it: a wrong path is told before the model takes its time
  return Service(
    name=config.melodi_serve_model or config.run_name or "melodi",
    tokenizer=tokenizer,
    chat=None,
    scheduler=_NotLoaded(),
    window=0,
    row_bytes=0,
    limits=ServeLimits(
      max_body_bytes=config.melodi_serve_body_bytes,
      max_prompt_tokens=config.melodi_serve_prompt_tokens,
      max_tokens=config.melodi_serve_max_tokens,
      max_choices=config.melodi_serve_choices,
      max_texts=config.melodi_serve_queue_texts,
    ),
    access=access_of(config),
    metrics=Metrics(),
    created=int(time.time()),
  )


class _NotLoaded:
  """Stands where the scheduler will; nobody asks it, as a service that is not ready refuses."""

  def submit(self, texts: Sequence[Text]) -> None:
    """See `Schedules`."""
    raise Refused(503, "The model is not loaded yet; ask again soon.", retry_after=5)

  def cancel(self, texts: Sequence[Text]) -> None:
    """See `Schedules`."""


def load(service: Service, config: Any) -> None:
  """Brings the model into the service, compiled, and opens its store.

  Raises:
    ValueError: if the checkpoint, the chat template or the folder cannot be used.
    OSError: if the folder cannot be written.
  """
  checkpoint = Checkpoint(config, slots=config.melodi_slots, scores=True)
  service.tokenizer = checkpoint.tokenizer
  service.chat = _chat(config, checkpoint.tokenizer)
  if folder := config.melodi_serve_folder:
    _ = checkpoint.identity  # every state is compared with it
    service.store = Store(
      folder,
      functools.partial(_save, checkpoint, service.metrics),
      functools.partial(_load, checkpoint),
      max_bytes=config.melodi_serve_folder_bytes,
      max_sessions=config.melodi_serve_sessions,
      max_age_days=config.melodi_serve_days,
    )
  engine = checkpoint.engine
  service.window, service.row_bytes = engine.window, engine.row_bytes
  limits = Limits(
    config.melodi_serve_queue_texts,
    config.melodi_serve_queue_tokens,
    config.melodi_serve_queue_seconds,
    config.melodi_serve_request_seconds,
  )
  snapshots = Snapshots(config.melodi_serve_snapshot_bytes)
  scheduler = Scheduler(engine, checkpoint.tokenizer, snapshots, limits, service.metrics)
  service.metrics.watch(scheduler, snapshots, service.store)
  service.metrics.count_compiles()
  scheduler.start()
  service.scheduler = scheduler


def access_of(config: Any) -> Access:
  """Keys of the environment or of a file, and names of the host.

  Raises:
    ValueError: if both are given, or the file has no keys or cannot be read.
  """
  hosts = tuple(name.strip() for name in config.melodi_serve_hosts.split(",") if name.strip())
  own, path = os.environ.get(_KEY, ""), config.melodi_serve_key_file
  if own and path:
    raise ValueError(f"{_KEY} and melodi_serve_key_file are both set; leave one of them out.")
  keys = [own] if own else _read_keys(path) if path else []
  return Access(tuple(keys), hosts)


def _read_keys(path: str) -> Sequence[str]:
  try:
    lines = pathlib.Path(path).expanduser().read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is not UTF-8"
    raise ValueError(
      f"melodi_serve_key_file={path} cannot be read ({reason}); name a file with a key per line."
    ) from error
  if not (keys := [key for line in lines if (key := line.strip())]):
    raise ValueError(f"melodi_serve_key_file={path} has no keys; write one per line.")
  return keys


def _chat(config: Any, tokenizer: Tokenizer) -> Chat | None:
  """None if there is no template; one that is asked for must be right."""
  try:
    return chat_from(config, tokenizer)
  except ValueError:
    if config.chat_template or config.chat_template_path:
      raise
    return None


def _save(
  checkpoint: Checkpoint,
  metrics: Metrics,
  path: str,
  row: Row,
  pending: Sequence[int],
  title: str,
) -> None:
  start = time.monotonic()
  checkpoint.save_memory(path, row, pending, title=title)
  metrics.call("save", time.monotonic() - start)


def _load(checkpoint: Checkpoint, path: str) -> tuple[Row, tuple[int, ...], str]:
  row, saved = checkpoint.load_memory(path)
  return row, saved.pending, saved.title
