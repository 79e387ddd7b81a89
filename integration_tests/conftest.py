"""Strict numerics in every test, on eight fake devices; the unit tests use it too.

Shapes in our signatures are checked as well: see `--jaxtyping-packages` in pyproject.toml, which
also wraps generators in melodi_plugin/, so fixtures stand here.
"""

import collections
import copy
import gc
import os
import pathlib
import sys

_KEPT = pathlib.Path(__file__).parents[1] / ".pytest_cache"
# Where no bytecode is kept, every process compiles the sources of JAX and MaxText: 10 of the 16 CPU
# seconds of their import.
if sys.dont_write_bytecode:
  sys.dont_write_bytecode, sys.pycache_prefix = False, str(_KEPT / "bytecode")
  os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # for subprocesses
  os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# Compiling dominates the test time: this preset takes a sixth off.
_FLAGS = "--xla_cpu_opt_preset=FAST_COMPILE --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis  # noqa: F401, asks who refers to its generators, which `gc.freeze` hides
import jax
import jaxtyping
import pytest
from jax._src.lru_cache import LRUCache
from omegaconf.base import Metadata

# A function that is made inside of another would be wrapped anew with every call: a tenth of the
# time in which a program is traced.  What it is called with was checked further out.
_jaxtyped = jaxtyping.jaxtyped


def _outermost(*, typechecker):
  wrap = _jaxtyped(typechecker=typechecker)
  return lambda own: own if "<locals>" in own.__qualname__ else wrap(own)


jaxtyping.jaxtyped = _outermost
jax.config.update("jax_default_matmul_precision", "highest")
# MaxText is not written for it: tests that run its code in this process lift it for themselves.
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Tracing makes many objects that live on: looking at all of them for cycles took 7 % of the time.
gc.set_threshold(20_000, 50, 100)
# Nor is it optimized, and a second run finds most programs compiled.
jax.config.update("jax_disable_most_optimizations", True)
_programs = str(_KEPT / "jax")
jax.config.update("jax_compilation_cache_dir", _programs)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# With a limit, JAX locks the cache: other test processes never read half a file.  But it looks at
# all its files with every program that it adds.
jax.config.update("jax_compilation_cache_max_size", 2**32)
LRUCache._evict_if_needed = lambda *_, **__: None


def _copied(self: Metadata, memo: dict) -> Metadata:
  """As `copy.deepcopy` copies what OmegaConf keeps beside a value."""
  own = object.__new__(type(self))
  own.__dict__.update(self.__dict__, flags=self.flags and dict(self.flags))
  own.resolver_cache = collections.defaultdict(dict, copy.deepcopy(dict(self.resolver_cache), memo))
  return own


# MaxText copies its keys five times for every config that it reads: two fifths of 0.45 CPU seconds.
Metadata.__deepcopy__ = _copied
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _programs)  # for subprocesses
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**32))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture
def float64():
  """Float64 for a test: rounding in float32 is as large as a wrong term may be."""
  with jax.enable_x64(True):
    yield


def pytest_collection_finish():
  """What was imported stays: a search for cycles need not look at it again."""
  gc.collect()
  gc.freeze()


def pytest_collection_modifyitems(items):
  """A test is of one kind: CI runs what is broad, and would run what is slow, too."""
  both = [
    item.nodeid for item in items if {"broad", "slow"} <= {m.name for m in item.iter_markers()}
  ]
  assert not both, f"broad and slow at once: {both}"
