"""The systems that MELODI is compared with, and a cache around llama2: resumed = never stopped.

And one device = eight.
"""

import jax
import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import KEYS, LENGTHS, assert_same_checkpoint

STEPS, STOP = 4, 2
# Of one layer: it has the memory.
LAYERS = dict.fromkeys(("melodi_long_term_layers", "melodi_recurrent_layers"), "0")
MESH = {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}


# One code saves and shards what all systems declare: by default it is MELODI, in resume_test and
# sharding_test, and a user's system, in own_memory_test.
pytestmark = pytest.mark.slow
CACHED = running.MELODI | {"decoder_block": "llama2", "melodi_base_block": "llama2"}
CACHED |= {"melodi_cache_tokens": 24, "melodi_sink_tokens": 4}
SYSTEMS = running.SYSTEMS | {"sinks, cache, mixed tokens and queue around llama2": CACHED}
each_system = pytest.mark.parametrize("system", SYSTEMS, indirect=True)


@pytest.fixture(scope="module")
def system(request, tmp_path_factory):
  """Keys of a system, and the folder of its config file."""
  folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
  own = SYSTEMS[request.param]
  own = own | {"base_num_decoder_layers": 1} | {k: v for k, v in LAYERS.items() if k in own}
  keys = running.TINY | own | KEYS | {"dropout_rate": 0.0}
  keys |= running.documents_config(folder, LENGTHS) | {"learning_rate_schedule_steps": STEPS}
  running.write_yaml(
    folder / "config.yml", **keys | MESH | {"base_output_directory": str(folder / "out")}
  )
  return keys, folder


@each_system
def test_resumed_run_ends_in_the_very_state_of_the_run_that_never_stopped(system):
  _, folder = system
  for run_name, steps in (("through", STEPS), ("resumed", STOP), ("resumed", STEPS)):
    running.train(str(folder / "config.yml"), f"run_name={run_name}", f"steps={steps}")
  runs = [folder / "out" / name / "checkpoints" / str(STEPS - 1) for name in ("through", "resumed")]
  assert_same_checkpoint(*runs)
  saved = running.checkpoint(runs[0])
  prefix = "nnx_aux/model/decoder/memory_"
  memory = {name: array for name, array in saved.items() if name.startswith(prefix)}
  assert memory and all(array.any() for array in memory.values())


@each_system
def test_losses_and_memory_are_those_of_one_device(system):
  keys, _ = system
  results = []
  for mesh, devices in (({"ici_fsdp_parallelism": 1}, jax.devices()[:1]), (MESH, None)):
    with running.maxtext_process():
      config = running.initialize(**keys | mesh | {"enable_checkpointing": False})
      trainer = running.Trainer(config, devices)
      losses = [trainer.step()["learning/loss"] for _ in range(STOP)]
      results.append((losses, {name: np.asarray(leaf) for name, leaf in trainer.memory().items()}))
  (alone, memory), (spread, memory_spread) = results
  np.testing.assert_allclose(spread, alone, rtol=2e-5)
  for name, expected in memory.items():
    np.testing.assert_allclose(memory_spread[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)
