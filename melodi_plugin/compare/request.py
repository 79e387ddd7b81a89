"""The command line of `compare`, and what its rows must have in common."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.errors import UserError

# For every run: it leaves a last checkpoint, and only the comparison evaluates it; a stock decoder
# reads what the others read.
FORCED = (
  "enable_checkpointing=true",
  "save_checkpoint_on_completion=true",
  "melodi_documents_in_rows=true",
  "melodi_evaluate_after_training=false",
  "melodi_probe=''",
)
SEEDS = ("init_weights_seed", "data_shuffle_seed")
PLACES = ("run_name", "base_output_directory", "metrics_file")
_OURS = {*SEEDS, *PLACES, *(argument.partition("=")[0] for argument in FORCED)}

TOKENS_PER_STEP = "tokens per step (batch size times max_target_length)"
SAME = (
  "steps",
  "num_epoch",
  "learning_rate_schedule_steps",
  # The text, in training and in evaluation.
  "dataset_type",
  "grain_train_files",
  "grain_eval_files",
  "dataset_path",
  "dataset_name",
  "hf_path",
  "hf_name",
  "hf_train_files",
  "train_data_columns",
  "eval_data_columns",
  "enable_data_shuffling",
  "melodi_max_document_bytes",
  "melodi_skip_broken_documents",
  # Its tokens.
  "tokenizer_type",
  "tokenizer_path",
  "vocab_size",
  "add_bos",
  "add_eos",
  "melodi_special_tokens_in_text",
  "use_sft",
  "sft_train_on_completion_only",
  "chat_template",
  "chat_template_path",
)


class Request(NamedTuple):
  """What the command line asks for."""

  configs: tuple[str, ...]  # paths of YAMLs, one per row
  overrides: tuple[str, ...]  # key=value, for all rows
  seeds: tuple[int, ...]
  out: pathlib.Path
  key: str  # of evaluate_with, or ''
  values: tuple[str, ...]
  probe: str = ""  # that every row is asked as well, or ''

  @property
  def names(self) -> list[str]:
    """Names of the rows: the YAMLs without folder and ending."""
    return [pathlib.Path(config).stem for config in self.configs]

  @property
  def command(self) -> str:
    """The command line, in one order."""
    words = ["melodi compare", *self.configs, *self.overrides]
    words.append(f"seeds={','.join(map(str, self.seeds))}")
    if self.key:
      words.append(f"evaluate_with={self.key}={','.join(self.values)}")
    if self.probe:
      words.append(f"probe={self.probe}")
    return " ".join(words)


def ask(
  configs: Sequence[str],
  overrides: Sequence[str],
  seeds: str,
  out: str,
  evaluate_with: str,
  probe: str = "",
) -> Request:
  """A request from the words of a command line; raises UserError if they make no sense."""
  key, values = _evaluate_with(evaluate_with)
  where = pathlib.Path(os.path.abspath(out))
  request = Request(tuple(configs), tuple(overrides), _seeds(seeds), where, key, values, probe)
  probes = get_args(MelodiKeys.model_fields["melodi_probe"].annotation)
  if probe not in probes:
    raise UserError(f"probe={probe} is no probe; choose of {', '.join(filter(None, probes))}.")
  if twice := sorted({name for name in request.names if request.names.count(name) > 1}):
    raise UserError(
      f"two rows are called {twice[0]}; a row is called as its .yml, so rename one of them."
    )
  if taken := sorted(_OURS & {key, *(override.partition("=")[0] for override in overrides)}):
    raise UserError(f"{taken[0]} is set by the comparison itself for every run; leave it out.")
  return request


def _seeds(text: str) -> tuple[int, ...]:
  try:
    seeds = tuple(int(part) for part in text.split(","))
  except ValueError:
    raise UserError(
      f"seeds={text} is not a list of whole numbers; write it as seeds=0,1,2."
    ) from None
  if len(set(seeds)) < len(seeds):
    raise UserError(f"seeds={text} names a seed twice; every seed is one run.")
  return seeds


def _evaluate_with(text: str) -> tuple[str, tuple[str, ...]]:
  key, _, listed = text.partition("=")
  values = tuple(dict.fromkeys(value.strip() for value in listed.split(",") if value.strip()))
  if bool(key) != bool(values):
    raise UserError(f"evaluate_with={text} is not key=value,value; write evaluate_with={_EXAMPLE}.")
  return key, values


_EXAMPLE = "melodi_long_term_windows=1,4,16"


def tokens_per_step(settings: Mapping[str, Any]) -> int:
  """Slots for tokens that one training step reads."""
  return settings["global_batch_size_to_train_on"] * settings["max_target_length"]


def check_same(settings: Mapping[str, Mapping[str, Any]]) -> None:
  """Raises UserError unless all rows read the same text for the same budget.

  Args:
    settings: what MaxText makes of every config, by its path.
  """
  told = [_difference(TOKENS_PER_STEP, {p: tokens_per_step(s) for p, s in settings.items()})]
  told += [_difference(key, {path: s.get(key) for path, s in settings.items()}) for key in SAME]
  if any(told):
    raise UserError(
      f"these configs cannot be compared: {'; '.join(filter(None, told))}; make them the same in "
      "the files, or for all rows with key=value."
    )
  for path, own in settings.items():
    if not own.get("grain_eval_files"):
      raise UserError(
        f"grain_eval_files is not set in {path}, so nothing can be evaluated; set it."
      )


def unequal_slots(hides: Mapping[str, bool | None]) -> str:
  """What a reader must know if rows differ in whether they hide empty memory slots, or ''.

  Args:
    hides: by row; None for a row without memory.
  """
  seen, hidden = ([name for name, own in hides.items() if own is rule] for rule in (False, True))
  if not seen or not hidden:
    return ""
  return (
    f"memory slots that no window has filled yet are attended to in {', '.join(seen)} and hidden "
    f"in {', '.join(hidden)}, which alone can decide; melodi_mask_empty_slots=true hides them in "
    "all rows"
  )


def _difference(key: str, values: Mapping[str, Any]) -> str:
  """'steps is 3 in a.yml, 5 in b.yml and c.yml', or '' if all are the same."""
  places: dict[str, list[str]] = {}
  for path, value in values.items():
    places.setdefault(repr(value), []).append(path)
  if len(places) == 1:
    return ""
  return f"{key} is " + ", ".join(f"{v} in {' and '.join(paths)}" for v, paths in places.items())
