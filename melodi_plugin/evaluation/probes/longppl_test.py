"""Which tokens are key, and files of losses."""

import numpy as np
import pytest

from melodi_plugin.evaluation import losses
from melodi_plugin.evaluation.probes import longppl
from melodi_plugin.evaluation.reading import ScoredDocument


def scored(index: int, nats: list[float], first_token: int = 5) -> ScoredDocument:
  tokens = np.arange(first_token, first_token + len(nats) + 1, dtype=np.int32)
  hits = np.zeros(len(nats), bool)
  return ScoredDocument(index, f"d{index}", "x", tokens, np.array(nats, np.float32), hits)


def test_key_tokens_are_much_easier_with_long_context_and_easy_with_it():
  long = np.array([0.5, 0.5, 1.9, 2.1, 0.5])
  short = np.array([2.6, 2.4, 9.0, 9.0, 0.1])
  assert longppl.key_tokens(long, short).tolist() == [True, False, True, False, False]


def test_a_judge_of_files_finds_the_key_tokens_of_each_document(tmp_path):
  paths = [f"{tmp_path}/{name}.npz" for name in ("long", "short")]
  for path, shift in zip(paths, (0.0, 3.0), strict=True):
    easy, hard = scored(0, [1.0 + shift, 1.0]), scored(1, [9.0, 1.0, 0.5 + shift])
    losses.write_losses(path, [hard, easy])
  judge = longppl.Judge.read(", ".join(paths))
  assert judge.keys(scored(0, [0.0, 0.0])).tolist() == [True, False]
  assert judge.keys(scored(1, [0.0, 0.0, 0.0])).tolist() == [False, False, True]
  for other in (scored(2, [0.0]), scored(0, [0.0, 0.0], first_token=6), scored(0, [0.0])):
    with pytest.raises(ValueError, match=f"has not read the tokens of {other.id}"):
      judge.keys(other)


def test_what_is_no_judge_is_refused(tmp_path):
  with pytest.raises(ValueError, match="does not name two files"):
    longppl.Judge.read("a.npz")
  (tmp_path / "a.npz").write_text("no losses")
  np.save(tmp_path / "b.npy", np.zeros(3))
  np.savez(tmp_path / "c.npz", ids=["d0", "d1"], lengths=[2], tokens=[5, 6], nats=[0.5])
  for name in ("b.npy", "c.npz"):
    with pytest.raises(ValueError, match=f"{name} is not a losses"):
      losses.read_losses(f"{tmp_path}/{name}")
  with pytest.raises(ValueError, match=r"a\.npz is not a losses"):
    losses.read_losses(f"{tmp_path}/a.npz")
  with pytest.raises(ValueError, match="there is no such file"):
    losses.read_losses(f"{tmp_path}/b.npz")
