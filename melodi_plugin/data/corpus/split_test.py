import pytest

from melodi_plugin.data.corpus.split import split_groups

SHARES = {"train": 0.85, "validation": 0.05, "test": 0.10}


def _text(sizes, splits):
  total = sum(sizes.values())
  return {s: sum(sizes[g] for g in sizes if splits[g] == s) / total for s in SHARES}


def test_shares_are_of_the_text_and_every_group_goes_somewhere():
  sizes = {f"g{i}": 10 + i for i in range(100)}
  splits = split_groups(sizes, SHARES)
  assert splits.keys() == sizes.keys()
  share = _text(sizes, splits)
  assert share["test"] == pytest.approx(0.10, abs=0.02)
  assert share["validation"] == pytest.approx(0.05, abs=0.02)


def test_split_depends_on_names_and_sizes_only():
  sizes = {f"g{i}": 10 + i for i in range(100)}
  assert split_groups(sizes, SHARES) == split_groups(dict(reversed(sizes.items())), SHARES)


@pytest.mark.parametrize("seed", range(20))
def test_a_large_group_is_not_held_out(seed):
  sizes = {f"{seed}-{i}": 10 for i in range(100)} | {f"{seed}-large": 1000}
  splits = split_groups(sizes, SHARES)
  assert splits[f"{seed}-large"] == "train"
  share = _text(sizes, splits)
  assert share["test"] == pytest.approx(0.10, abs=0.01)
  assert share["validation"] == pytest.approx(0.05, abs=0.01)


def test_few_groups_fill_every_split_with_the_largest_in_train():
  assert split_groups({"a": 5, "b": 50, "c": 10}, SHARES) == {
    "a": "test",
    "b": "train",
    "c": "validation",
  }


@pytest.mark.parametrize("seed", range(20))
def test_three_groups_are_enough(seed):
  sizes = {f"{seed}-a": 1, f"{seed}-b": 70, f"{seed}-c": 1000}
  splits = split_groups(sizes, SHARES)
  assert set(splits.values()) == set(SHARES) and splits[f"{seed}-c"] == "train"


def test_a_share_of_zero_stays_empty():
  shares = {"train": 0.5, "validation": 0.0, "test": 0.5}
  assert set(split_groups({"a": 5, "b": 5}, shares).values()) == {"train", "test"}
  assert split_groups({"a": 5}, {"train": 1.0, "validation": 0.0, "test": 0.0}) == {"a": "train"}


def test_too_few_groups_are_refused():
  with pytest.raises(ValueError, match=r"2 groups .* too few for the splits test; group by"):
    split_groups({"a": 5, "b": 50}, SHARES)
