"""patches/: they apply to the pinned MaxText, and let its own commands find plugins."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SERIES = ROOT / "patches" / f"maxtext-{importlib.metadata.version('maxtext')}"

GIT = ("git", "apply", "--whitespace=error-all", "--verbose")
PATCH = ("patch", "--strip=1", "--force", "--fuzz=0", "--input")

# Two plugins of two distributions. `counter` replaces the function that reads the configuration,
# the last one that the hook can still replace in time.
TOYS = """
import functools
events = []

def count():
  from maxtext.configs import pyconfig
  parse = pyconfig._initialize_pydantic
  @functools.wraps(parse)
  def recorded(*args, **kwargs):
    events.append("parse")
    return parse(*args, **kwargs)
  pyconfig._initialize_pydantic = recorded
  events.append("register")

def note():
  events.append("register")

def fail():
  raise KeyError("no such seam")
"""

INITIALIZE = """
import sys
from maxtext.configs import pyconfig
import toys
assert not toys.events, "importing pyconfig must not load plugins"
keys = dict(run_name="x", hardware="cpu", skip_jax_distributed_system=True, log_config=False)
pyconfig.initialize([""], base_output_directory="out", **keys)
pyconfig.initialize_pydantic([""], base_output_directory="out", **keys)
print(toys.events)
print(pyconfig.initialize(["", sys.argv[1]]).decoder_block.value)
"""

LOAD = """
from maxtext.utils import plugins
import toys
try:
  plugins.load()
  plugins.load()
finally:
  print(toys.events)
"""

TINY = {
  "base_config": "base.yml",
  "run_name": "tiny",
  "hardware": "cpu",
  "skip_jax_distributed_system": True,
  "log_config": False,
  "dataset_type": "synthetic",
  "attention": "dot_product",
  "base_emb_dim": 64,
  "base_num_query_heads": 2,
  "base_num_kv_heads": 2,
  "head_dim": 32,
  "base_mlp_dim": 128,
  "base_num_decoder_layers": 2,
  "vocab_size": 256,
  "max_target_length": 64,
  "per_device_batch_size": 2,
  "enable_checkpointing": True,
  "async_checkpointing": False,
}

MELODI = {
  "decoder_block": "melodi",
  "packing": False,
  "melodi_window_length": 16,
  "melodi_summary_tokens": 4,
  "melodi_short_term_tokens": 4,
  "melodi_long_term_increment": 2,
  "melodi_long_term_windows": 4,
}


def copy_of_maxtext(site: pathlib.Path) -> pathlib.Path:
  """Copies the installed package into `site`; its assets, 3/4 of its size, are only linked."""
  installed = pathlib.Path(str(importlib.metadata.distribution("maxtext").locate_file("maxtext")))
  site.mkdir()
  shutil.copytree(installed, site / "maxtext", ignore=shutil.ignore_patterns("assets"))
  (site / "maxtext" / "assets").symlink_to(installed / "assets")
  return site


def apply_series(site: pathlib.Path, command: tuple[str, ...] = GIT, reverse: bool = False) -> str:
  """Applies, or reverses, the whole series to the copy under `site`; returns what was printed."""
  patches = [SERIES / name for name in (SERIES / "series").read_text().split()]
  flags = ["--reverse"] if reverse else []
  printed = ""
  for patch in reversed(patches) if reverse else patches:
    # Without the ceiling, git inside of a repository skips every file and reports success.
    done = subprocess.run(
      [*command[:2], *flags, *command[2:], patch],
      cwd=site,
      env=os.environ | {"GIT_CEILING_DIRECTORIES": str(site.parent)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stdout
    printed += done.stdout
  return printed


def sources(site: pathlib.Path) -> dict[str, bytes]:
  """The content of every file under `site` that is not compiled code."""
  files = (path for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc")
  return {str(path.relative_to(site)): path.read_bytes() for path in files}


def run_python(
  arguments: list[str], *path: pathlib.Path, plugins: str | None, cwd: pathlib.Path
) -> subprocess.CompletedProcess[str]:
  """Runs Python with `path` first on its module path and `plugins` as the allow-list."""
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(map(str, path))}
  env.pop("MAXTEXT_PLUGINS", None)
  if plugins is not None:
    env["MAXTEXT_PLUGINS"] = plugins
  return subprocess.run(
    [sys.executable, *arguments],
    check=False,
    env=env,
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=900,
  )


@pytest.fixture(scope="module")
def patched(tmp_path_factory) -> pathlib.Path:
  """A site folder with the patched copy of MaxText."""
  site = copy_of_maxtext(tmp_path_factory.mktemp("patched") / "site")
  apply_series(site)
  return site


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> pathlib.Path:
  """A site folder with the module `toys` and three distributions that declare its plugins."""
  site = tmp_path_factory.mktemp("toys")
  (site / "toys.py").write_text(TOYS)
  for name, function in {"counter": "count", "basic": "note", "faulty": "fail"}.items():
    info = site / f"toy_{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-{name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[maxtext.plugins]\n{name} = toys:{function}\n")
  return site


@pytest.mark.parametrize(
  "command", [GIT, pytest.param(PATCH, marks=pytest.mark.broad)], ids=["git", "patch"]
)
def test_series_applies_cleanly_and_reverses(tmp_path, command):
  if not shutil.which(command[0]):
    pytest.skip(f"{command[0]} is not installed")
  site = copy_of_maxtext(tmp_path / "site")
  stock = sources(site)

  printed = apply_series(site, command)
  changed = sources(site)
  assert "offset" not in printed
  assert {name for name in changed if changed[name] != stock.get(name)} == {
    "maxtext/configs/pyconfig.py",
    "maxtext/utils/plugins.py",
  }

  apply_series(site, command, reverse=True)
  assert sources(site) == stock


def test_every_patch_is_in_the_series_and_says_why():
  listed = (SERIES / "series").read_text().split()
  assert sorted(listed) == sorted(path.name for path in SERIES.glob("*.patch"))
  for name in listed:
    header = (SERIES / name).read_text().partition("\n---\n")[0]
    fields = {line.partition(":")[0] for line in header.splitlines() if line[0] != " "}
    assert fields >= {"Description", "Origin", "Forwarded", "Last-Update", "Expires"}


def test_initialize_loads_plugins_once_and_before_it_reads_a_config_of_this_one(
  patched, toys, tmp_path
):
  config = write_config(tmp_path, MELODI)
  done = run_python(
    ["-c", INITIALIZE, config], patched, toys, plugins="counter,melodi", cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-2:] == ["['register', 'parse', 'parse']", "melodi"]


@pytest.mark.parametrize(
  "allow_list, events", [("", "[]"), ("basic", "['register']"), (" basic,", "['register']")]
)
def test_allow_list(patched, toys, tmp_path, allow_list, events):
  done = run_python(["-c", LOAD], patched, toys, plugins=allow_list, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == events


def test_unknown_name_in_the_allow_list_is_an_error(patched, toys, tmp_path):
  done = run_python(["-c", LOAD], patched, toys, plugins="basic,basik", cwd=tmp_path)
  error = done.stderr.splitlines()[-1]
  assert error.startswith("RuntimeError: MAXTEXT_PLUGINS names ['basik'], but the installed")
  assert done.stdout.strip() == "[]"


def test_failing_plugin_gives_one_error_that_names_it(patched, toys, tmp_path):
  done = run_python(["-c", LOAD], patched, toys, plugins="basic,faulty", cwd=tmp_path)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    "RuntimeError: MaxText plugin 'faulty' (toys:fail, distribution toy-faulty 1.5) failed to "
    "load: KeyError: 'no such seam'. To run without it, list the plugins to load in the "
    "environment variable MAXTEXT_PLUGINS (empty: none)."
  )


def test_without_an_allow_list_every_installed_plugin_is_loaded(patched, toys, tmp_path):
  # In the order of names, so that the error of `faulty` comes before any plugin installed here.
  done = run_python(["-c", LOAD], patched, toys, plugins=None, cwd=tmp_path)
  assert "plugin 'faulty'" in done.stderr.splitlines()[-1]
  assert done.stdout.strip() == "['register', 'register']"


def write_config(folder: pathlib.Path, keys: dict[str, object]) -> str:
  """The path of a config of a tiny model."""
  config = folder / "tiny.yml"
  config.write_text("".join(f"{key}: {value}\n" for key, value in (TINY | keys).items()))
  return str(config)


def saved_memory(checkpoint: pathlib.Path) -> set[tuple[str, ...]]:
  """The leaves of a checkpoint that are the decoder's variables, but neither weights nor keys."""
  tree = json.loads((checkpoint / "items" / "_METADATA").read_text())["tree_metadata"].values()
  leaves = (tuple(key["key"] for key in leaf["key_metadata"]) for leaf in tree)
  return {
    leaf for leaf in leaves if leaf[:3] == ("nnx_aux", "model", "decoder") and "rngs" not in leaf
  }


@pytest.mark.slow
@pytest.mark.parametrize("keys, plugins", [({}, ""), (MELODI, "melodi")], ids=["stock", "melodi"])
def test_the_stock_command_trains_and_saves_its_memory(patched, tmp_path, keys, plugins):
  out = tmp_path / "out"
  command = ["-m", "maxtext.trainers.pre_train.train", write_config(tmp_path, keys), "steps=2"]
  command.append(f"base_output_directory={out}")
  done = run_python(command, patched, plugins=plugins, cwd=tmp_path)
  log = done.stdout + done.stderr
  assert done.returncode == 0, log
  assert re.findall(r"completed step: (\d+)", log) == ["0", "1"], log
  assert bool(saved_memory(out / "tiny" / "checkpoints" / "1")) == bool(keys)
