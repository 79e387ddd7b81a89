"""Memory that was kept goes on as if it had never been: in a file, and after prefixes of texts."""

import functools

import jax
import numpy as np
import pytest

from integration_tests import saved_model
from integration_tests.saved_model import PROMPT, WINDOW, random_text
from melodi_plugin.checkpoints import fingerprint
from melodi_plugin.cli.main import main
from melodi_plugin.data.corpus import shakespeare
from melodi_plugin.serving.prefixes import PrefixReader
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.session import Session
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.serving.writing import Ends

REST = random_text(1, 3 * WINDOW)


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory):
  with saved_model.saved_model(tmp_path_factory.mktemp("memory")) as model:
    yield model


@pytest.fixture(name="decode")
def _decode(model, capsys):
  """Runs the command with `--json`; returns what it prints."""
  return functools.partial(saved_model.decode_json, model, capsys)


@pytest.fixture(scope="module", name="session")
def _session(model):
  """Begins a session in the engine, from nothing or from a memory file."""
  settings = SamplingSettings.from_maxtext(model.config("decode_sampling_strategy=greedy"))

  def begin(path=None):
    checkpoint = model.checkpoint()
    prefixes, own = PrefixReader(checkpoint.engine, Snapshots(0)), {}
    if path:
      row, saved = checkpoint.load_memory(path)
      own = dict(start=row, pending=saved.pending)
    return Session(checkpoint.engine, checkpoint.tokenizer, settings, prefixes=prefixes, **own)

  return begin


def goes_on(model, session, ids, count=20):
  """Reads and writes; returns the tokens, everything that was said of them, and the state."""
  session.read(ids)
  drawn = [written.drawn for written in session.write(Ends(count))]
  said = np.array([own.top_logprobs for own in drawn])
  row = model.checkpoint(reset=False).engine.extract(0)
  leaves = [leaf.tobytes() for leaf in jax.tree.leaves(row.state)]
  return [own.token for own in drawn], said, (leaves, row.tokens, row.prefix)


def test_command_goes_on_from_a_file_as_if_it_had_never_stopped(model, decode, session, tmp_path):
  path = f"{tmp_path}/new/a.memory"
  before = decode("melodi_max_tokens=10", f"melodi_memory_out={path}", "melodi_memory_title=A b")
  after = decode("melodi_max_tokens=20", f"melodi_memory_file={path}", prompt=REST)
  never, tokenizer = session(), model.checkpoint(reset=False).tokenizer
  never.read(tokenizer.prompt(PROMPT).tolist())
  first = [written.drawn for written in never.write(Ends(10))]
  never.read(tokenizer.encode(REST))
  second = [written.drawn for written in never.write(Ends(20))]
  for found, expected in ((before, first), (after, second)):
    assert found["token_ids"] == [own.token for own in expected]
    assert found["logprobs"] == [own.logprob for own in expected]
  assert after["prompt_tokens"] == len(tokenizer.encode(REST))
  saved = model.checkpoint(reset=False).load_memory(path)[1]
  assert (saved.title, saved.tokens_read) == ("A b", len(PROMPT) + 10)
  assert saved.pending == (before["token_ids"][-1],)


def test_text_goes_on_from_a_file_bit_for_bit_wherever_it_was_cut(model, session, tmp_path):
  path, ids = str(tmp_path / "a.memory"), model.checkpoint().tokenizer.prompt(PROMPT).tolist()
  for cut in np.random.default_rng(0).permutation(np.arange(1, len(ids)))[:20].tolist():
    never = session()
    never.read(ids[:cut])
    checkpoint = model.checkpoint(reset=False)
    checkpoint.save_memory(path, checkpoint.engine.extract(0), never.pending)
    expected = goes_on(model, never, ids[cut:])
    found = goes_on(model, session(path), ids[cut:])
    assert found[0] == expected[0] and found[2] == expected[2]
    np.testing.assert_array_equal(found[1], expected[1])


def test_compact_file_goes_on_up_to_rounding(model, session, tmp_path):
  """Keys and values of memory are made anew: they differ in the last bits, if at all."""
  ids = model.checkpoint().tokenizer.prompt(PROMPT).tolist()
  for cut in (3, 2 * WINDOW + 1, 4 * WINDOW + 5):
    never, sizes = session(), []
    never.read(ids[:cut])
    checkpoint = model.checkpoint(reset=False)
    row = checkpoint.engine.extract(0)
    for compact in (False, True):
      path = tmp_path / f"{compact}.memory"
      checkpoint.save_memory(str(path), row, never.pending, compact=compact)
      sizes.append(path.stat().st_size)
    expected = goes_on(model, never, ids[cut:])
    found = goes_on(model, session(str(tmp_path / "True.memory")), ids[cut:])
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5, rtol=0)
    assert sizes[1] < sizes[0]


OTHERS = {
  "model": ("", "was written with another model"),
  "tokenizer": ("add_bos=false", "was written with another tokenizer"),
  "settings": ("melodi_memory_dtype=bfloat16", 'melodi_memory_dtype="float32", and here'),
}


@pytest.mark.parametrize("name", OTHERS)
def test_file_of_something_else_is_a_sentence(model, decode, tmp_path, capsys, monkeypatch, name):
  path = f"{tmp_path}/a.memory"
  decode("melodi_max_tokens=1", f"melodi_memory_out={path}")
  key, words = OTHERS[name]
  if not key:
    monkeypatch.setattr(fingerprint, "of_model", lambda *_: "00" * 16)
  own = ["prompt=a", f"melodi_memory_file={path}", *filter(None, [key])]
  assert model.run(["decode", *own]) == 2
  said = capsys.readouterr()
  assert words in said.err and said.err.count("error: ") == 1 and said.out == ""


@pytest.mark.slow  # loads and compiles another model
def test_file_of_a_model_that_differs_in_one_bit_is_refused(model, decode, tmp_path, capsys):
  path = f"{tmp_path}/a.memory"
  decode("melodi_max_tokens=1", f"melodi_memory_out={path}")
  other = f"load_parameters_path={model.with_one_bit_changed('other')}"
  assert main(["decode", *model.words, "prompt=a", f"melodi_memory_file={path}", other]) == 2
  assert "was written with another model" in capsys.readouterr().err


# -- Prefixes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_prefixes_of_real_text_are_found_and_are_what_reading_all_gives(model, count):
  """Bit for bit, under a budget that keeps some of them."""
  engine = model.checkpoint().engine
  text = (
    np.frombuffer(next(iter(shakespeare.plays())).text.encode()[:4000], np.uint8).astype(np.int32)
    % 15
  )
  chance = np.random.default_rng(0)
  begins = [0, 0, 0, 700]  # most texts have the same begin
  cold, budget = {}, 30 * engine.row_bytes
  prefixes = PrefixReader(engine, Snapshots(budget))
  saved = hits = 0
  for _ in range(count):
    begin, length = int(chance.choice(begins)), int(chance.integers(1, 300))
    tokens = text[begin : begin + length]
    if (begin, length) not in cold:
      engine.begin(0)
      engine.read_all({0: tokens})
      cold[begin, length] = engine.extract(0)
    own = prefixes.read(0, tokens)
    saved, hits = saved + own, hits + (own > 0)
    assert prefixes.snapshots.bytes <= budget
    found, expected = engine.extract(0), cold[begin, length]
    assert found[1:] == expected[1:]
    for ours, leaf in zip(
      jax.tree.leaves(found.state), jax.tree.leaves(expected.state), strict=True
    ):
      assert ours.tobytes() == leaf.tobytes()
  counted = prefixes.snapshots
  assert (counted.hits, counted.misses) == (hits, count - hits)
  assert counted.tokens_saved == saved > 0
  assert counted.evicted > 0
