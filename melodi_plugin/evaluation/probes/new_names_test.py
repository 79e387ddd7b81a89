"""Which names a document defines, how far their uses are, and what memory is worth there."""

import numpy as np
import pytest

from melodi_plugin.evaluation.probes import new_names, pages, paired
from melodi_plugin.evaluation.probes.paired import Pair
from melodi_plugin.testing.comparison import make_probe


def found(text: str, window: int = 10) -> list[tuple[int | None, str]]:
  """Distance and text of every place, with one token per character."""
  spans = np.array([[i, i + 1] for i in range(len(text))])
  places = new_names.places(text, spans, window)
  return [(place.distance, text[place.tokens[0] : place.tokens[-1] + 1]) for place in places]


@pytest.mark.parametrize(
  ("text", "name"),
  [
    ("(* *) let ADD_SYM = prove\n (`x`", "ADD_SYM"),
    ("(* *) let rec size' tree = match", "size'"),
    ("x let EVAL_CONV tm th = tm", "EVAL_CONV"),
    (" def fold_left(f, x):", "fold_left"),
    (" class Window(Base):", "Window"),
    (" class Window:", "Window"),
    (" fn apply_all<T>(x: T)", "apply_all"),
    (" Lemma plus_n_O : forall n", "plus_n_O"),
    (" theorem foo_bar (n : Nat) : n", "foo_bar"),
    (" const size_of = 3", "size_of"),
  ],
)
def test_definitions_of_code_and_proofs(text, name):
  assert [place for place in found(text, 1000) if place[0] is None] == [(None, name)]


def test_prose_defines_nothing():
  assert not found(
    "We let people know that the class struggles, and type theory is a lemma indeed."
  )


def test_uses_are_counted_from_the_definition():
  #       0         1         2         3         4         5
  text = ".let NAME=1;NAME;....NAME.NAME.....................NAME.other"
  # In window 2 the second use is given away by the first; in the definition's window none is left.
  assert found(text) == [(None, "NAME"), (1, "NAME"), (2, "NAME"), (5, "NAME")]
  assert found(text, 100) == [(None, "NAME"), *[(0, "NAME")] * 4]


def test_a_name_that_was_used_before_is_not_new():
  assert found("use NAME; let NAME = 1; NAME") == []
  # A second definition is a use.
  assert found(".let NAME = 1; let NAME = 2", 9) == [(None, "NAME"), (2, "NAME")]


def test_pairs_say_what_memory_is_worth():
  pairs = [Pair(d, d % 3, True, 1.0, 1.5 + 0.1 * d) for d in range(6) for _ in range(4)]
  one = paired.rates(pairs)
  assert one["count"] == 24 and one["documents"] == 6 and one["accuracy"] == 1.0
  assert one["gain"] == pytest.approx(0.75) and one["nats_without"] == pytest.approx(1.75)
  low, high = one["gain_interval"]
  assert 0.5 < low < 0.75 < high < 1.0
  assert paired.rates(pairs[:4])["gain_interval"] is None
  points = paired.points(pairs, [(0, 0), (1, 2), (3, 4)])
  assert [(p["from"], p["to"], p["count"]) for p in points] == [(0, 0, 8), (1, 2, 16)]


def test_results_show_the_gain():
  pairs = [Pair(d, d, True, 1.0, 1.5 + 0.1 * d) for d in range(3)] * 2
  own = {"points": paired.points(pairs, [(0, 0), (1, 2)]), "first_use": paired.rates(pairs)}
  result = make_probe("a", probe="new_names", **own)
  _, gain = pages.tables([result])
  assert gain.rows[0][1] == "first use" and gain.rows[2][-1].startswith("+0.650 (+0.6")
  assert paired.picture([result], ["a"]).startswith(b"\x89PNG")
  text = pages.markdown([result])
  assert "memory is worth" in text and "54 tokens, all read" in text
