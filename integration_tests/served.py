"""`melodi serve` as a process of its own, and what it is asked."""

import contextlib
import pathlib
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence

import httpx
import openai

from integration_tests import running
from integration_tests.saved_model import SavedModel
from melodi_plugin.bench.serve import address

_SECONDS = 240.0  # until it answers, however busy the machine is
MODEL, SLOTS = "tiny", 4  # of the servers of `words_of`


def words_of(model: SavedModel) -> list[str]:
  """What stands behind `melodi serve` for a saved model."""
  keys = [f"melodi_slots={SLOTS}", f"melodi_serve_model={MODEL}"]
  return [*model.words, *keys, f"melodi_serve_folder={model.folder}/states"]


class Server:
  """A server that answers.

  Attributes:
    url: without /v1.
    client: openai's own, which tries nothing twice.
    http: httpx's own.
  """

  def __init__(self, folder: pathlib.Path, words: Sequence[str], **env: str):
    """Starts it in `folder`, where its log is, with the words behind `melodi serve`."""
    folder.mkdir(parents=True, exist_ok=True)
    self._log = folder / "log.txt"
    port = "melodi_serve_port=0"
    words = ["-m", "melodi_plugin", "serve", *words, port]
    self._process = running.start(*words, cwd=folder, **env)
    self.url = self._wait()
    key = env.get("MELODI_API_KEY", "none")
    self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
    self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"})

  def _wait(self) -> str:
    try:
      return address(self._process, self.log, _SECONDS)
    except ValueError:
      self._process.kill()
      raise AssertionError(self.log()) from None

  def log(self) -> str:
    """What it has said."""
    return self._log.read_text()

  def slots(self) -> dict[str, float]:
    """How many slots are in every state, by its metrics."""
    text = self.http.get("/metrics").text
    found = re.findall(r'^melodi_slots\{state="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {state: float(count) for state, count in found}

  def wait(self, seconds: float) -> None:
    """Until so much time has gone by, or it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(timeout=seconds)

  def send(self, number: signal.Signals) -> None:
    """Sends a signal."""
    self._process.send_signal(number)

  def end(self, number: signal.Signals = signal.SIGTERM) -> int:
    """Sends a signal; returns the exit status."""
    self.send(number)
    try:
      return self._process.wait(timeout=60)
    finally:
      self._process.kill()
      self.client.close()
      self.http.close()


@contextlib.contextmanager
def server(folder: pathlib.Path, words: Sequence[str], **env: str) -> Iterator[Server]:
  """One that is killed at the end."""
  own = Server(folder, words, **env)
  try:
    yield own
  finally:
    own.end(signal.SIGKILL)
