"""The split of documents: that of their files, or drawn for every group by its hash and size."""

import hashlib
import re
from collections.abc import Mapping

SPLITS = ("train", "validation", "test")
_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(
  ("validation", "valid", "val", "dev"), "validation"
)


def split_of(name: str) -> str:
  """The split that a relative path names: its nearest folder, else its file; '' if it names none.

  'dev/1.txt' and 'en/c4-validation.00000-of-00008.json.gz' are of 'validation'.
  """
  *folders, file = name.split("/")
  for part in [*reversed(folders), *re.split("[._-]", file)]:
    if part in _NAMES:
      return _NAMES[part]
  return ""


def split_groups(sizes: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, str]:
  """Draws the held-out groups.

  Test and then validation take groups in the order of their hashes until they hold their share of
  the text.  A group that would overfill a split by more than half is passed over, because one
  large project must not become the whole test set; if only such are left for a split that is not
  even half full, it gets the smallest.

  Args:
    sizes: UTF-8 bytes of each group.
    shares: part of the text for each split; they add up to 1.

  Returns:
    The split of each group.

  Raises:
    ValueError: if a split that has a share stays empty.
  """
  splits = dict.fromkeys(sizes, "train")
  total = sum(sizes.values())
  hashed = sorted(sizes, key=lambda group: hashlib.sha256(group.encode()).digest(), reverse=True)
  for split, later in (("test", ("validation", "train")), ("validation", ("train",))):
    target = shares[split] * total
    waiting = [group for group in hashed if splits[group] == "train"]
    # A group is left for every split that is still to be filled.
    free = len(waiting) - sum(shares[name] > 0 for name in later)
    size = taken = 0
    for group in waiting:
      if taken < free and size < target and size + sizes[group] <= 1.5 * target:
        splits[group] = split
        size, taken = size + sizes[group], taken + 1
    if size < target / 2 and taken < free:
      left = (group for group in waiting if splits[group] == "train")
      splits[min(left, key=sizes.__getitem__)] = split
  empty = {split for split in SPLITS if shares[split] > 0} - set(splits.values())
  if empty and sizes:
    raise ValueError(
      f"{len(sizes)} groups of documents are too few for the splits {', '.join(sorted(empty))}; "
      "group by document, give these splits the share 0, or add text."
    )
  return splits
