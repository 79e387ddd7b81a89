"""A few kills of the soak; the whole of it is a command (docs/testing.md)."""

import sys

import pytest

from integration_tests import running


@pytest.mark.slow
def test_a_few_kills_change_nothing(tmp_path):
  kinds = ["one process", "a worker process", "small disk"]  # two processes take minutes alone
  code, log = running.command(
    *("-m", "integration_tests.soak.drive", "--kills", "3", "--minutes", "8"),
    *("--folder", str(tmp_path / "soak"), "--kinds", *kinds),
    cwd=tmp_path,
    PYTHONPATH=":".join(sys.path),
  )
  assert code == 0, log[-3000:]
  assert "runs that ended equal: none" not in log
