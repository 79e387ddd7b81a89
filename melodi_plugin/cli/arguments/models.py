"""What verbs take that train, read, write and change models."""

from melodi_plugin.cli.arguments import keys
from melodi_plugin.cli.parser import Parser, true_or_false


def train(parser: Parser) -> None:
  """A config and, in its help, all our keys but those of a server."""
  others = ("compile", "decode", "prompt")
  training = [name for name in keys.MAXTEXT if not name.startswith(others)]
  parser.add_config(lambda: keys.described(training, lambda name: not name.startswith(keys.SERVER)))


def compile(parser: Parser) -> None:
  """A config, and what it is compiled for."""
  parser.add_config(lambda: keys.described(keys.COMPILE))


def evaluate(parser: Parser) -> None:
  """A config and its checkpoints."""
  parser.add_config(lambda: keys.described(keys.EVALUATE))


def decode(parser: Parser) -> None:
  """A config, a checkpoint, and a prompt."""
  parser.add_config(lambda: keys.described(keys.DECODE))
  text = "read the prompt from standard input; without any prompt, talk at the terminal"
  parser.add_argument("stdin", nargs="?", choices=("-",), metavar="-", help=text)
  text = "one line of JSON: text, tokens, log probabilities, speed, bytes of state"
  parser.add_argument("--json", action="store_true", help=text)


def memorize(parser: Parser) -> None:
  """A config, a checkpoint, and documents."""
  parser.add_config(lambda: keys.described(keys.MEMORIZE))


def serve(parser: Parser) -> None:
  """A config, a checkpoint, and where to listen."""
  parser.add_config(lambda: keys.described(keys.SERVE, lambda name: name.startswith(keys.SERVER)))


def graft(parser: Parser) -> None:
  """A config, and which way."""
  parser.add_config(lambda: keys.described(keys.GRAFT))
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
