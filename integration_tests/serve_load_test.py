"""A server that many ask at once, that is killed, and that a harness measures; all slow.

`uv run pytest -m slow integration_tests/serve_load_test.py`; the last test needs
lm-evaluation-harness in an environment of its own: MELODI_LM_EVAL names its `lm_eval`.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import threading

import httpx
import numpy as np
import pytest
import yaml

from integration_tests import saved_model, served
from integration_tests.saved_model import random_text
from integration_tests.served import MODEL, SLOTS

pytestmark = pytest.mark.slow
CLIENTS = 64
KILLS, SAID, ANSWER = 20, 12, 6  # tokens of what is said and answered in a turn
LM_EVAL = os.environ.get("MELODI_LM_EVAL", "")


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory):
  with saved_model.saved_model(tmp_path_factory.mktemp("load")) as model:
    yield model


@pytest.fixture(scope="module", name="words")
def _words(model):
  return served.words_of(model)


def request_of(number: int) -> dict:
  """Of any length; greedy or drawn."""
  chance = random.Random(number)
  own = {"prompt": random_text(number, chance.choice((1, 15, 16, 17, 90, 700)))}
  own |= {"max_tokens": chance.choice((1, 5, 40)), "logprobs": 0}
  return own | ({"temperature": 0} if number % 2 else {"temperature": 1, "seed": number})


def answered(body: dict) -> tuple[str, list[float]]:
  choice = body["choices"][0]
  return choice["text"], choice["logprobs"]["token_logprobs"]


# -- Many at once ----------------------------------------------------------------------------------


async def ask_at_once(url: str) -> dict[int, tuple[str, list[float]]]:
  """64 clients; a third goes away at a random moment, and some send nonsense first."""
  chance, found = random.Random(0), {}

  async def one(client: httpx.AsyncClient, number: int) -> None:
    if number % 5 == 0:
      wrong = await client.post("/v1/completions", content=b'{"prompt": [1, "')
      assert wrong.status_code == 400
    asked = client.post("/v1/completions", json=request_of(number))
    if number % 3:
      response = await asked
      assert response.status_code == 200, response.text
      found[number] = answered(response.json())
      return
    task = asyncio.create_task(asked)
    await asyncio.sleep(chance.random() * 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

  async with httpx.AsyncClient(base_url=url, timeout=300) as client:
    await asyncio.gather(*(one(client, number) for number in range(CLIENTS)))
  return found


def test_sixty_four_clients_get_what_one_alone_gets(model, words, tmp_path):
  with served.server(tmp_path / "server", words) as server:
    free = {"free": SLOTS, "reading": 0, "decoding": 0}
    assert server.slots() == free
    found = asyncio.run(ask_at_once(server.url))
    assert len(found) == CLIENTS - len(range(0, CLIENTS, 3))
    assert server.slots() == free
    for number, (text, logprobs) in found.items():
      alone = server.http.post("/v1/completions", json=request_of(number), timeout=60)
      own_text, own_logprobs = answered(alone.json())
      assert text == own_text, number
      np.testing.assert_allclose(logprobs, own_logprobs, atol=1e-4)
    assert server.slots() == free
    assert "Traceback" not in server.log()


# -- Kills -----------------------------------------------------------------------------------------


class Talker(threading.Thread):
  """Goes on with one session until the server is gone.

  Attributes:
    ids: all that was said and answered, as far as answers came to their end.
  """

  def __init__(self, url: str, name: str, ids: list[int], of_text: dict[str, int]):
    super().__init__(daemon=True)
    self._url, self._name, self.ids, self._of_text = url, name, ids, of_text

  def run(self) -> None:
    """Turns of random tokens."""
    with httpx.Client(base_url=self._url, timeout=60) as client:
      while True:
        said = said_by(self._name, len(self.ids))
        request = REQUEST | {"prompt": said, "session": self._name}
        try:
          response = client.post("/v1/completions", json=request)
        except httpx.HTTPError:
          return
        assert response.status_code == 200, response.text
        self.ids += [*said, *written(response.json(), self._of_text)]


REQUEST = {"max_tokens": ANSWER, "temperature": 0, "ignore_eos": True, "logprobs": 0}


def said_by(name: str, place: int) -> list[int]:
  """What is said where a session has so many tokens."""
  return np.random.default_rng([ord(name), place]).integers(3, 15, SAID).tolist()


def written(body: dict, of_text: dict[str, int]) -> list[int]:
  """The ids of an answer."""
  return [of_text[text] for text in body["choices"][0]["logprobs"]["tokens"]]


def add_unheard(server, name: str, ids: list[int], of_text: dict[str, int]) -> int:
  """What the server has kept, but the client has not heard of: one answer at most."""
  kept = {own["name"]: own["tokens"] for own in server.http.get("/v1/sessions").json()["data"]}
  tokens = kept.get(name, 0)
  if tokens == len(ids):
    return 0
  said = said_by(name, len(ids))
  again = server.http.post("/v1/completions", json=REQUEST | {"prompt": [*ids, *said]}, timeout=60)
  ids += [*said, *written(again.json(), of_text)]
  assert tokens == len(ids)
  return 1


def test_twenty_kills_lose_no_session(model, words, tmp_path):
  """After each, every session is where its last answer left it, or one that was not heard."""
  tokenizer = model.tokenizer
  of_text = {tokenizer.shown(i): i for i in range(tokenizer.vocab_size)}
  words = [*words, f"melodi_serve_folder={tmp_path}/states"]
  talks: dict[str, list[int]] = {name: [] for name in "abc"}
  chance, unheard = random.Random(0), 0
  for kill in range(KILLS):
    with served.server(tmp_path / f"server{kill}", words) as server:
      unheard += sum(add_unheard(server, name, ids, of_text) for name, ids in talks.items())
      talkers = [Talker(server.url, name, ids, of_text) for name, ids in talks.items()]
      for talker in talkers:
        talker.start()
      server.wait(1 + 2 * chance.random())
      server.end(signal.SIGKILL)
      for talker in talkers:
        talker.join(timeout=60)
  turns = sum(map(len, talks.values())) // (SAID + ANSWER)
  print(f"{KILLS} kills, {turns} turns, {unheard} kept and not heard")
  assert turns > 2 * KILLS
  for ids in talks.values():
    _, hits = model.logprobs(ids)
    answered_at = [place for place in range(len(ids)) if place % (SAID + ANSWER) >= SAID]
    assert all(hits[place - 1] for place in answered_at)


# -- lm-evaluation-harness -------------------------------------------------------------------------


@pytest.mark.skipif(not LM_EVAL, reason="MELODI_LM_EVAL does not name lm-evaluation-harness")
def test_harness_measures_what_evaluate_measures(model, words, tmp_path):
  """Of a task in files: log-likelihoods of continuations, each within 1e-4 nats per token."""
  texts = [(random_text(i, 40 + 30 * i), random_text(100 + i, 8)) for i in range(6)]
  lines = [json.dumps({"context": a, "continuation": b}) for a, b in texts]
  (tmp_path / "task.jsonl").write_text("\n".join(lines))
  task = {
    "task": "melodi_local",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(tmp_path / "task.jsonl")}},
    "test_split": "test",
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{continuation}}",
    "target_delimiter": "",
    "metric_list": [
      {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
    ],
  }
  (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
  with served.server(tmp_path / "server", words) as server:
    arguments = f"model={MODEL},base_url={server.url}/v1/completions,tokenizer_backend=remote"
    command = [LM_EVAL, "--model", "local-completions", "--tasks", "melodi_local"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    command += ["--model_args", f"{arguments},max_length=1000000", "--log_samples"]
    own = os.environ | {"OPENAI_API_KEY": "none", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True)
  assert ended.returncode == 0, ended.stderr[-3000:]
  (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
  tokenizer = model.tokenizer
  found = [json.loads(line) for line in samples.read_text().splitlines()]
  assert len(found) == len(texts)
  for sample in found:
    context, continuation = (sample["doc"][name] for name in ("context", "continuation"))
    ids, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
    logprobs, hits = model.logprobs(whole)
    (said, greedy) = sample["filtered_resps"][0]
    count = len(whole) - len(ids)
    assert abs(float(said) - logprobs[-count:].sum()) < 1e-4 * count
    assert str(greedy) == str(bool(hits[-count:].all()))
