"""`melodi serve`, run as a process: what openai's client is told is what `evaluate` says."""

import asyncio
import json
import signal
import subprocess
import time

import numpy as np
import openai
import pytest

from integration_tests import running, saved_model, served
from integration_tests.saved_model import PROMPT, WINDOW, random_text
from integration_tests.served import MODEL, SLOTS

NEAR = 1e-4  # of log probabilities in float32


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory):
  with saved_model.saved_model(tmp_path_factory.mktemp("serve")) as model:
    yield model


@pytest.fixture(scope="module", name="words")
def _words(model):
  return served.words_of(model)


@pytest.fixture(scope="module", name="server")
def _server(model, words):
  with served.server(model.folder / "server", words) as server:
    yield server


def ids_of(model, text: str) -> list[int]:
  return model.tokenizer.prompt(text).tolist()


def behind(model, text: str) -> list[int]:
  return model.tokenizer.encode(text)


def complete(server, prompt, **more):
  return server.client.completions.create(
    model=MODEL, prompt=prompt, **{"max_tokens": 24, "temperature": 0} | more
  )


def complete_until_refused(server) -> None:
  for _ in range(200):
    complete(server, "abc", max_tokens=1)


def check_greedy(model, before: list[int], choice) -> list[int]:
  """All that was written has the largest logit behind what came before, and its probability."""
  tokenizer, found = model.tokenizer, choice.logprobs
  of_text = {tokenizer.shown(i): i for i in range(tokenizer.vocab_size)}
  written = [of_text[token] for token in found.tokens]
  logprobs, hits = model.logprobs([*before, *written])
  assert hits[-len(written) :].all()
  np.testing.assert_allclose(found.token_logprobs, logprobs[-len(written) :], atol=NEAR)
  return [*before, *written]


# -- Answers ---------------------------------------------------------------------------------------


def test_completion_is_the_text_that_evaluate_finds_most_probable(model, server):
  answer = complete(server, PROMPT, logprobs=1)
  (choice,) = answer.choices
  assert answer.usage.prompt_tokens == len(ids_of(model, PROMPT))
  assert answer.usage.completion_tokens == 24 and choice.finish_reason == "length"
  check_greedy(model, ids_of(model, PROMPT), choice)
  streamed = complete(server, PROMPT, stream=True, stream_options={"include_usage": True})
  *parts, last = list(streamed)
  assert "".join(part.choices[0].text for part in parts) == choice.text
  assert last.usage.prompt_tokens_details.cached_tokens == len(ids_of(model, PROMPT)) - 1


def test_echoed_log_probabilities_are_those_of_evaluate(model, server):
  ids = ids_of(model, random_text(7, 9 * WINDOW + 5))
  answer = complete(server, [ids, ids[:40]], max_tokens=1, echo=True, logprobs=1)
  for given, choice in zip((ids, ids[:40]), answer.choices, strict=True):
    found = choice.logprobs
    assert len(found.token_logprobs) == len(given) + 1 and found.token_logprobs[0] is None
    logprobs, hits = model.logprobs(given)
    np.testing.assert_allclose(found.token_logprobs[1:-1], logprobs, atol=NEAR)
    tops = [max(top.values()) for top in found.top_logprobs[1:-1]]
    np.testing.assert_array_equal(np.equal(found.token_logprobs[1:-1], tops), hits)


def test_many_clients_of_the_async_kind_are_answered_as_one_alone(server):
  prompts = [random_text(seed, 5 + 11 * seed) for seed in range(12)]
  alone = [complete(server, own, seed=i, temperature=1).choices[0].text
           for i, own in enumerate(prompts)]  # fmt: skip

  async def together():
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
      return await asyncio.gather(*(
        client.completions.create(
          model=MODEL, prompt=own, seed=i, max_tokens=24, temperature=1
        ) for i, own in enumerate(prompts)
      ))  # fmt: skip

  assert [answer.choices[0].text for answer in asyncio.run(together())] == alone
  assert server.slots() == {"free": SLOTS, "reading": 0, "decoding": 0}


def test_curl_gets_one_form_of_errors(server):
  def curl(path: str, *more: str) -> tuple[int, dict]:
    words = ["curl", "-s", "-w", "\n%{http_code}", *more, f"{server.url}{path}"]
    body, _, status = subprocess.check_output(words, text=True).rpartition("\n")
    return int(status), json.loads(body)

  as_json = ("-H", "Content-Type: application/json", "-d")
  status, body = curl("/v1/completions", *as_json, '{"prompt": "abc", "max_tokens": 2}')
  assert status == 200 and body["object"] == "text_completion"
  for path, data, expected in (
    ("/v1/completions", "{", 400),
    ("/v1/completions", '{"prompt": "abc", "temperature": -1}', 400),
    ("/v1/completions", '{"prompt": "abc", "model": "gpt-5"}', 404),
    ("/v1/none", "{}", 404),
  ):
    status, body = curl(path, *as_json, data)
    assert status == expected and set(body["error"]) == {"message", "type", "param", "code"}


# -- What is kept ----------------------------------------------------------------------------------


def test_memory_is_read_once_and_named_by_any_request(model, server):
  text = random_text(3, 6 * WINDOW + 1)
  created = server.http.post("/v1/memories", json={"name": "play", "text": text}, timeout=60)
  assert created.status_code < 300, created.text
  choice = complete(server, "abc", logprobs=1, extra_body={"memory": "play"}).choices[0]
  check_greedy(model, [*ids_of(model, text), *behind(model, "abc")], choice)
  file = server.http.get("/v1/memories/play/content")
  assert file.status_code == 200
  copied = server.http.put("/v1/memories/copy/content", content=file.content, timeout=60)
  assert copied.status_code < 300, copied.text
  again = complete(server, "abc", logprobs=1, extra_body={"memory": "copy"}).choices[0]
  assert (again.text, again.logprobs.token_logprobs) == (
    choice.text, choice.logprobs.token_logprobs)  # fmt: skip


@pytest.mark.broad  # store_kill_test kills the store of sessions, process_test ends a server
def test_session_goes_on_after_a_kill_and_term_lets_answers_end(model, words, server):
  """The next answer is that of a server that was never killed.  `server` is gone behind this."""
  first, second, third = (random_text(seed, 20) for seed in (11, 12, 13))
  whole = answer_in_session(model, server, ids_of(model, first), first)
  whole = answer_in_session(model, server, [*whole, *behind(model, second)], second)
  server.end(signal.SIGKILL)
  with served.server(model.folder / "again", words) as again:
    answer_in_session(model, again, [*whole, *behind(model, third)], third)
    check_end(again)


def answer_in_session(model, server, ids: list[int], said: str) -> list[int]:
  """Says what makes these ids in the one session; returns them and those of the answer."""
  answer = complete(server, said, logprobs=1, extra_body={"session": "s"})
  return check_greedy(model, ids, answer.choices[0])


# -- The process -----------------------------------------------------------------------------------


def check_end(server) -> None:
  """SIGTERM lets a stream end, and refuses what is new."""
  stream = complete(server, PROMPT, max_tokens=400, stream=True, extra_body={"ignore_eos": True})
  parts = [next(stream)]
  server.send(signal.SIGTERM)
  with pytest.raises((openai.InternalServerError, openai.APIConnectionError)):
    complete_until_refused(server)
  parts += list(stream)
  assert parts[-1].choices[0].finish_reason == "length"
  assert server.end() == 0
  assert "Traceback" not in server.log()


@pytest.mark.broad
def test_term_ends_it_in_the_middle_of_loading(words, tmp_path):
  arguments = ("-m", "melodi_plugin", "serve", *words, "melodi_serve_port=0")
  process = running.start(*arguments, cwd=tmp_path)
  log = tmp_path / "log.txt"
  try:
    while "listens" not in log.read_text():
      assert process.poll() is None, log.read_text()
      time.sleep(0.1)
    time.sleep(3)  # XLA compiles
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, log.read_text()
  finally:
    process.kill()
  assert log.read_text().rstrip().endswith("ended; everything that was answered is kept")


@pytest.mark.parametrize(
  ("keys", "sentence"),
  [
    (["melodi_serve_key_file=none.txt"], "none.txt cannot be read"),
    (["melodi_serve_host=203.0.113.1"], "cannot be listened at"),
  ],
)
def test_what_is_wrong_at_the_start_is_one_sentence(model, words, capsys, keys, sentence):
  assert model.run(["serve", *words[len(model.words) :], *keys]) == 2
  (last,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
  assert sentence in last
