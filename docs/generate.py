"""Writes what the pages of this folder say about keys and commands: `uv run docs/generate.py`.

`integration_tests/docs_test.py` fails where a page says something else than the code.
"""

import pathlib
import re
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt
from pydantic.fields import FieldInfo

from melodi_plugin.cli.commands import COMMANDS
from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.serve_keys import ServeKeys

FOLDER = pathlib.Path(__file__).parent
# The first key of every group, in the order of the class.
GROUPS = {
  "melodi_base_block": "Sizes of memory",
  "melodi_position": "How memory is read",
  "melodi_memory_offset": "Memory around a pretrained model",
  "melodi_memory_dtype": "Storage",
  "melodi_neighbors": "The other systems",
  "melodi_schedule": "Schedule and control",
  "melodi_prepare_data": "Documents",
  "melodi_probe": "Evaluation",
  "melodi_prompt_file": "Generation and memory in files",
  "melodi_learning_rate_schedule": "Learning rate",
  "melodi_serve_host": "`melodi serve`",
}
_KEYS_HEADER = """# Keys

<!-- Written by `uv run docs/generate.py` from melodi_plugin/config/keys.py and
serve_keys.py; change it there. -->

Every key of MaxText keeps its name and meaning; these are ours. In your own MaxText config:

```yaml
base_config: base.yml          # MaxText's
decoder_block: melodi
max_target_length: 4096        # T, the segment of one training step
melodi_window_length: 512      # W
melodi_summary_tokens: 64      # U
melodi_short_term_tokens: 64   # S
melodi_long_term_increment: 32 # L
melodi_long_term_windows: 128  # Q
packing: false                 # rows read whole documents in order instead
dataset_type: grain
grain_train_files: my_books/   # .txt, .jsonl, .parquet, ArrayRecord; folders, globs, joined by ;
```

Keys work in YAML, as `key=value` on the command line, and as environment variables
(`M_MELODI_WINDOW_LENGTH=256`). A key that does not fit the system or the rest of the config is
refused with a sentence ([errors.md](errors.md)).

One key of MaxText has another default with memory: `adamw_mask`, the parameters without weight
decay, names temperatures, gates, norms, biases and tables. A list of your own takes its place;
around a stock block it is added to the names of what memory adds, which never decays.
"""
_HELP = re.compile(r"(<!-- (melodi[^>]*?) --help -->\n```text\n).*?(```\n)", re.DOTALL)


def keys_page() -> str:
  """docs/keys.md."""
  text = _KEYS_HEADER
  fields = MelodiKeys.model_fields  # those of the class that it is built on come first there
  for name in sorted(fields, key=lambda name: name in ServeKeys.model_fields):
    field = fields[name]
    if name in GROUPS:
      text += f"\n## {GROUPS[name]}\n\n| key | default | values | meaning |\n|---|---|---|---|\n"
    description = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
    text += f"| `{name}` | {_default(field)} | {_values(field)} | {description} |\n"
  return text


def _default(field: FieldInfo) -> str:
  """A default as YAML spells it."""
  value = field.default
  if value == "":
    return "(none)"
  return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: FieldInfo) -> str:
  """What may be given: the choices, or the type and its bound."""
  kind: Any = field.annotation
  if get_origin(kind) is Literal:
    return ", ".join(f"`{value}`" for value in get_args(kind) if value != "")
  name = {int: "integer", float: "number", bool: "`true`, `false`", str: "text"}.get(kind, "layers")
  bounds = [f"> {rule.gt}" for rule in field.metadata if isinstance(rule, Gt)]
  bounds += [f"≥ {rule.ge}" for rule in field.metadata if isinstance(rule, Ge)]
  return " ".join([name, *bounds])


def with_help(page: str) -> str:
  """A page with the help of every command that it shows, as the command prints it."""
  return _HELP.sub(lambda found: found[1] + help_of(found[2]) + found[3], page)


def help_of(command: str) -> str:
  """What `melodi VERB --help` prints."""
  (verb,) = (verb for verb in COMMANDS if f"melodi {verb.name}" == command)
  return verb.parser().format_help()


def pages() -> dict[str, str]:
  """The pages that say what the code says, by file name."""
  commands = FOLDER / "commands.md"
  return {"keys.md": keys_page(), "commands.md": with_help(commands.read_text(encoding="utf-8"))}


if __name__ == "__main__":
  for file, content in pages().items():
    (FOLDER / file).write_text(content, encoding="utf-8")
