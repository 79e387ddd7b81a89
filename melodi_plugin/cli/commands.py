"""Every verb: what it is for, what it takes, and one example.

Only what is said on the command line stands here, so that help needs neither JAX nor MaxText; what
a verb does is imported when it is run.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from melodi_plugin.cli.parser import Parser, positive, true_or_false

TASKS = ("models", "documents", "checkpoints", "costs", "experiments")

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
  "melodi_probe",
  "melodi_skip_broken_documents",
)
_GRAFT = ("load_parameters_path", "base_output_directory", "run_name", "melodi_base_block")
_COMPILE = ("compile_topology", "compile_topology_num_slices", "compiled_trainstep_file")


class Command(NamedTuple):
  """A verb.

  Attributes:
    name: as it is typed, in one word or two.
    task: under which `melodi --help` lists it.
    summary: what it does, for the list and its own help.
    example: one command that works as it stands, given its files.
    target: `module.function` in this room, called with what the parser read.
    declare: tells a parser what the verb takes.
  """

  name: str
  task: str
  summary: str
  example: str
  target: str
  declare: Callable[[Parser], None]

  def parser(self) -> Parser:
    """Reads its command line."""
    parser = Parser(f"melodi {self.name}", self.summary, self.example)
    self.declare(parser)
    return parser


def _described(names: Sequence[str] = (), *, ours: bool = False) -> list[tuple[str, str]]:
  """Keys of a config and what they mean; with `ours`, all of ours at the end."""
  from melodi_plugin.config.keys import MelodiKeys  # pydantic takes half a second: for help only

  fields = MelodiKeys.model_fields
  names = [*names, *(fields if ours else ())]
  return [
    (f"{name}={_shown(fields[name].default)}", fields[name].description or "")
    if name in fields
    else (f"{name}=", _MAXTEXT[name])
    for name in names
  ]


def _shown(default: Any) -> str:
  return str(default).lower() if isinstance(default, bool) else str(default)


def _train(parser: Parser) -> None:
  training = [name for name in _MAXTEXT if not name.startswith("compile")]
  parser.add_config(lambda: _described(training, ours=True))


def _compile(parser: Parser) -> None:
  parser.add_config(lambda: _described(_COMPILE))


def _evaluate(parser: Parser) -> None:
  parser.add_config(lambda: _described(_EVALUATE))


def _graft(parser: Parser) -> None:
  parser.add_config(lambda: _described(_GRAFT))
  parser.add_argument("--strip", action="store_true", help="take memory away again")


def _gates(parser: Parser) -> None:
  parser.add_argument("checkpoints", help="folders <run>/checkpoints/<step>/items, as a pattern")
  parser.add_argument("folder", nargs="?", help="for the picture (default: RUN)")


def _import_gguf(parser: Parser) -> None:
  parser.add_argument("file", metavar="model.gguf", help="of the llama architecture")
  parser.add_argument("out", metavar="OUT", help="folder to make")
  parser.add_key("scan_layers", "true", "Layers stacked in one array each.", true_or_false)
  text = "An output head apart from tied embeddings, which MaxText rounds to bfloat16."
  parser.add_key("own_head", "false", text, true_or_false)


def _report(parser: Parser) -> None:
  parser.add_argument("files", nargs="+", metavar="evaluation.json", help="of `melodi evaluate`")
  parser.add_key("out", "report", "Folder for tables and pictures.")


def _probes(parser: Parser) -> None:
  text = "of `melodi evaluate … melodi_probe=…`; NAME= before it names its curve"
  parser.add_argument("files", nargs="+", metavar="[NAME=]probe.json", help=text)
  parser.add_key("out", "probe.png", "The picture; the table is written beside it.")


def _preset(parser: Parser) -> None:
  parser.add_argument("out", help="folder to make; left as it is if it holds the corpus already")


def _build(parser: Parser) -> None:
  _preset(parser)
  text = "a folder of text or code, or files of records with text, id and group: .jsonl, .parquet"
  parser.add_argument("source", nargs="+", help=text)
  tokenizer = parser.add_mutually_exclusive_group(required=True)
  tokenizer.add_argument("--tokenizer", metavar="PATH", help="tokenizer that counts the tokens")
  tokenizer.add_argument(
    "--train-tokenizer", type=positive, metavar="VOCAB", help="train one of so many pieces"
  )
  _tokenizer_type(parser)
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


def _tokenizer_type(parser: Parser) -> None:
  kinds = ("sentencepiece", "tiktoken", "huggingface")
  parser.add_argument("--tokenizer-type", choices=kinds, default=kinds[0])


def _padding(parser: Parser) -> None:
  parser.add_argument("files", help="documents, as for grain_train_files")
  parser.add_argument("--tokenizer", metavar="PATH", required=True)
  _tokenizer_type(parser)
  for name, text in (
    ("--rows", "of the whole batch"),
    ("--window", "melodi_window_length"),
    ("--segment", "max_target_length"),
  ):
    parser.add_argument(name, type=positive, required=True, metavar="N", help=text)


def _sizes(parser: Parser) -> None:
  parser.add_config(several=True)
  parser.add_argument("--json", action="store_true", help="a list instead of a table")


def _compare(parser: Parser) -> None:
  parser.add_config(several=True)
  parser.add_key("seeds", "0", "Seeds, as in seeds=0,1,2: every config is trained with each.")
  parser.add_key("out", "comparison", "Folder for tables, pictures and runs.")
  text = "A key to change after training, as in evaluate_with=melodi_long_term_windows=1,4,16."
  parser.add_key("evaluate_with", "", text)


def _paper_configs(parser: Parser) -> None:
  text = "where they lie (default: configs/yaml/paper)"
  parser.add_argument("folder", nargs="?", default="configs/yaml/paper", help=text)
  parser.add_argument("--check", action="store_true", help="write nothing, compare")


def _bench(parser: Parser) -> None:
  numbers = {"type": positive, "metavar": "N"}
  text = "windows of a segment (default: 2 4 8 16)"
  parser.add_argument("--windows", nargs="+", default=[2, 4, 8, 16], help=text, **numbers)
  text = "layers, windows (default: both)"
  parser.add_argument("--schedules", nargs="+", default=["layers", "windows"], help=text)
  parser.add_argument("--repeats", default=5, help="steps that are timed (default: 5)", **numbers)


COMMANDS = (
  Command(
    "train",
    "models",
    "Trains with MaxText's trainer, with memory.",
    "melodi train configs/yaml/melodi_shakespeare_cpu.yml steps=100",
    "train.train_and_evaluate",
    _train,
  ),
  Command(
    "compile",
    "models",
    "Compiles the training step for accelerators that are not here.",
    "melodi compile configs/yaml/melodi_150m.yml compile_topology=v5e-16",
    "train.compile_only",
    _compile,
  ),
  Command(
    "evaluate",
    "models",
    "Reads whole documents with a checkpoint, memory carried; or measures recall.",
    "melodi evaluate configs/yaml/melodi_shakespeare_cpu.yml "
    "load_parameters_path=RUN/checkpoints/149/items",
    "evaluate.main",
    _evaluate,
  ),
  Command(
    "report",
    "models",
    "Puts evaluations side by side, in tables and pictures.",
    "melodi report a/evaluation.json b/evaluation.json out=report",
    "report.main",
    _report,
  ),
  Command(
    "probes",
    "models",
    "Puts results of one recall probe into one picture and one table.",
    "melodi probes memory=a/probe_mqar.json without=b/probe_mqar.json out=mqar.png",
    "probes.main",
    _probes,
  ),
  Command(
    "data build",
    "documents",
    "Makes a corpus from folders of text or code, or from records.",
    "melodi data build data/code src/ --suffixes .py --document folder --train-tokenizer 8192",
    "data.build_corpus",
    _build,
  ),
  Command(
    "data shakespeare",
    "documents",
    "Makes the corpus of the demo: 38 plays.",
    "melodi data shakespeare data/shakespeare",
    "data.shakespeare",
    _preset,
  ),
  Command(
    "data mqar",
    "documents",
    "Makes the corpus of the recall task.",
    "melodi data mqar data/mqar",
    "data.mqar",
    _preset,
  ),
  Command(
    "data padding",
    "documents",
    "Says how much of the batches would be padding.",
    "melodi data padding 'data/books/train-*' --tokenizer data/books/tokenizer.model "
    "--rows 8 --window 512 --segment 4096",
    "data.show_padding",
    _padding,
  ),
  Command(
    "import-gguf",
    "checkpoints",
    "Makes a MaxText checkpoint of a llama GGUF file, with its tokenizer and config.",
    "melodi import-gguf SmolLM2-135M-Instruct.Q4_1.gguf smollm2",
    "import_gguf.main",
    _import_gguf,
  ),
  Command(
    "graft",
    "checkpoints",
    "Puts memory around a stock checkpoint, or takes it away.",
    "melodi graft configs/yaml/melodi_smollm2_135m.yml load_parameters_path=smollm2/0/items",
    "graft.main",
    _graft,
  ),
  Command(
    "gates",
    "checkpoints",
    "Shows how far the gates of memory have moved in training.",
    "melodi gates 'RUN/checkpoints/*/items'",
    "gates.main",
    _gates,
  ),
  Command(
    "sizes",
    "costs",
    "Says what models cost: parameters, memory, products per token.",
    "melodi sizes configs/yaml/melodi_150m.yml melodi_short_term_tokens=128",
    "sizes.main",
    _sizes,
  ),
  Command(
    "bench",
    "costs",
    "Measures trace, compile and step time against the number of windows.",
    "melodi bench --windows 2 8 --repeats 3",
    "bench.main",
    _bench,
  ),
  Command(
    "compare",
    "experiments",
    "Trains and evaluates several configs alike; goes on where it was stopped.",
    "melodi compare configs/yaml/small/xl.yml configs/yaml/small/s4_l2.yml steps=400 seeds=0,1",
    "compare.main",
    _compare,
  ),
  Command(
    "paper-configs",
    "experiments",
    "Writes the configs of the paper's experiments, or checks them.",
    "melodi paper-configs --check",
    "paper_configs.main",
    _paper_configs,
  ),
)
