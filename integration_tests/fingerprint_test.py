"""A checkpoint has one fingerprint, whether its layers are scanned or not."""

import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.checkpoints import fingerprint


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def of(model: nnx.Module) -> str:
  decoder = nnx.state(model, nnx.Param)["decoder"]
  others = {name: part for name, part in decoder.items() if "layers" not in name}
  return fingerprint.of_model(model.decoder.sections(), others)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["llama2", "gemma3"])
def test_fingerprint_does_not_depend_on_scanning(block):
  scanned = stock_model.build(stock_model.new_config(block, scan_layers=True))
  stock_model.randomize(scanned)
  alone = stock_model.build(stock_model.new_config(block, scan_layers=False))
  own = stock_model.params_of(alone)
  for name, param in stock_model.params_of(scanned).items():
    for part, array in stock_model.unscanned(name, param[...]).items():
      own[part][...] = array
  assert of(alone) == of(scanned)
  kernel = next(param for name, param in own.items() if "/layers_1/" in name)
  kernel[...] = kernel[...].at[0].multiply(1 + 2**-22)
  assert of(alone) != of(scanned)
