"""The recipes for pretrained models build at full size, for free: the stock model and memory."""

import math
import pathlib

import pytest

from integration_tests import running
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.cost.accounting import memory_parameters
from melodi_plugin.maxtext import weights

_YAML = pathlib.Path(__file__).parents[1] / "configs" / "yaml"
# Numbers that the published model learns; Gemma3 without its vision tower.
RECIPES = {
  "melodi_llama3.1_8b": 8_030_261_248,
  "melodi_qwen3_8b": 8_190_735_360,
  "melodi_gemma3_12b": 11_765_788_416,
}
SMOLLM2 = "melodi_smollm2_135m"  # has no number of steps: that which its YAML speaks of

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


QUIET = {"skip_jax_distributed_system": True, "log_config": False}


def load_stock(model_name: str):
  """MaxText's own model of a name."""
  from maxtext.configs import pyconfig

  return pyconfig.initialize([""], run_name="stock", model_name=model_name, **QUIET)


def numbers(shapes: Shapes) -> int:
  return sum(map(math.prod, shapes.values()))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_the_stock_model_and_memory(recipe):
  config = running.from_yaml(_YAML / f"{recipe}.yml", grain_train_files="unread", **QUIET)
  shapes = weights.described_shapes(config)
  memory = {name: shape for name, shape in shapes.items() if is_memory_parameter(name)}
  stock = {name: shape for name, shape in shapes.items() if name not in memory}
  assert numbers(stock) == RECIPES[recipe]
  assert numbers(memory) == memory_parameters(MelodiConfig.from_maxtext(config))
  assert stock == weights.described_shapes(load_stock(config.model_name))


@pytest.mark.parametrize("recipe, steps", [*((name, None) for name in RECIPES), (SMOLLM2, 400)])
def test_gates_can_reach_zero_within_the_run(recipe, steps):
  """Adam moves a number by at most its learning rate per step."""
  from maxtext.utils import maxtext_utils

  keys = QUIET | ({"steps": steps} if steps else {})
  config = running.from_yaml(_YAML / f"{recipe}.yml", grain_train_files="unread", **keys)
  schedule = maxtext_utils.create_learning_rate_schedule(config)
  rates = sum(float(schedule(step)) for step in range(config.steps))
  assert rates * config.melodi_scalar_learning_rate_multiplier > config.melodi_memory_gate


def test_adapter_of_smollm2_is_below_ten_megabytes():
  """In bfloat16 with the recipe's sizes; exact with windows of 256 tokens."""
  for window, width in ((512, 2), (256, 4)):
    file = _YAML / f"{SMOLLM2}.yml"
    config = running.from_yaml(
      file, grain_train_files="unread", melodi_window_length=window, **QUIET
    )
    assert width * memory_parameters(MelodiConfig.from_maxtext(config)) < 10e6
