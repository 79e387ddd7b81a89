"""A corpus as it is written: plan, shards, manifest, and one step from nothing to complete."""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import re

import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from maxtext.input_pipeline.protos import example_pb2

from melodi_plugin.data.corpus import build as module
from melodi_plugin.data.corpus import corpus_tokenizer, lengths, plan
from melodi_plugin.data.corpus.build import Preset, build
from melodi_plugin.data.corpus.plan import Record
from melodi_plugin.data.documents import BrokenDocument

WORDS = corpus_tokenizer.CorpusTokenizer(lambda text: len(text.split()), {"type": "words"})
RECORDS = [
  Record(f"d{i}", f"Document number {i}, é.\n" * (i + 1), f"group{i % 20}") for i in range(60)
]


def _preset(*items, **changes):
  preset = Preset(documents=lambda: iter(items or RECORDS), tokenizer=lambda texts: WORDS)
  return dataclasses.replace(preset, **changes)


def _features(path):
  reader = ArrayRecordReader(str(path))
  for raw in reader.read_all():
    features = example_pb2.Example.FromString(raw).features.feature
    yield Record(*(features[name].bytes_list.value[0].decode() for name in ("id", "text", "group")))


def _split(folder, split):
  return [record for path in sorted(folder.glob(f"{split}-*")) for record in _features(path)]


def test_every_document_is_in_one_split_with_its_group_and_in_order(tmp_path):
  manifest = build("toy", _preset(shard_bytes=5000), tmp_path / "out", "how")
  parts = {split: _split(tmp_path / "out", split) for split in manifest["splits"]}
  assert sorted(record for part in parts.values() for record in part) == sorted(RECORDS)
  groups = [group for part in parts.values() for group in {record.group for record in part}]
  assert len(groups) == len(set(groups)) == 20
  for split, part in parts.items():
    sizes = manifest["splits"][split]
    assert part == [record for record in RECORDS if record in part]
    assert sizes["documents"] == len(part)
    assert sizes["groups"] == len({record.group for record in part})
    assert sizes["bytes"] == sum(len(record.text.encode()) for record in part)
    assert sizes["tokens"] == sum(len(record.text.split()) for record in part)
    assert sum(sizes["lengths"].values()) == len(part)
  assert manifest["command"] == "how" and manifest["tokenizer"] == {"type": "words"}
  assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())


def test_shards_are_full_and_numbered_and_read_at_random(tmp_path):
  manifest = build("toy", _preset(shard_bytes=5000), tmp_path / "out")
  shards = manifest["splits"]["train"]["shards"]
  names = [f"train-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
  assert sorted(path.name for path in (tmp_path / "out").glob("train-*")) == names
  assert shards > 3
  for name in names:
    part = list(_features(tmp_path / "out" / name))
    assert 0 < sum(len(record.text.encode()) for record in part) <= 5000
    reader = ArrayRecordReader(str(tmp_path / "out" / name))
    assert "group_size:1," in reader.writer_options_string()
    assert reader.num_records() == len(part)
  assert set(manifest["sha256"]) == {path.name for path in (tmp_path / "out").iterdir()} - {
    "manifest.json"
  }


def test_document_larger_than_a_shard_has_one_of_its_own(tmp_path):
  manifest = build("toy", _preset(shard_bytes=1), tmp_path / "out")
  assert manifest["splits"]["train"]["shards"] == manifest["splits"]["train"]["documents"]


def test_preset_may_fix_the_splits_and_bring_its_tokenizer(tmp_path):
  model = corpus_tokenizer.train([r.text for r in RECORDS], vocab_size=300).model
  records = [Record(f"d{i}", f"text {i}", "", split) for i, split in enumerate(["test", "train"])]
  preset = _preset(*records, tokenizer=lambda texts: corpus_tokenizer.from_model(model))
  manifest = build("toy", preset, tmp_path / "out")
  assert [s["documents"] for s in manifest["splits"].values()] == [1, 0, 1]
  assert [s["shards"] for s in manifest["splits"].values()] == [1, 0, 1]
  assert (tmp_path / "out" / "tokenizer.model").read_bytes() == model
  assert manifest["tokenizer"]["vocab_size"] == 300


def test_tokenizer_is_trained_on_training_texts_only(tmp_path, monkeypatch):
  seen = []
  preset = _preset(tokenizer=lambda texts: seen.extend(texts) or WORDS)
  build("toy", preset, tmp_path / "all")
  assert seen == [record.text for record in _split(tmp_path / "all", "train")]
  everything = seen.copy()
  seen.clear()
  monkeypatch.setattr(plan, "_TOKENIZER_BYTES", 5000)
  build("toy", preset, tmp_path / "part")
  assert seen == [text for text in everything if text in seen]
  assert 2500 < sum(len(text.encode()) for text in seen) <= 5000


def test_repeated_texts_are_left_out_and_listed(tmp_path):
  repeated = [Record("copy1", RECORDS[7].text), Record("copy2", RECORDS[7].text, "", "test")]
  manifest = build("toy", _preset(*RECORDS, *repeated), tmp_path / "out")
  assert manifest["duplicates"] == {"documents": 2, "same_text_as": {"copy1": "d7", "copy2": "d7"}}
  assert sum(sizes["documents"] for sizes in manifest["splits"].values()) == 60


@pytest.mark.parametrize(
  ("item", "message"),
  [
    (Record("d3", "again"), "Document 'd3' has the id of another document"),
    (Record("x", " \n"), "Document 'x' is empty"),
    (Record("x", "\ud800"), "Document 'x' holds a lone surrogate"),
    (Record("x", "text", "", "dev"), "Document 'x' has no split 'dev'"),
    (BrokenDocument("a.py", "is not UTF-8"), r"a\.py is not UTF-8"),
  ],
)
def test_broken_documents_stop_or_are_listed(tmp_path, item, message):
  items = [*RECORDS[:30], item, *RECORDS[30:]]
  with pytest.raises(BrokenDocument, match=message):
    build("toy", _preset(*items), tmp_path / "out")
  assert not list(tmp_path.iterdir())
  manifest = build("toy", _preset(*items, skip_broken=True), tmp_path / "out")
  assert manifest["skipped"]["documents"] == 1
  assert sum(sizes["documents"] for sizes in manifest["splits"].values()) == 60
  assert re.match(message, manifest["skipped"]["problems"][0])


def test_changed_document_is_noticed(tmp_path):
  texts = iter(["first", "second"])
  preset = _preset(
    documents=lambda: iter([Record("a", next(texts))]),
    shares={"train": 1.0, "validation": 0.0, "test": 0.0},
  )
  with pytest.raises(ValueError, match="Document 'a' changed while it was read"):
    build("toy", preset, tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_nothing_to_train_on_is_refused(tmp_path):
  with pytest.raises(ValueError, match="There is no document to train on"):
    build("toy", _preset(documents=lambda: iter(())), tmp_path / "out")


def test_complete_folder_is_left_as_it_is_and_another_is_refused(tmp_path):
  manifest = build("toy", _preset(), tmp_path / "out")
  before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
  untouched = _preset(documents=lambda: pytest.fail("was built again"))
  assert build("toy", untouched, tmp_path / "out") == manifest
  assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
  with pytest.raises(ValueError, match="is not a complete corpus 'toy' as asked for; remove it"):
    build("toy", dataclasses.replace(untouched, request={"sources": []}), tmp_path / "out")
  (tmp_path / "out" / "lengths.png").write_bytes(b"changed")
  with pytest.raises(ValueError, match="is not a complete corpus 'toy' as asked for; remove it"):
    build("toy", untouched, tmp_path / "out")


def test_interrupted_run_leaves_nothing_and_the_next_one_gives_the_same_bytes(
  tmp_path, monkeypatch
):
  preset = _preset(tokenizer=functools.partial(corpus_tokenizer.train, vocab_size=300))
  with monkeypatch.context() as patch:
    patch.setattr(module, "_digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      build("toy", preset, tmp_path / "a" / "out")
  assert not list((tmp_path / "a").iterdir())
  build("toy", preset, tmp_path / "a" / "out")
  build("toy", preset, tmp_path / "b")
  for path in (tmp_path / "b").iterdir():
    assert path.read_bytes() == (tmp_path / "a" / "out" / path.name).read_bytes()


def _build_here(out):
  return build("toy", _preset(), out)


def test_processes_at_the_same_time_do_not_disturb_each_other(tmp_path):
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    manifests = list(pool.map(_build_here, [tmp_path / "out"] * 2))
  assert manifests[0] == manifests[1]
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
  class Full(ArrayRecordWriter):
    def close(self):
      raise RuntimeError("write() failed: No space left on device")

  monkeypatch.setattr(module, "ArrayRecordWriter", Full)
  with pytest.raises(OSError, match=r"A shard cannot be written .*No space left.*; make room"):
    build("toy", _preset(), tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_tokenizer_reads_long_lines_and_refuses_too_little_text():
  trained = corpus_tokenizer.train(["long words in one line " * 5000], vocab_size=300)
  assert trained.count("long words in one line") < 15
  with pytest.raises(ValueError, match=r"No tokenizer of 9999 pieces .* choose another size"):
    corpus_tokenizer.train(["short"], vocab_size=9999)


@pytest.mark.parametrize("kind", corpus_tokenizer.KINDS)
def test_unusable_tokenizer_is_one_sentence(tmp_path, kind):
  path = tmp_path / "tokenizer.tiktoken"
  path.write_bytes(b"no model")
  with pytest.raises(ValueError, match=f"is no {kind} tokenizer .*; name another"):
    corpus_tokenizer.load(str(path), kind)


def test_bins_of_lengths():
  assert [lengths.bin_of(n) for n in (0, 1, 2, 3, 4, 1023, 1024)] == [1, 1, 2, 2, 4, 512, 1024]
