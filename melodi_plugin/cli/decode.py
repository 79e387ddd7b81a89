"""`melodi decode`: text from a checkpoint, as it comes; `melodi memorize`: documents read once."""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import Console

from melodi_plugin.config.settings import parse_strings
from melodi_plugin.config.systems import is_melodi
from melodi_plugin.data.chat import Chat, chat_from
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS
from melodi_plugin.output.bars import text_bar, tokens_bar
from melodi_plugin.output.files import check_writable
from melodi_plugin.serving.checkpoint import Checkpoint
from melodi_plugin.serving.memorize import Memorizer
from melodi_plugin.serving.prefixes import PrefixReader
from melodi_plugin.serving.prompts import open_documents_of, prompt_of, skipped_list
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.session import Session
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.serving.stock import StockCheckpoint
from melodi_plugin.serving.writing import Ends, Written
from melodi_plugin.training.progress import quiet_logs

_SNAPSHOT_BYTES = 2**30  # of conversations that are read anew
_LONG = 2048  # tokens of a prompt from which on a bar is shown


def main(options: argparse.Namespace) -> None:
  """Goes on from a prompt, or talks at the terminal."""
  quiet_logs()
  keys = [*options.keys, "melodi_prompt_file=-"] if options.stdin else options.keys
  config = load_config(["", options.config, *keys, WITHOUT_DOCUMENTS])
  if not config.load_parameters_path:
    raise UserError("load_parameters_path is not set; add load_parameters_path=<checkpoint>/items.")
  with user_errors(ValueError, OSError):
    prompt, writing = prompt_of(config, keys), Writing.from_config(config)
    chat = None if prompt is not None else chat_from(config, Tokenizer(config))
    if out := config.melodi_memory_out:
      check_writable(out)
    checkpoint = Checkpoint(config, slots=1) if is_melodi(config) else StockCheckpoint(config)
    talk = Talk(config, checkpoint, writing)
    if chat is None:
      talk.answer(prompt or "", as_json=options.json)
    else:
      talk.converse(chat)
    talk.keep()


def memorize(options: argparse.Namespace) -> None:
  """Reads what melodi_documents names into files of the folder melodi_memory_out."""
  quiet_logs()
  config = load_config(["", options.config, *options.keys, WITHOUT_DOCUMENTS])
  for key, example in (
    ("load_parameters_path", "<checkpoint>/items"),
    ("melodi_memory_out", "memories"),
  ):
    if not getattr(config, key):
      raise UserError(f"{key} is not set; add {key}={example}.")
  folder = config.melodi_memory_out
  with user_errors(ValueError, OSError):
    check_writable(f"{folder}/any.memory")
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


class Writing(NamedTuple):
  """How a text is written."""

  settings: SamplingSettings
  max_tokens: int
  stop: tuple[str, ...]

  @classmethod
  def from_config(cls, config: Any) -> "Writing":
    """Of the keys; raises ValueError."""
    seed = {} if config.melodi_seed < 0 else {"seed": config.melodi_seed}
    settings = SamplingSettings.from_maxtext(config, **seed)
    stop = parse_strings("melodi_stop", config.melodi_stop)
    return cls(settings, config.melodi_max_tokens, stop)


class Talk:
  """A session at the terminal."""

  def __init__(self, config: Any, checkpoint: Checkpoint | StockCheckpoint, writing: Writing):
    self._config, self._checkpoint = config, checkpoint
    engine, tokenizer = checkpoint.engine, checkpoint.tokenizer
    self._title, more = config.melodi_memory_title, {}
    if not isinstance(checkpoint, StockCheckpoint):
      more["prefixes"] = PrefixReader(checkpoint.engine, Snapshots(_SNAPSHOT_BYTES))
      if config.melodi_memory_file:
        row, saved = checkpoint.load_memory(config.melodi_memory_file)
        more |= dict(start=row, pending=saved.pending)
        self._title = self._title or saved.title
    self._session = Session(engine, tokenizer, writing.settings, **more)
    self._ends = Ends(writing.max_tokens, writing.stop, tokenizer.eos_ids)

  def answer(self, prompt: str, *, as_json: bool) -> None:
    """Writes on from a prompt."""
    tokenizer = self._checkpoint.tokenizer
    goes_on = bool(self._config.melodi_memory_file)
    ids = list(tokenizer.encode(prompt) if goes_on else tokenizer.prompt(prompt).tolist())
    self._read(self._session.read, ids)
    written = self._write(shown=not as_json)
    if as_json:
      print(json.dumps(self._described(len(ids), written)))

  def converse(self, chat: Chat) -> None:
    """Turns of a person and the model, until the input ends."""
    console = Console(stderr=True)
    console.print("Write, and end with Ctrl-D; what was said is remembered.", style="dim")
    self._ends = self._ends._replace(ids=chat.end_ids)
    messages: list[dict[str, str]] = []
    while True:
      try:
        said = console.input("[bold]> [/bold]")
      except EOFError:
        return
      if not said.strip():
        continue
      new = {"role": "user", "content": said}
      if messages and chat.extends:
        last = self._session.pending[-1]
        ids = chat.after_answer([new], last if last in chat.end_ids else None)
        self._read(self._session.read, ids)
      else:
        self._read(self._session.read_anew, chat([*messages, new]))
      written = self._write(shown=True)
      messages += [new, {"role": "assistant", "content": "".join(w.text for w in written)}]

  def keep(self) -> None:
    """Writes the memory, if a file was asked for."""
    checkpoint, path = self._checkpoint, self._config.melodi_memory_out
    if path and not isinstance(checkpoint, StockCheckpoint):
      row = checkpoint.engine.extract(0)
      pending, compact = self._session.pending, self._config.melodi_memory_compact
      checkpoint.save_memory(path, row, pending, title=self._title, compact=compact)
      print(f"memory of {row.tokens:,} tokens written to {path}", file=sys.stderr)

  def _read(self, read: Callable[..., None], ids: list[int]) -> None:
    self._checkpoint.tokenizer.checked(ids)
    with tokens_bar("reading", len(ids), shown=len(ids) > _LONG) as advance:
      read(ids, advance)

  def _write(self, *, shown: bool) -> list[Written]:
    written = []
    with _between_tokens() as interrupted:
      for token in self._session.write(self._ends):
        written.append(token)
        if shown:
          print(token.text, end="", flush=True)
        if interrupted():
          break
    if shown:
      print(flush=True)
    return written

  def _described(self, prompt_tokens: int, written: list[Written]) -> dict[str, Any]:
    session = self._session
    return {
      "text": "".join(token.text for token in written),
      "finish_reason": written[-1].finish or "interrupted",
      "token_ids": [token.drawn.token for token in written],
      "logprobs": [token.drawn.logprob for token in written],
      "prompt_tokens": prompt_tokens,
      "reading_tokens_per_second": _rate(session.read_tokens, session.read_seconds),
      "writing_tokens_per_second": _rate(session.written_tokens, session.written_seconds),
      "state_bytes": self._checkpoint.engine.row_bytes,
    }


@contextlib.contextmanager
def _between_tokens() -> Iterator[Callable[[], bool]]:
  """Ctrl-C is noted and not raised, as a token that is read in part belongs to no text.

  A second one ends the program, as ever.
  """
  noted = []

  def note(number: int, frame: Any) -> None:
    noted.append(number)
    signal.signal(signal.SIGINT, before)

  before = signal.signal(signal.SIGINT, note)
  try:
    yield lambda: bool(noted)
  finally:
    signal.signal(signal.SIGINT, before)


def _rate(tokens: int, seconds: float) -> float | None:
  return tokens / seconds if tokens and seconds else None
