"""A tiny training is killed again and again, and must end as if nobody had touched it.

  uv run python -m integration_tests.soak.drive --kills 100 --minutes 60

Read in this order; each file imports only what stands above it:

  forks     trainings as processes that have imported MaxText before they begin
  runs      what is trained, in how many processes, on which disk; what must be equal at the end
  moments   when a training is killed
  drive     the command: kills, compares, reports
"""

import os
import pathlib

# Before JAX is imported: one device, programs compiled at once and kept.
_PROGRAMS = str(pathlib.Path(__file__).parents[2] / ".pytest_cache" / "jax")
for _name, _value in {
  "JAX_PLATFORMS": "cpu",
  "XLA_FLAGS": "--xla_cpu_opt_preset=FAST_COMPILE",
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  "JAX_COMPILATION_CACHE_DIR": _PROGRAMS,
  "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**32),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}.items():
  os.environ.setdefault(_name, _value)
