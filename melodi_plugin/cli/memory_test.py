"""`melodi memory`, run as a command."""

import subprocess
import sys

import numpy as np
import pytest

from melodi_plugin.checkpoints import memory_format
from melodi_plugin.cli.main import main

SAID = {
  "model": "aa11",
  "tokenizer": "bb22",
  "settings": {"window_length": 512, "dtype": "bfloat16", "long_term_layers": [4, 5]},
  "tokens_read": 1_234_567,
  "held": 2411,
  "count": 135,
  "pending": [17],
  "prefix": "cafe",
  "title": "Hamlet | 1603",
  "created": "2026-11-25T12:00:00+00:00",
  "writer": "melodi-plugin 0.1.0",
  "compact": False,
}


@pytest.fixture(name="path")
def _path(tmp_path):
  arrays = {f"layer.{i}.memory.short": np.ones((128, 64), np.float32) for i in range(3)}
  arrays["layer.1.memory.long.user.tree"] = np.ones((1000, 50), np.float32)
  path = str(tmp_path / "hamlet.memory")
  memory_format.write(path, arrays, SAID)
  return path


def test_table_says_what_is_in_files(path, tmp_path, capsys):
  other = str(tmp_path / "other.memory")
  memory_format.write(other, {}, SAID | {"title": "", "settings": {"dtype": "float32"}})
  assert main(["memory", path, other]) == 0
  header, _, *lines = capsys.readouterr().out.splitlines()
  table = {line.split(" | ")[0].strip("| "): line.split(" | ", 1)[1].strip("| ") for line in lines}
  table = {name: " ".join(cells.split()) for name, cells in table.items()}
  assert path in header and other in header
  assert table["title"] == r"Hamlet \| 1603 | -"
  assert table["tokens read"] == "1,234,567 | 1,234,567"
  assert table["ids that come next"] == "17 | 17"
  assert table["short-term memory"] == "98,304 B | 0 B"
  assert table["long-term memory"] == "200.0 kB | 0 B"
  assert table["window_length"] == "512 | -" and table["dtype"] == "bfloat16 | float32"
  assert table["long_term_layers"] == "[4, 5] | -"


def test_file_that_is_none_is_one_sentence(path, tmp_path, capsys):
  (tmp_path / "text.memory").write_text("To be, or not to be")
  for wrong in ("text.memory", "missing.memory"):
    assert main(["memory", path, str(tmp_path / wrong)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and wrong in said.err


def test_it_waits_for_neither_jax_nor_maxtext(path):
  program = (
    "import sys; from melodi_plugin.cli.main import main; main(sys.argv[1:]); "
    "print({'jax', 'flax', 'maxtext'} & sys.modules.keys(), file=sys.stderr)"
  )
  words = [sys.executable, "-c", program, "memory", path]
  done = subprocess.run(words, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, "set()\n") and "Hamlet" in done.stdout
