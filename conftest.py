"""Strict numerics and shapes in every test, on eight fake devices."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
  " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes in our signatures are checked at run time, in tests only.
_hook = install_import_hook("melodi_plugin", "beartype.beartype")
_hook.__enter__()

jax.config.update("jax_default_matmul_precision", "highest")
# MaxText is not written for it: tests that run its code in this process lift it for themselves.
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling dominates the test time; a second run finds most programs compiled.
_cache = pathlib.Path(__file__).parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))  # for subprocesses


@pytest.fixture
def float64():
  """Float64 for a test: rounding in float32 is as large as a wrong term may be."""
  with jax.enable_x64(True):
    yield
