"""Every YAML builds, at full size and for free; the paper's layers have the closed form's size."""

import math
import pathlib

import pytest
import yaml

from integration_tests import running
from melodi_plugin.cli.sizes import measure
from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import SYSTEMS
from melodi_plugin.cost.accounting import parameters
from melodi_plugin.maxtext.weights import described_shapes

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "yaml"
SMALL = sorted(FOLDER.glob("small/*.yml"))
ABLATIONS = sorted(FOLDER.glob("small/ablations/*.yml"))
YAMLS = sorted([*FOLDER.glob("*.yml"), *SMALL])


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_yaml_builds_and_has_the_parameters_of_the_closed_form(path):
  with running.maxtext_process():
    from maxtext.configs import pyconfig

    config = pyconfig.initialize(
      ["", str(path), "skip_jax_distributed_system=true", "grain_train_files=unread"]
    )
    count = sum(map(math.prod, described_shapes(config).values()))
  if config.decoder_block.value not in SYSTEMS:  # a stock model, with memory around it or without
    assert count > 0
    return
  assert count == parameters(MelodiConfig.from_maxtext(config), config.vocab_size)


def test_model_with_every_kind_of_memory_has_a_stock_decoder_beside_it():
  with running.maxtext_process():
    from maxtext.configs import pyconfig

    from melodi_plugin.maxtext.stock_decoder import stock_keys

    path = str(FOLDER / "melodi_smollm2_cache_queue.yml")
    words = ["", path, "skip_jax_distributed_system=true", "grain_train_files=unread"]
    words += ["melodi_distill_weight=1", "melodi_long_term_windows_drawn=8,32"]
    stock = pyconfig.initialize([*words, *stock_keys(pyconfig.initialize(words))])
  assert stock.decoder_block.value == "llama2" and stock.melodi_base_block == "paper"


def test_every_ablation_is_a_small_melodi_of_its_own():
  found = []
  for path in ABLATIONS:
    keys = yaml.safe_load(path.read_text())
    assert (path.parent / keys.pop("base_config")).samefile(FOLDER / "small/shared/small.yml")
    found.append(MelodiKeys.model_validate(keys))
    assert found[-1].model_fields_set == keys.keys()  # the model ignores what it does not know
  others = [MelodiKeys.model_validate(yaml.safe_load(path.read_text())) for path in SMALL]
  assert found and all(found.count(keys) == 1 and keys not in others for keys in found)


@pytest.mark.parametrize("name", ["xl_as_s4_l2", "sinks_as_s4_l2", "xl_as_s6_l3"])
def test_control_has_the_bytes_of_what_it_controls(name):
  paths = [str(FOLDER / f"small/{stem}.yml") for stem in (name, name.split("_as_")[1])]
  own, other = (found.sizes for found in measure(paths, []).values())
  assert own.slot_bytes == other.slot_bytes and own.decode_state_bytes == other.decode_state_bytes


@pytest.mark.parametrize("path", [*YAMLS, *ABLATIONS], ids=lambda path: path.stem)
def test_header_says_what_it_is_and_how_to_run_it(path):
  header = path.read_text().split("base_config:")[0]
  assert "# What:" in header
  assert f"melodi train configs/yaml/{path.relative_to(FOLDER)}" in header
