"""Every verb: what it is for, and one example.

Only what is said on the command line stands here and above, so that help needs neither JAX nor
MaxText; what a verb does is imported when it is run.
"""

from collections.abc import Callable
from typing import NamedTuple

from melodi_plugin.cli.arguments import corpora, experiments, models
from melodi_plugin.cli.parser import Parser

# T5's vocabulary, which several examples count with.
T5 = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
TASKS = ("models", "documents", "checkpoints", "costs", "experiments")


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


COMMANDS = (
  Command(
    "train",
    "models",
    "Trains with MaxText's trainer, with memory.",
    "melodi train configs/yaml/melodi_shakespeare_cpu.yml steps=100",
    "train.train_and_evaluate",
    models.train,
  ),
  Command(
    "compile",
    "models",
    "Compiles the training step for accelerators that are not here.",
    "melodi compile configs/yaml/melodi_150m.yml compile_topology=v5e-16",
    "train.compile_only",
    models.compile,
  ),
  Command(
    "evaluate",
    "models",
    "Reads whole documents with a checkpoint, memory carried; or measures recall.",
    "melodi evaluate configs/yaml/melodi_shakespeare_cpu.yml "
    "load_parameters_path=RUN/checkpoints/149/items",
    "evaluate.main",
    models.evaluate,
  ),
  Command(
    "decode",
    "models",
    "Writes text after a prompt of any length, or talks at the terminal.",
    "melodi decode configs/yaml/melodi_shakespeare_cpu.yml "
    "load_parameters_path=RUN/checkpoints/799/items prompt=HENRY",
    "decode.main",
    models.decode,
  ),
  Command(
    "serve",
    "models",
    "Answers many clients over HTTP, in OpenAI's protocol, and keeps what they said.",
    "melodi serve configs/yaml/melodi_shakespeare_cpu.yml "
    "load_parameters_path=RUN/checkpoints/799/items melodi_serve_folder=states",
    "serve.main",
    models.serve,
  ),
  Command(
    "memorize",
    "models",
    "Reads documents once, each into a memory file.",
    "melodi memorize configs/yaml/melodi_shakespeare_cpu.yml "
    "load_parameters_path=RUN/checkpoints/799/items melodi_documents='plays/*.txt' "
    "melodi_memory_out=memories",
    "decode.memorize",
    models.memorize,
  ),
  Command(
    "report",
    "models",
    "Puts evaluations side by side, in tables and pictures.",
    "melodi report a/evaluation.json b/evaluation.json out=report",
    "report.main",
    models.report,
  ),
  Command(
    "probes",
    "models",
    "Puts results of one recall probe into one picture and one table.",
    "melodi probes memory=a/probe_mqar.json without=b/probe_mqar.json out=mqar.png",
    "report.probes",
    models.probes,
  ),
  Command(
    "data build",
    "documents",
    "Makes a corpus from folders of text or code, or from records.",
    "melodi data build data/code src/ --suffixes .py --document folder --train-tokenizer 8192",
    "data.build_corpus",
    corpora.build,
  ),
  Command(
    "data shakespeare",
    "documents",
    "Makes the corpus of the demo: 38 plays.",
    "melodi data shakespeare data/shakespeare",
    "data.shakespeare",
    corpora.preset,
  ),
  Command(
    "data mqar",
    "documents",
    "Makes the corpus of the recall task.",
    "melodi data mqar data/mqar",
    "data.mqar",
    corpora.preset,
  ),
  Command(
    "data recall",
    "documents",
    "Makes the corpus of the delayed recall task.",
    "melodi data recall data/recall",
    "data.recall",
    corpora.preset,
  ),
  Command(
    "data pg19",
    "documents",
    "Makes the corpus PG-19: 28,752 books, with its own splits.",
    f"melodi data pg19 data/pg19 --tokenizer {T5}",
    "data.pg19",
    corpora.published,
  ),
  Command(
    "data arxiv-math",
    "documents",
    "Makes a corpus of LaTeX sources of mathematics from arXiv, with its own splits.",
    "melodi data arxiv-math data/arxiv-math --train-tokenizer 32000",
    "data.arxiv_math",
    corpora.published,
  ),
  Command(
    "data c4-4k",
    "documents",
    "Makes a corpus of the pages of C4 that have 4096 tokens, with its own splits.",
    f"melodi data c4-4k data/c4-4k --tokenizer {T5}",
    "data.c4_4k",
    corpora.c4_4k,
  ),
  Command(
    "data github-code",
    "documents",
    "Makes a corpus of source files from GitHub, split by repository.",
    "melodi data github-code data/github-code --train-tokenizer 32000 --min-tokens 4096",
    "data.github_code",
    corpora.published,
  ),
  Command(
    "data padding",
    "documents",
    "Says how much of the batches would be padding.",
    "melodi data padding 'data/books/train-*' --tokenizer data/books/tokenizer.model "
    "--rows 8 --window 512 --segment 4096",
    "data.show_padding",
    corpora.padding,
  ),
  Command(
    "import-gguf",
    "checkpoints",
    "Makes a MaxText checkpoint of a llama GGUF file, with its tokenizer and config.",
    "melodi import-gguf SmolLM2-135M-Instruct.Q4_1.gguf smollm2",
    "checkpoints.import_gguf",
    models.import_gguf,
  ),
  Command(
    "graft",
    "checkpoints",
    "Puts memory around a stock checkpoint, or takes it away.",
    "melodi graft configs/yaml/melodi_smollm2_135m.yml load_parameters_path=smollm2/0/items",
    "checkpoints.graft",
    models.graft,
  ),
  Command(
    "gates",
    "checkpoints",
    "Shows how far the gates of memory have moved in training.",
    "melodi gates 'RUN/checkpoints/*/items'",
    "checkpoints.gates",
    models.gates,
  ),
  Command(
    "verify",
    "checkpoints",
    "Reads all of a run's checkpoints, and compares their checksums.",
    "melodi verify RUN",
    "checkpoints.verify",
    models.verify,
  ),
  Command(
    "memory",
    "checkpoints",
    "Says what is in memory files: what was read, bytes by part, and whose it is.",
    "melodi memory hamlet.memory",
    "memory.main",
    models.memory,
  ),
  Command(
    "sizes",
    "costs",
    "Says what models cost: parameters, memory, products per token.",
    "melodi sizes configs/yaml/melodi_150m.yml melodi_short_term_tokens=128",
    "sizes.main",
    experiments.sizes,
  ),
  Command(
    "bench windows",
    "costs",
    "Measures trace, compile and step time against the number of windows.",
    "melodi bench windows --windows 2 8 --repeats 3",
    "bench.windows",
    experiments.bench_windows,
  ),
  Command(
    "bench systems",
    "costs",
    "Measures training and reading of all systems at equal sizes, side by side.",
    "melodi bench systems melodi_window_length=64 --systems transformer_xl melodi stock",
    "bench.systems",
    experiments.bench_systems,
  ),
  Command(
    "bench compile",
    "costs",
    "Counts memory, products and traffic of a compiled step, and of a stock one.",
    "melodi bench compile configs/yaml/melodi_150m.yml compile_topology=v5e-16",
    "bench.compile_step",
    experiments.bench_compile,
  ),
  Command(
    "bench decode",
    "costs",
    "Measures time and bytes of a token against what was read, and a stock one.",
    "melodi bench decode configs/yaml/melodi_shakespeare_cpu.yml --read 1024 16384",
    "bench.decode",
    experiments.bench_decode,
  ),
  Command(
    "bench serve",
    "costs",
    "Starts servers, and measures what their clients wait for.",
    "melodi bench serve configs/yaml/melodi_shakespeare_cpu.yml "
    "load_parameters_path=RUN/checkpoints/799/items --slots 1 8",
    "bench.serve",
    experiments.bench_serve,
  ),
  Command(
    "compare",
    "experiments",
    "Trains and evaluates several configs alike; goes on where it was stopped.",
    "melodi compare configs/yaml/small/xl.yml configs/yaml/small/s4_l2.yml steps=400 seeds=0,1",
    "compare.main",
    experiments.compare,
  ),
  Command(
    "paper-configs",
    "experiments",
    "Writes or checks the configs of the paper's experiments; prints their table.",
    "melodi paper-configs --check",
    "sizes.paper_configs",
    experiments.paper_configs,
  ),
)
