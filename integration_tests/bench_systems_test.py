"""`melodi bench systems` from end to end, on the eight devices of the tests' process.

All of it: uv run pytest -m 'slow or not slow' integration_tests/bench_systems_test.py
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from integration_tests import running
from melodi_plugin.bench import systems, timing
from melodi_plugin.bench.peers import NAMES, with_windows
from melodi_plugin.cli.main import main

OF_MODEL = {name: running.TINY[name] for name in running.TINY if name.startswith(("base", "head"))}
KEYS = OF_MODEL | running.MELODI
KEYS |= {
  "base_num_decoder_layers": 1,
  "vocab_size": 64,
  "max_target_length": 32,
  "per_device_batch_size": 1,
  "melodi_long_term_layers": "middle",
  "sharding_tolerance": 0.5,  # small arrays are much of so small a model
  "melodi_recurrent_states": 8,
}


def bench(*words: str, **keys) -> int:
  own = [f"{name}={value}" for name, value in (KEYS | keys).items()]
  with running.maxtext_process():
    return main(["bench", "systems", *own, *words])


def measured(out: pathlib.Path, capsys, *words: str) -> dict:
  """What `--json` says."""
  assert bench(*words, "--json", f"out={out}") == 0
  assert out.read_bytes().startswith(b"\x89PNG")
  return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_training_and_reading_are_measured(tmp_path, capsys, monkeypatch):
  made = []

  class Noted(systems.TrainingStep):
    def __init__(self, config):
      super().__init__(config)
      made.append(self)

  monkeypatch.setattr(timing, "_LONG", 0.0)  # any product is large enough
  monkeypatch.setattr(systems, "TrainingStep", Noted)
  words = ("--systems", "transformer_xl", "--repeats", "2", "--read", "32", "96")
  found = measured(tmp_path / "systems.png", capsys, *words)
  assert len(found["limit"]["taken"]) == 2 and found["limit"]["operations"] > 0
  own = found["systems"]["transformer_xl"]
  assert own["tokens"] == 32 * jax.device_count()
  # Memory goes on from step to step: two windows each, and one step has warmed up.
  assert (np.asarray(made[0].state.model.decoder.memory_windows[...]) == 3 * 2).all()
  assert len(own["steps"]) == 2 and all(min(taken) > 0 for taken in own["steps"])
  assert own["temporaries"] > 0 and own["operations"] > 0
  assert list(own["seconds"]) == ["32", "96"]
  assert all(short[0] < long[0] for short, long in zip(*own["seconds"].values(), strict=True))


def test_documents_are_whole_segments(tmp_path, capsys):
  assert bench("--read", "64", "40", f"out={tmp_path / 'picture.png'}") == 2
  error = capsys.readouterr().err
  assert "--read 40: documents are read in whole segments of max_target_length=32" in error


def test_memory_around_a_stock_block_is_refused(tmp_path, capsys):
  assert bench(f"out={tmp_path / 'x.png'}", melodi_base_block="llama2") == 2
  assert "give a config without it" in capsys.readouterr().err


@pytest.mark.slow
def test_every_system_is_measured(tmp_path, capsys):
  words = ("--repeats", "1", "--read", "64", "--stock", "64", "--xl-windows", "32")
  assert bench(*words, f"out={tmp_path / 'systems.png'}") == 0
  said = capsys.readouterr().out
  for name in (*NAMES, with_windows(32)):
    assert said.count(f"| {name} ") == 2, name
  assert "products of " in said


@pytest.mark.broad
def test_stock_decoder_reads_what_it_can_see_at_once(tmp_path, capsys):
  words = ("--systems", "melodi", "stock", "--repeats", "1", "--read", "64", "128", "--stock", "64")
  found = measured(tmp_path / "systems.png", capsys, *words)["systems"]
  read = {name: list(own["seconds"]) for name, own in found.items()}
  assert read == {"melodi": ["64", "128"], "stock": ["64"]}
