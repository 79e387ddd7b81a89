"""The list of broken documents, also after a kill."""

import errno
import json
import logging
import os

import pytest

from melodi_plugin.data.records import BrokenDocument
from melodi_plugin.data.skipped import SkippedDocuments

FIRST, SECOND, THIRD = (BrokenDocument(f"a.jsonl:{n}", f"has a fault {n}") for n in (1, 2, 3))


def _listed(path) -> list[str]:
  return [json.loads(line)["where"] for line in path.read_text().splitlines()]


def test_every_document_is_listed_once_and_the_list_goes_on(tmp_path):
  path = tmp_path / "run" / "skipped.jsonl"
  skipped = SkippedDocuments(path, [FIRST])
  skipped(FIRST)
  SkippedDocuments(path)(SECOND)
  assert _listed(path) == [FIRST.where, SECOND.where]


@pytest.mark.parametrize("cut", [b'{"where": "a.json', b'{"where": "\xc3', b"7", b"{}", b"[]"])
def test_a_line_that_a_kill_has_cut_off_costs_only_itself(tmp_path, caplog, cut):
  path = tmp_path / "skipped.jsonl"
  SkippedDocuments(path, [FIRST, SECOND])
  path.write_bytes(path.read_bytes() + cut)
  with caplog.at_level(logging.WARNING):
    skipped = SkippedDocuments(path)
  assert "skipped.jsonl:3 is not a whole line and is left out." in caplog.text
  skipped(SECOND)
  skipped(THIRD)
  assert _listed(path) == [FIRST.where, SECOND.where, THIRD.where]


def test_a_full_disk_leaves_the_list_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / "skipped.jsonl"
  skipped = SkippedDocuments(path, [FIRST])

  def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space left"):
    skipped(SECOND)
  assert _listed(path) == [FIRST.where]
  assert [found.name for found in tmp_path.iterdir()] == ["skipped.jsonl"]
