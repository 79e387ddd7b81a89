"""`melodi bench decode` from end to end: what must be constant is, and a stock decoder grows."""

import json

import pytest

from integration_tests import running
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.cost.accounting import row_bytes

KEYS = {name: running.TINY[name] for name in running.TINY if name.startswith(("base", "head"))}
KEYS |= running.MELODI | {"vocab_size": 64, "dtype": "bfloat16"}


@pytest.mark.slow
def test_state_and_programs_are_constant_and_a_stock_decoder_grows(tmp_path):
  words = [f"{name}={value}" for name, value in KEYS.items()]
  sizes = ["--read", "32", "80", "--stock", "32", "64", "--tokens", "500", "--slots", "2"]
  out = tmp_path / "decode.png"
  code, log = running.command(
    "-m", "melodi_plugin", "bench", "decode", *words, *sizes, "--json", f"out={out}", cwd=tmp_path
  )
  assert code == 0, log
  found = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
  points, long = found["points"]["with memory"], found["long"]
  assert [point["tokens"] for point in points] == [32, 80] and long[-1]["tokens"] == 500
  assert len({entry["compiles"] for entry in (points[1], *long)}) == 1
  with running.maxtext_process():
    config = running.initialize(**running.TINY | KEYS)
  expected = row_bytes(MelodiConfig.from_maxtext(config), memory_bytes=4, cache_bytes=2)
  assert {entry["state_bytes"] for entry in (*points, *long)} == {expected}
  stock = found["points"]["stock decoder"]
  assert stock[1]["state_bytes"] > 1.9 * stock[0]["state_bytes"]
  assert out.read_bytes().startswith(b"\x89PNG")
