"""Documents as tokens, read and tokenized ahead of the rows that need them."""

import functools
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import (
  BrokenExecutor,
  Executor,
  Future,
  ProcessPoolExecutor,
  ThreadPoolExecutor,
)
from typing import NamedTuple, override

import numpy as np
from grain.sources import RandomAccessDataSource

from melodi_plugin.data.chat import CannotRender
from melodi_plugin.data.documents import BrokenDocument, Document
from melodi_plugin.data.records import DocumentsError

# One that has `with_scored` too says which tokens are to be predicted, as `chat.Conversations`.
Tokenize = Callable[[str], Sequence[int] | np.ndarray]


class DocumentTokens(NamedTuple):
  """A document as tokens.

  Attributes:
    ids: int32 [N].
    scored: bool [N], which of them are to be predicted; None for all.
  """

  ids: np.ndarray
  scored: np.ndarray | None = None


def document_tokens(tokenize: Tokenize, text: str) -> DocumentTokens:
  """The tokens of a text; raises what `tokenize` raises."""
  with_scored = getattr(tokenize, "with_scored", None)
  ids, scored = with_scored(text) if with_scored else (tokenize(text), None)
  return DocumentTokens(np.asarray(ids, np.int32), scored)


class Workers(NamedTuple):
  """What reads and tokenizes.

  Attributes:
    processes: processes that do nothing else; 0 reads in this process.
    threads: threads of this process, if it has no such processes.  Tokenizers in native code run
      beside each other and beside the training loop; those in Python want processes.
  """

  processes: int = 0
  threads: int = 1


class TokenReader:
  """Reads document i and gives its tokens; works in threads and can be sent to processes."""

  def __init__(self, source: RandomAccessDataSource[Document], tokenize: Tokenize):
    self.source = source
    self.tokenize = tokenize

  def name(self, index: int) -> str:
    """Where document `index` lies, for messages."""
    name = getattr(self.source, "name", None)
    return name(index) if name else f"document {index}"

  def __call__(self, index: int) -> DocumentTokens | BrokenDocument:
    """Tokens of document `index`, N >= 2, or what is wrong with it.

    Raises:
      ValueError: if the tokenizer does not fit, which no single document is to blame for.
    """
    try:
      document = self.source[index]
    except BrokenDocument as broken:
      return broken
    try:
      tokens = document_tokens(self.tokenize, document.text)
    except CannotRender as error:
      sentence = str(error).removesuffix(".")
      problem = f"is no conversation to learn from: {sentence[0].lower()}{sentence[1:]}"
      return BrokenDocument(self.name(index), problem)
    if problem := self._useless(tokens.ids):
      return BrokenDocument(self.name(index), problem)
    return tokens

  def _useless(self, ids: np.ndarray) -> str:
    """Why there is nothing to learn from a document, '' if there is."""
    if len(ids) < 2:
      plural = "" if len(ids) == 1 else "s"
      return f"has {len(ids)} token{plural}, and 2 are needed to predict one; remove it"
    is_text = getattr(self.tokenize, "is_text", None)
    if is_text and not any(map(is_text, ids.tolist())):
      return "has special tokens only, and no text; remove it"
    return ""


_reader: TokenReader | None = None  # of a worker process


def _set_reader(reader: TokenReader) -> None:
  global _reader
  _reader = reader
  # Ctrl-C goes to all processes of a terminal, and SIGTERM often to all of a job; the trainer still
  # needs documents to end its step.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
  """A trainer that is killed does not tell its pool."""
  trainer = multiprocessing.parent_process()
  assert trainer is not None
  trainer.join()
  os._exit(1)


class _Worker(multiprocessing.context.SpawnProcess):
  """A process that its pool ends by what cannot be ignored."""

  @override
  def terminate(self) -> None:
    self.kill()


class _Workers(multiprocessing.context.SpawnContext):
  Process = _Worker


def _read(index: int) -> DocumentTokens | BrokenDocument:
  assert _reader is not None
  return _reader(index)


class ReadAhead:
  """Tokens of documents as futures.  Workers start with the first request."""

  def __init__(self, reader: TokenReader, workers: Workers):
    self.reader = reader
    self._workers = workers

  @functools.cached_property
  def _executor(self) -> Executor:
    if not self._workers.processes:
      threads = min(self._workers.threads, os.cpu_count() or 1)
      return ThreadPoolExecutor(max(threads, 1), thread_name_prefix="read_ahead")
    return ProcessPoolExecutor(
      self._workers.processes,
      # A forked process would inherit the locks of JAX's threads.
      mp_context=_Workers(),
      initializer=_set_reader,
      initargs=(self.reader,),
    )

  def request(self, index: int) -> Future:
    """A future of what `TokenReader` gives for document `index`; `answer` waits for it."""
    read = _read if self._workers.processes else self.reader
    try:
      return self._executor.submit(read, index)
    except BrokenExecutor as error:
      failed = Future()
      failed.set_exception(error)
      return failed

  def answer(self, future: Future) -> DocumentTokens | BrokenDocument:
    """What `request` has asked for.

    Raises:
      DocumentsError: if the tokenizer does not fit, or a worker has ended.
    """
    try:
      return future.result()
    except BrokenExecutor as error:
      raise DocumentsError(
        "A process that reads documents has ended by itself, perhaps for want of memory; the same "
        "command goes on from the last checkpoint, and a lower grain_worker_count takes less "
        "memory."
      ) from error
    except ValueError as error:
      raise DocumentsError(str(error)) from error

  def close(self) -> None:
    """Stops the workers; a later request starts new ones."""
    executor = self.__dict__.pop("_executor", None)
    if executor is not None:
      executor.shutdown(wait=False, cancel_futures=True)
