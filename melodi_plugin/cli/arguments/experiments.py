"""What verbs take that count, compare and measure."""

from melodi_plugin.bench.peers import NAMES
from melodi_plugin.cli.arguments import keys
from melodi_plugin.cli.parser import Parser, positive


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
  text = "layers, windows, diagonal (default: the first two)"
  orders = {"choices": ("layers", "windows", "diagonal"), "metavar": "NAME"}
  parser.add_argument("--schedules", nargs="+", default=["layers", "windows"], help=text, **orders)
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
  text = "training steps that are timed, and documents that are read (default: 3)"
  parser.add_argument("--repeats", default=3, help=text, **numbers)
  text = "tokens of the documents, in whole segments (default: 2, 8 and 16 segments)"
  parser.add_argument("--read", nargs="+", help=text, **numbers)
  text = "the longest document of the stock decoder, all of which it sees (default: 4096)"
  parser.add_argument("--stock", default=4096, help=text, **numbers)
  parser.add_argument("--json", action="store_true", help="all numbers, instead of tables")
  parser.add_key("out", "systems.png", "The picture.")


def bench_compile(parser: Parser) -> None:
  """A config, what it is compiled for, and where all numbers go."""
  parser.add_config(lambda: keys.described(keys.COMPILE[:2]))
  parser.add_argument("--json", metavar="FILE", help="write all numbers there, too")


def bench_serve(parser: Parser) -> None:
  """A server, as `melodi serve` is given it, and what is measured of it."""
  parser.add_config(lambda: keys.described(keys.SERVE))
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
