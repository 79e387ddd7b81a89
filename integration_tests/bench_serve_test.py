"""`melodi bench serve` from end to end, on a tiny model: what was read before is not waited for."""

import json
import statistics

import pytest

from integration_tests import running, saved_model


@pytest.mark.slow
def test_clients_wait_less_for_what_was_read_before(tmp_path):
  with saved_model.saved_model(tmp_path) as model:
    sizes = ["--slots", "1", "2", "--tokens", "8", "--prefix", "4000", "--read", "8000"]
    words = ["bench", "serve", *model.words, *sizes, "--repeats", "3", "--json"]
    code, log = running.command("-m", "melodi_plugin", *words, cwd=tmp_path)
  assert code == 0, log
  found = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
  assert [rate["slots"] for rate in found["rates"]] == [1, 2]
  assert all(len(rate["rates"]) == 3 for rate in found["rates"])
  # A special token has no text, and is told of with the next one.
  assert 0 < len(found["alone"]) < 8 and found["beside"]
  assert statistics.median(found["cold"]) > 2 * statistics.median(found["warm"])
