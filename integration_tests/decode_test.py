"""`melodi decode`, run as a command: what it writes is what `evaluate` would say."""

import functools
import io
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from integration_tests import running, saved_model
from integration_tests.saved_model import PROMPT, WINDOW, random_text
from melodi_plugin.cli.main import main
from melodi_plugin.data.chat import Chat

NEAR = 1e-4  # of log probabilities in float32


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory):
  with saved_model.saved_model(tmp_path_factory.mktemp("decode")) as model:
    yield model


@pytest.fixture(name="decode")
def _decode(model, capsys):
  """Runs the command with `--json`; returns what it prints."""
  return functools.partial(saved_model.decode_json, model, capsys)


@pytest.fixture(name="given")
def _given(monkeypatch):
  """Sets what standard input holds."""

  def give(raw):
    lines = io.StringIO(raw.decode(errors="replace"))
    stdin = SimpleNamespace(buffer=io.BytesIO(raw), readline=lines.readline)
    monkeypatch.setattr("sys.stdin", stdin)

  return give


def test_json_says_what_evaluate_says(model, decode):
  found = decode("melodi_max_tokens=60")
  tokenizer = model.checkpoint().tokenizer
  prompt = tokenizer.prompt(PROMPT).tolist()
  logprobs, hits = model.logprobs([*prompt, *found["token_ids"]])
  written = logprobs[len(prompt) - 1 :]
  np.testing.assert_allclose(found["logprobs"], written, atol=NEAR, rtol=0)
  assert hits[len(prompt) - 1 :].all()
  assert len(set(found["token_ids"])) > 5
  # Behind the prompt: at the begin of a text, a tokenizer may drop a space.
  text = tokenizer.decode([*prompt, *found["token_ids"]])
  assert text == tokenizer.decode(prompt) + found["text"]
  ended = found["token_ids"][-1] in tokenizer.eos_ids
  assert found["finish_reason"] == ("stop" if ended else "length")
  assert found["prompt_tokens"] == len(prompt)
  assert found["state_bytes"] == model.checkpoint().engine.row_bytes
  assert found["reading_tokens_per_second"] > 0 and found["writing_tokens_per_second"] > 0


def test_text_ends_at_a_stop_string_that_spans_tokens(model, decode):
  whole = decode("melodi_max_tokens=60")
  ends = next(
    n for n in range(8, 60) if len(model.checkpoint().tokenizer.decode(whole["token_ids"][:n])) >= 6
  )
  stop = model.checkpoint().tokenizer.decode(whole["token_ids"][:ends])[-3:]
  found = decode("melodi_max_tokens=60", f"melodi_stop={stop}")
  text = whole["text"]
  assert found["text"] == text[: text.index(stop)]
  assert found["finish_reason"] == "stop"
  assert found["token_ids"] == whole["token_ids"][: len(found["token_ids"])]
  several = decode("melodi_max_tokens=60", f"melodi_stop={json.dumps(['xyz', stop])}")
  assert (several["text"], several["token_ids"]) == (found["text"], found["token_ids"])
  assert len(decode("melodi_max_tokens=3")["token_ids"]) == 3


def test_same_seed_writes_the_same_text(decode):
  seeds = (7, 7, 8)
  first, again, other = (
    decode(*WEIGHTED, "melodi_max_tokens=40", f"melodi_seed={n}") for n in seeds
  )
  assert first["token_ids"] == again["token_ids"] != other["token_ids"]
  assert first["logprobs"] == again["logprobs"]


def test_prompt_may_come_from_a_file_or_from_standard_input(model, decode, given, capsys, tmp_path):
  (tmp_path / "prompt.txt").write_text(PROMPT)
  expected = decode("melodi_max_tokens=20")["token_ids"]
  for words in (["-"], [f"melodi_prompt_file={tmp_path}/prompt.txt"]):
    given(PROMPT.encode())
    assert model.run(["decode", "melodi_max_tokens=20", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == expected


def test_without_json_the_text_is_all_that_is_printed(model, decode, capsys):
  text = decode("melodi_max_tokens=20")["text"]
  assert model.run(["decode", f"prompt={PROMPT}", "melodi_max_tokens=20"]) == 0
  assert capsys.readouterr().out == text + "\n"


def test_empty_prompt_begins_a_text_where_there_is_a_token_for_that(decode):
  assert decode("melodi_max_tokens=3", prompt="")["prompt_tokens"] == 1


WEIGHTED = ("decode_sampling_strategy=weighted", "decode_sampling_temperature=1.5")
WRONG = {
  "empty": (["prompt=", "add_bos=false"], "there is nothing to go on from"),
  "two prompts": (["prompt=a", "-"], "prompt and melodi_prompt_file are both given"),
  "no such prompt": (["melodi_prompt_file=nowhere.txt"], "nowhere.txt cannot be read"),
  "not UTF-8": (["-"], "standard input is not UTF-8"),
  "lost": (["prompt=a", "load_parameters_path=no/items"], "there is no checkpoint no/items"),
  "another model": (["prompt=a", "base_emb_dim=64"], "holds another model"),
  "no memory": (["prompt=a", "decoder_block=llama2", "melodi_memory_file=a"], "has no memory, so"),
  "stop": (["prompt=a", 'melodi_stop=["a"'], "melodi_stop="),
  "sampling": (["prompt=a", *WEIGHTED, "decode_sampling_temperature=-1"], "temperature"),
  "no template": ([], "has no chat template"),
  "no memory file": (["prompt=a", "melodi_memory_file=no.memory"], "cannot read no.memory"),
  "no room": (["prompt=a", "melodi_memory_out={folder}/own.yml/a.memory"], "Not a directory"),
  "a folder": (["prompt=a", "melodi_memory_out={folder}"], "Is a directory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_written_ends_with_a_sentence(model, given, capsys, name):
  keys, words = WRONG[name]
  given(b"abc \xff")
  keys = [key.format(folder=model.folder) for key in keys]
  loaded = name in ("empty", "no memory file")  # what is seen when the model is there
  status = model.run(["decode", *keys]) if loaded else main(["decode", *model.words, *keys])
  said = capsys.readouterr()
  assert status == 2
  assert words in said.err and "Traceback" not in said.err
  assert said.err.splitlines()[-1].startswith("error: ") and said.out == ""


def test_without_a_checkpoint_there_is_no_model(model, capsys):
  assert main(["decode", model.words[0], "prompt=a"]) == 2
  assert "load_parameters_path is not set" in capsys.readouterr().err


def test_interrupted_text_can_be_gone_on_from(model, decode, tmp_path, capsys, monkeypatch):
  """Ctrl-C in the middle of a token: the token is read and drawn, or it is neither."""
  engine, path = model.checkpoint().engine, str(tmp_path / "a.memory")
  expected = decode("melodi_max_tokens=20")
  generate, calls = engine.generate, []

  def interrupted(pending):
    calls.append(pending)
    if len(calls) == 4:
      signal.raise_signal(signal.SIGINT)
    return generate(pending)

  monkeypatch.setattr(engine, "generate", interrupted)
  before = decode("melodi_max_tokens=20", f"melodi_memory_out={path}")
  monkeypatch.undo()
  assert (len(before["token_ids"]), before["finish_reason"]) == (4, "interrupted")
  after = decode("melodi_max_tokens=16", f"melodi_memory_file={path}", prompt="")
  assert before["token_ids"] + after["token_ids"] == expected["token_ids"]
  assert before["logprobs"] + after["logprobs"] == expected["logprobs"]


@pytest.mark.slow
def test_command_of_a_user_reads_a_pipe(model, decode, tmp_path):
  expected = decode("melodi_max_tokens=20")
  (tmp_path / "prompt.txt").write_text(PROMPT)
  words = ["-m", "melodi_plugin", "decode", *model.words, "-", "--json", "melodi_max_tokens=20"]
  with open(tmp_path / "prompt.txt") as prompt:
    done = subprocess.run(
      [sys.executable, *words],
      stdin=prompt,
      capture_output=True,
      text=True,
      env=running.environment(),
    )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["token_ids"] == expected["token_ids"]
  np.testing.assert_allclose(found["logprobs"], expected["logprobs"], atol=NEAR, rtol=0)


# -- At the terminal -------------------------------------------------------------------------------

# A longer conversation begins with the shorter one; here, and not if answers are left out later.
EXTENDS = (
  "{% for m in messages %}{% if m.role == 'user' %}a{{ m.content }}b"
  "{% else %}d{{ m.content }}c{% endif %}{% endfor %}{% if add_generation_prompt %}d{% endif %}"
)
FORGETS = EXTENDS.replace("{{ m.content }}c", "e")
SAID = [random_text(1, 3 * WINDOW), random_text(2, 5), random_text(3, WINDOW)]


@pytest.fixture(name="talk")
def _talk(model, given, capsys, monkeypatch):
  """Runs a conversation; returns what was read by call, the answers' tokens, and their texts."""

  def run(template, *keys):
    engine = model.checkpoint().engine
    generate, read_all, read, answers = engine.generate, engine.read_all, [], []

    def drawn(pending):
      found = generate(pending)
      answers[-1].append(found[0].token)
      return found

    def reading(texts, on_tokens=lambda count: None):
      if sum(map(len, texts.values())):
        read.append(len(texts[0]))
        answers.append([])
      return read_all(texts, on_tokens)

    monkeypatch.setattr(engine, "generate", drawn)
    monkeypatch.setattr(engine, "read_all", reading)
    given("".join(f"{line}\n" for line in ["", *SAID]).encode())
    keys = [f"chat_template={template}", "melodi_max_tokens=12", *keys]
    assert model.run(["decode", *keys]) == 0
    monkeypatch.undo()
    return read, answers, capsys.readouterr().out.splitlines()

  return run


def test_conversation_goes_on_from_what_was_said(model, talk):
  """Token for token what a model that has read all of it would say."""
  read, answers, texts = talk(EXTENDS)
  checkpoint = model.checkpoint()
  chat = Chat(checkpoint.tokenizer, EXTENDS)
  ids, drawn = [], []
  for said, answer, text in zip(SAID, answers, texts, strict=True):
    new = [{"role": "user", "content": said}]
    last = ids[-1] if ids and ids[-1] in chat.end_ids else None
    ids += chat.after_answer(new, last) if ids else chat(new)
    drawn += range(len(ids), len(ids) + len(answer))
    before = checkpoint.tokenizer.decode(ids)
    ids += answer
    assert before + text == checkpoint.tokenizer.decode(ids)
  _, hits = model.logprobs(ids)
  assert hits[np.array(drawn) - 1].all()
  assert sum(read) + sum(map(len, answers)) == len(ids) - 1


def test_conversation_that_is_rendered_anew_reads_only_what_is_new(model, talk, tmp_path):
  """Behind a memory file, too, which every turn still remembers."""
  path, checkpoint = str(tmp_path / "a.memory"), model.checkpoint()
  before = checkpoint.tokenizer.prompt(PROMPT).tolist()
  checkpoint.engine.read_all({0: np.array(before[:-1], np.int32)})
  checkpoint.save_memory(path, checkpoint.engine.extract(0), before[-1:])
  chat = Chat(checkpoint.tokenizer, FORGETS)
  for start, keys in (([], ()), (before, (f"melodi_memory_file={path}",))):
    read, answers, texts = talk(FORGETS, *keys)
    messages, prompts = [], []
    for said, answer, text in zip(SAID, answers, texts, strict=True):
      messages.append({"role": "user", "content": said})
      prompts.append([*start, *chat(messages)])
      _, hits = model.logprobs([*prompts[-1], *answer])
      assert hits[len(prompts[-1]) - 1 :].all()
      messages.append({"role": "assistant", "content": text})
    known = [len(start[:-1]), *(len(prompt) - 1 for prompt in prompts)]
    assert read == np.diff(known).tolist()
