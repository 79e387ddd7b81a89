"""What every verb takes: words, options, and the keys that its help explains."""

from collections.abc import Callable, Sequence
from typing import Any

from melodi_plugin.bench.peers import NAMES
from melodi_plugin.cli.parser import Parser, positive, share, true_or_false

# MaxText has some 900 keys; these are the first that one needs.
_MAXTEXT = {
  "base_output_directory": "Folder of all runs.",
  "run_name": "Folder of this run in it; the same name goes on from its last checkpoint.",
  "steps": "Training steps.",
  "per_device_batch_size": "Rows per device.",
  "max_target_length": "Tokens of a row per step: a segment, whole windows of it.",
  "dataset_type": "`grain` for documents.",
  "grain_train_files": "Documents to train on: text, .jsonl, .parquet or .array_record files.",
  "grain_eval_files": "Documents to evaluate with.",
  "tokenizer_path": "Tokenizer: a file of sentencepiece, or a folder of Hugging Face.",
  "tokenizer_type": "`sentencepiece`, `huggingface` or `tiktoken`.",
  "learning_rate": "Greatest learning rate.",
  "load_parameters_path": "Checkpoint whose parameters are read first: <folder>/items.",
  "prompt": "Text to go on from.",
  "decode_sampling_strategy": "`greedy`, `weighted`, `topk`, `nucleus` or `composite`.",
  "decode_sampling_temperature": "Logits are divided by it.",
  "decode_sampling_top_k": "`topk`, `composite`: draw among so many tokens.",
  "decode_sampling_nucleus_p": "`nucleus`, `composite`: draw among tokens of this probability.",
  "enable_checkpointing": "Whether checkpoints are written.",
  "checkpoint_period": "Steps between two checkpoints.",
  "eval_interval": "Steps between two evaluations in training; -1 for none.",
  "log_period": "Steps between two lines on the screen.",
  "hardware": "`tpu`, `gpu` or `cpu`; if it is not set, what there is.",
  "compile_topology": "The accelerators to compile for, as in v5e-16.",
  "compile_topology_num_slices": "How many of them; 1 if it is not set.",
  "compiled_trainstep_file": "File for the compiled step.",
}
_EVALUATE = (
  "load_parameters_path",
  "grain_eval_files",
  "per_device_batch_size",
  "melodi_reset_every_window",
  "melodi_memory_file",
  "melodi_probe",
  "melodi_probe_tasks",
  "melodi_probe_lengths",
  "melodi_probe_texts",
  "melodi_probe_writes",
  "melodi_judge",
  "melodi_write_losses",
  "melodi_skip_broken_documents",
)
_DECODE = (
  "load_parameters_path",
  "prompt",
  "melodi_prompt_file",
  "melodi_max_tokens",
  "melodi_stop",
  "melodi_seed",
  "decode_sampling_strategy",
  "decode_sampling_temperature",
  "decode_sampling_top_k",
  "decode_sampling_nucleus_p",
  "melodi_memory_file",
  "melodi_memory_out",
  "melodi_memory_compact",
  "melodi_memory_title",
)
_MEMORIZE = (
  "load_parameters_path",
  "melodi_documents",
  "melodi_memory_out",
  "melodi_slots",
  "melodi_memory_compact",
  "melodi_skip_broken_documents",
)
_SERVE = ("load_parameters_path", "melodi_slots")
_SERVER = "melodi_serve_"  # how its own keys begin
_GRAFT = ("load_parameters_path", "base_output_directory", "run_name", "melodi_base_block")
_COMPILE = ("compile_topology", "compile_topology_num_slices", "compiled_trainstep_file")


def _described(
  names: Sequence[str] = (), ours: Callable[[str], bool] = lambda name: False
) -> list[tuple[str, str]]:
  """Keys of a config and what they mean; behind them those of ours that are wanted."""
  from melodi_plugin.config.keys import MelodiKeys  # pydantic takes half a second: for help only

  fields = MelodiKeys.model_fields
  return [
    (f"{name}={_shown(fields[name].default)}", fields[name].description or "")
    if name in fields
    else (f"{name}=", _MAXTEXT[name])
    for name in [*names, *filter(ours, fields)]
  ]


def _shown(default: Any) -> str:
  return str(default).lower() if isinstance(default, bool) else str(default)


def train(parser: Parser) -> None:
  """A config and, in its help, all our keys but those of a server."""
  others = ("compile", "decode", "prompt")
  training = [name for name in _MAXTEXT if not name.startswith(others)]
  parser.add_config(lambda: _described(training, lambda name: not name.startswith(_SERVER)))


def compile(parser: Parser) -> None:
  """A config, and what it is compiled for."""
  parser.add_config(lambda: _described(_COMPILE))


def evaluate(parser: Parser) -> None:
  """A config and its checkpoints."""
  parser.add_config(lambda: _described(_EVALUATE))


def decode(parser: Parser) -> None:
  """A config, a checkpoint, and a prompt."""
  parser.add_config(lambda: _described(_DECODE))
  text = "read the prompt from standard input; without any prompt, talk at the terminal"
  parser.add_argument("stdin", nargs="?", choices=("-",), metavar="-", help=text)
  text = "one line of JSON: text, tokens, log probabilities, speed, bytes of state"
  parser.add_argument("--json", action="store_true", help=text)


def memorize(parser: Parser) -> None:
  """A config, a checkpoint, and documents."""
  parser.add_config(lambda: _described(_MEMORIZE))


def serve(parser: Parser) -> None:
  """A config, a checkpoint, and where to listen."""
  parser.add_config(lambda: _described(_SERVE, lambda name: name.startswith(_SERVER)))


def graft(parser: Parser) -> None:
  """A config, and which way."""
  parser.add_config(lambda: _described(_GRAFT))
  ways = parser.add_mutually_exclusive_group()
  ways.add_argument("--strip", action="store_true", help="take memory away again")
  text = "write what memory adds into FILE (safetensors), for melodi_adapter=FILE"
  ways.add_argument("--adapter", metavar="FILE", help=text)
  text = "round what --adapter writes to bfloat16: half the size, and no longer exact"
  parser.add_argument("--bfloat16", action="store_true", help=text)


def gates(parser: Parser) -> None:
  """Checkpoints."""
  text = "folders <run>/checkpoints/<step>/items, as a pattern or one by one"
  parser.add_argument("checkpoints", nargs="+", help=text)
  parser.add_argument("--folder", help="for the picture (default: RUN of the first)")


def verify(parser: Parser) -> None:
  """Checkpoints."""
  text = "folder of a run, or <run>/checkpoints/<step>/items, as a pattern"
  parser.add_argument("run", metavar="RUN", help=text)


def memory(parser: Parser) -> None:
  """Files."""
  text = "a memory file; it may be remote, as in gs://bucket/hamlet.memory"
  parser.add_argument("files", nargs="+", metavar="FILE", help=text)


def import_gguf(parser: Parser) -> None:
  """A file, where to, and how."""
  parser.add_argument("file", metavar="model.gguf", help="of the llama architecture")
  parser.add_argument("out", metavar="OUT", help="folder to make")
  parser.add_key("scan_layers", "true", "Layers stacked in one array each.", true_or_false)
  text = "An output head apart from tied embeddings, which MaxText rounds to bfloat16."
  parser.add_key("own_head", "false", text, true_or_false)


def report(parser: Parser) -> None:
  """Evaluations."""
  parser.add_argument("files", nargs="+", metavar="evaluation.json", help="of `melodi evaluate`")
  parser.add_key("out", "report", "Folder for tables and pictures.")


def probes(parser: Parser) -> None:
  """Results of one probe."""
  text = "of `melodi evaluate … melodi_probe=…`; NAME= before it names its curve"
  parser.add_argument("files", nargs="+", metavar="[NAME=]probe.json", help=text)
  parser.add_key("out", "probe.png", "The picture; the table is written beside it.")


def preset(parser: Parser) -> None:
  """Where to."""
  parser.add_argument("out", help="folder to make; left as it is if it holds the corpus already")


def build(parser: Parser) -> None:
  """Where to, from what, and how."""
  preset(parser)
  text = "a folder of text or code, or files of records with text, id and group: .jsonl, .parquet; "
  text += "text and .jsonl may be compressed: .gz, .zst, .bz2, .xz"
  parser.add_argument("source", nargs="+", help=text)
  _corpus(parser, coverage=1.0)
  text = "a document is of the split that its path names: train/1.txt, dev/a.jsonl.zst, "
  text += "c4-validation.00000-of-00008.json.gz; --split is not used"
  parser.add_argument("--keep-splits", action="store_true", help=text)
  parser.add_argument(
    "--split",
    default="0.85,0.05,0.10",
    metavar="SHARES",
    help="parts of the text for train,validation,test (default 0.85,0.05,0.10)",
  )
  text = "text in a shard (default 256 MiB)"
  parser.add_argument("--shard-bytes", type=positive, default=2**28, metavar="BYTES", help=text)
  reading = parser.add_argument_group("how documents are read")
  text = "files to read in folders (default .txt,.md,.py)"
  reading.add_argument("--suffixes", default=".txt,.md,.py", metavar="LIST", help=text)
  text = "a document is a file, or the files below a folder joined up to --max-document-bytes"
  reading.add_argument("--document", choices=("file", "folder"), default="file", help=text)
  text = "the largest document (default 16 MiB)"
  reading.add_argument(
    "--max-document-bytes", type=positive, default=2**24, metavar="BYTES", help=text
  )
  reading.add_argument(
    "--group-by",
    choices=("auto", "field", "folder", "document"),
    default="auto",
    help="what goes to one split as a whole: records with the same group field, else what has the "
    "same first folder in its id, else every document alone (auto); or one of these",
  )
  for field in ("text", "id", "group"):
    text = f"field of a record (default {field})"
    reading.add_argument(f"--{field}-field", default=field, metavar="NAME", help=text)
  text = "leave broken documents out and list them"
  reading.add_argument("--skip-broken", action="store_true", help=text)


def published(parser: Parser, min_tokens: int = 0) -> None:
  """Where to, from where, and the tokenizer."""
  preset(parser)
  text = "folder with the published files, local or remote (default: copied to OUT-published)"
  parser.add_argument("--from", dest="place", metavar="FOLDER", help=text)
  _corpus(parser, coverage=0.9995, min_tokens=min_tokens)


def c4_4k(parser: Parser) -> None:
  """The same, of long documents."""
  published(parser, min_tokens=4096)


def _corpus(parser: Parser, *, coverage: float, min_tokens: int = 0) -> None:
  """The tokenizer of a corpus, and what it makes too short."""
  tokenizer = parser.add_mutually_exclusive_group(required=True)
  text = "tokenizer that counts the tokens; one of sentencepiece may be remote and is copied"
  tokenizer.add_argument("--tokenizer", metavar="PATH", help=text)
  tokenizer.add_argument(
    "--train-tokenizer", type=positive, metavar="VOCAB", help="train one of so many pieces"
  )
  _tokenizer_type(parser)
  text = "part of the characters that have a piece in a trained one; the others are spelled in "
  text += f"bytes (default {coverage:g})"
  parser.add_argument(
    "--character-coverage", type=share, default=coverage, metavar="PART", help=text
  )
  text = f"leave documents with fewer tokens out (default {min_tokens})"
  parser.add_argument("--min-tokens", type=int, default=min_tokens, metavar="N", help=text)


def _tokenizer_type(parser: Parser) -> None:
  kinds = ("sentencepiece", "tiktoken", "huggingface")
  parser.add_argument("--tokenizer-type", choices=kinds, default=kinds[0])


def padding(parser: Parser) -> None:
  """Documents and the sizes of a batch."""
  parser.add_argument("files", help="documents, as for grain_train_files")
  parser.add_argument("--tokenizer", metavar="PATH", required=True)
  _tokenizer_type(parser)
  for name, text in (
    ("--rows", "of the whole batch"),
    ("--window", "melodi_window_length"),
    ("--segment", "max_target_length"),
  ):
    parser.add_argument(name, type=positive, required=True, metavar="N", help=text)


def sizes(parser: Parser) -> None:
  """Configs."""
  parser.add_config(several=True)
  parser.add_argument("--json", action="store_true", help="a list instead of a table")


def compare(parser: Parser) -> None:
  """Configs, and what all of them share."""
  parser.add_config(several=True)
  parser.add_key("seeds", "0", "Seeds, as in seeds=0,1,2: every config is trained with each.")
  parser.add_key("out", "comparison", "Folder for tables, pictures and runs.")
  text = "A key to change after training, as in evaluate_with=melodi_long_term_windows=1,4,16."
  parser.add_key("evaluate_with", "", text)
  text = "A probe of melodi_probe that every row is asked after training, as in probe=ruler."
  parser.add_key("probe", "", text)


def paper_configs(parser: Parser) -> None:
  """Where they lie."""
  text = "where they lie (default: configs/yaml/paper)"
  parser.add_argument("folder", nargs="?", default="configs/yaml/paper", help=text)
  parser.add_argument("--check", action="store_true", help="write nothing, compare")


def bench_windows(parser: Parser) -> None:
  """What is measured."""
  numbers = {"type": positive, "metavar": "N"}
  text = "windows of a segment (default: 2 4 8 16)"
  parser.add_argument("--windows", nargs="+", default=[2, 4, 8, 16], help=text, **numbers)
  text = "layers, windows (default: both)"
  parser.add_argument("--schedules", nargs="+", default=["layers", "windows"], help=text)
  text = "MaxText's remat policies around every cell, as in none full minimal (default: none)"
  parser.add_argument("--remat", nargs="+", default=["none"], metavar="NAME", help=text)
  parser.add_argument("--repeats", default=5, help="steps that are timed (default: 5)", **numbers)
  parser.add_argument("--json", action="store_true", help="all numbers, instead of a table")


def bench_systems(parser: Parser) -> None:
  """What the systems share, and what is measured of them."""
  parser.add_config(optional=True)
  numbers = {"type": positive, "metavar": "N"}
  text = f"those that are measured, the first as the measure of all: {', '.join(NAMES)}"
  parser.add_argument(
    "--systems", nargs="+", default=NAMES, choices=NAMES, metavar="NAME", help=text
  )
  text = "Transformer-XL with these windows, too, as the others are said to be faster than"
  parser.add_argument("--xl-windows", nargs="+", default=[], help=text, **numbers)
  text = "training steps that are timed, and documents that are read (default: 5)"
  parser.add_argument("--repeats", default=5, help=text, **numbers)
  text = "tokens of the documents (default: 1024 4096 16384)"
  parser.add_argument("--read", nargs="+", default=[1024, 4096, 16384], help=text, **numbers)
  text = "the longest document of the stock decoder, all of which it sees (default: 4096)"
  parser.add_argument("--stock", default=4096, help=text, **numbers)
  parser.add_argument("--json", action="store_true", help="all numbers, instead of tables")
  parser.add_key("out", "systems.png", "The picture.")


def bench_compile(parser: Parser) -> None:
  """A config, what it is compiled for, and where all numbers go."""
  parser.add_config(lambda: _described(_COMPILE[:2]))
  parser.add_argument("--json", metavar="FILE", help="write all numbers there, too")


def bench_serve(parser: Parser) -> None:
  """A server, as `melodi serve` is given it, and what is measured of it."""
  parser.add_config(lambda: _described(_SERVE))
  numbers = {"type": positive, "metavar": "N"}
  text = "slots, with as many clients; a server each (default: 1 8 32)"
  parser.add_argument("--slots", nargs="+", default=[1, 8, 32], help=text, **numbers)
  text = "tokens that a client has written (default: 64)"
  parser.add_argument("--tokens", default=64, help=text, **numbers)
  text = "tokens of a prompt whose first token is waited for (default: 8192)"
  parser.add_argument("--prefix", default=8192, help=text, **numbers)
  text = "tokens of a prompt that is read while another client writes (default: 100000)"
  parser.add_argument("--read", default=100_000, help=text, **numbers)
  parser.add_argument("--repeats", default=5, help="of everything (default: 5)", **numbers)
  parser.add_argument("--json", action="store_true", help="all numbers, instead of tables")


def bench_decode(parser: Parser) -> None:
  """A model, and what is measured of it."""
  parser.add_config(optional=True)
  numbers = {"type": positive, "metavar": "N"}
  text = "tokens that were read before some are written (default: 1024 16384 65536)"
  parser.add_argument("--read", nargs="+", default=[1024, 16384, 65536], help=text, **numbers)
  text = "the same of MaxText's stock decoder of these sizes (default: 1024 4096 16384)"
  parser.add_argument("--stock", nargs="+", default=[1024, 4096, 16384], help=text, **numbers)
  text = "rows with memory that write together (default: 1)"
  parser.add_argument("--slots", default=1, help=text, **numbers)
  text = "also read a text of so many tokens, and look at the memory of this process"
  parser.add_argument("--tokens", default=0, help=text, **numbers)
  parser.add_argument("--json", action="store_true", help="all numbers, instead of a table")
  parser.add_key("out", "decode.png", "The picture.")
