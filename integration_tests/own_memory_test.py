"""A system of a user: trained, saved, resumed, sharded, evaluated; and what can go wrong."""

import json
import shlex

import jax
import numpy as np
import pytest
from pydantic import BaseModel

import melodi_plugin
from integration_tests import own_system, running
from integration_tests.own_system import register_system, whole
from integration_tests.pages import ROOT
from integration_tests.saved_runs import LENGTHS
from melodi_plugin.cli.main import main
from melodi_plugin.cli.sizes import measure
from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.conformance import training
from melodi_plugin.core.memories.nothing import Nothing
from melodi_plugin.core.memory import Stored
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.systems import table

EXAMPLE = ROOT / "examples" / "armt.yml"
MESH = ("ici_fsdp_parallelism=4", "ici_tensor_parallelism=2")


@pytest.fixture(autouse=True)
def nobody_else():
  """Systems that a test registers are forgotten after it."""
  with own_system.forgotten():
    yield


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  """The example's config, as small as the other models of these tests."""
  folder = tmp_path_factory.mktemp("armt")
  keys = running.TINY | running.documents_config(folder, LENGTHS)
  keys |= {"melodi_window_length": 16, "melodi_summary_tokens": 4, "armt_key_width": 8}
  keys |= {"grain_eval_files": keys["grain_train_files"], "warmup_steps_fraction": 0.25}
  keys |= {"melodi_prepare_data": "", "melodi_evaluate_after_training": False}
  text = lambda value: str(value).lower() if isinstance(value, bool) else value  # noqa: E731
  return [str(EXAMPLE), *(f"{key}={text(value)}" for key, value in keys.items())]


def train(argv):
  running.train(*argv)


@pytest.mark.broad  # of MELODI in resume_test
def test_resumed_run_ends_in_the_very_state_of_the_run_that_never_stopped(words, tmp_path):
  path = training.assert_resumed_equals_uninterrupted([*words, *MESH], tmp_path, train)
  saved = training.checkpoint(path)
  assert {name for name in saved if "/memory_" in name} == {
    f"nnx_aux/model/decoder/memory_{name}" for name in ("long_matrix", "long_mass", "windows")
  }
  assert saved["params/params/decoder/layers_0_to_2/value"].any()  # begins as 0: it has learned


class Counting(Nothing):
  """One array, which neither is a queue nor has the axes of one: windows of text, four times."""

  @property
  def stored(self):
    return Stored((4,), (None,))

  def end(self, kept, state, pushed, windows):
    return kept + windows.writes.sum(0)[:, None].astype(kept.dtype)


@pytest.mark.slow  # the example's memory is of other arrays than a queue, too
def test_memory_of_one_array_is_resumed_as_it_was_saved(tmp_path):
  melodi_plugin.register_system("mine", whole(long=Counting))
  keys = running.TINY | running.documents_config(tmp_path, LENGTHS)
  keys |= {"decoder_block": "mine", "melodi_window_length": 16, "base_num_decoder_layers": 1}
  keys |= {"enable_checkpointing": True, "base_output_directory": str(tmp_path)}
  config = running.write_yaml(tmp_path / "config.yml", **keys)
  running.train(str(config), "steps=1")
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    found = running.Trainer(running.from_yaml(config, steps=2)).memory()["memory_long"]
  assert found.shape == (1, 8, 4) and found.any()
  saved = running.checkpoint(tmp_path / "tiny" / "checkpoints" / "0")
  np.testing.assert_array_equal(found, saved["nnx_aux/model/decoder/memory_long"])


@pytest.mark.slow  # one code shards what all systems declare: see sharding_test
def test_losses_and_memory_do_not_depend_on_the_mesh(words, tmp_path):
  training.assert_sharded_equals_alone(words, tmp_path, MESH, train)


@pytest.mark.broad  # the sharded training above, and evaluation of every system, show its parts
def test_command_trains_and_evaluates_with_memory_and_without(words, tmp_path, capsys):
  keys = ["steps=3", "enable_checkpointing=true", "melodi_evaluate_after_training=true"]
  with running.maxtext_process():
    assert main(["train", *words, *keys, f"base_output_directory={tmp_path}/out"]) == 0
  said = capsys.readouterr().out
  assert "with memory reset at every window" in said
  *_, before, last = said.splitlines()
  assert before == "Write text with what was trained:"
  assert last.startswith("  uv run melodi decode ") and "checkpoints/2/items" in last


@pytest.mark.slow
def test_command_that_training_names_writes_text(words, tmp_path):
  keys = ["steps=3", "enable_checkpointing=true", f"base_output_directory={tmp_path}/out"]
  code, log = running.command("-m", "melodi_plugin", "train", *words, *keys, cwd=tmp_path)
  assert code == 0, log
  command = shlex.split(log.splitlines()[-1])
  assert command[:4] == ["uv", "run", "melodi", "decode"]
  code, log = running.command("-m", "melodi_plugin", *command[3:], "--json", cwd=tmp_path)
  assert code == 0, log
  assert json.loads(log.splitlines()[-1])["finish_reason"] in ("stop", "length")


def test_sizes_say_what_is_known(words):
  with running.maxtext_process():
    found = measure([str(EXAMPLE)], ["melodi_window_length=16"])["armt"].sizes
  features = 2 * 3 * 16
  assert found.memory_long == 4 * (128 * features + features)
  assert found.memory_short == 0
  assert found.memory_bytes == 4 * found.memory_long
  assert found.decode_state is None and found.training_flops_per_token is None
  assert found.parameters - found.embedding_parameters > 4 * 128 * (4 * 128 + 8 * 128 + 128)


# -- Registering -----------------------------------------------------------------------------------


def test_own_keys_are_read_checked_and_part_of_the_config():
  with running.maxtext_process():
    register_system()
    config = running.melodi_config(decoder_block="mine", mine_size=5)
    sizes = melodi_plugin.MelodiConfig.from_maxtext(config)
    assert (sizes.system, sizes.own.mine_size, sizes.own.mine_layers) == ("mine", 5, (0, 1))
    assert hash(sizes) == hash(melodi_plugin.MelodiConfig.from_maxtext(config))
    assert sizes.layers == (LayerSpec(),) * 3
    with pytest.raises(ValueError, match="mine_size"):
      running.melodi_config(decoder_block="mine", mine_size=0)
    assert running.initialize(decoder_block="llama2").mine_size == 3  # a default everywhere


class WithoutDefault(BaseModel):
  mine_size: int


class Taken(BaseModel):
  melodi_schedule: str = ""


@pytest.mark.parametrize(
  "keys, sentence",
  [
    ({"name": "melodi"}, "there is a system melodi already"),
    ({"name": "my system"}, "needs a name of letters"),
    ({"keys": WithoutDefault}, "the key mine_size of the system mine needs a default"),
    ({"keys": Taken}, "is one of melodi_plugin already; begin its name with mine_"),
  ],
)
def test_registration_that_cannot_be_is_refused(keys, sentence):
  with pytest.raises(ValueError, match=sentence) as error:
    register_system(**keys)
  assert "\n" not in str(error.value)


def test_registering_twice_is_refused():
  register_system()
  with pytest.raises(ValueError, match="there is a system mine already; register yours under"):
    register_system()


def error_of(**keys):
  with running.maxtext_process(), pytest.raises(ValueError) as error:
    running.initialize(**keys)
  return str(error.value)


def test_name_of_a_block_of_maxtext_is_refused():
  register_system("gemma2")
  assert "gemma2 has the name of a decoder_block of MaxText; register" in error_of()


@pytest.mark.parametrize(
  "keys, sentence",
  [
    ({"decoder_block": "zzz"}, "there is no decoder_block zzz; is it a system of your own?"),
    ({"decoder_block": "melodie"}, "no decoder_block melodie; did you mean melodi, or is it a"),
    ({"melodi_imports": "no_such_module"}, "melodi_imports: no_such_module cannot be imported: No"),
  ],
)
def test_system_or_module_that_is_not_there_is_named(keys, sentence):
  assert sentence in error_of(**keys)


def test_module_is_looked_for_beside_the_config_and_in_the_current_folder(tmp_path, monkeypatch):
  here, there = tmp_path / "here", tmp_path / "there"
  for folder in (here, there):
    folder.mkdir()
    source = f"""
import melodi_plugin
from integration_tests.own_system import whole
melodi_plugin.register_system("{folder.name}", whole())
"""
    (folder / f"module_{folder.name}.py").write_text(source)
  lower = running.write_yaml(there / "lower.yml", melodi_imports="module_there, module_here")
  upper = there / "upper.yml"
  upper.write_text(f"base_config: {lower.name}\n")
  monkeypatch.chdir(here)
  with running.maxtext_process():
    keys = {"melodi_window_length": 16}
    assert (
      running.initialize(str(upper), decoder_block="there", **keys).decoder_block.value == "there"
    )
    assert running.initialize(decoder_block="here", **keys).decoder_block.value == "here"


def test_module_may_be_named_on_the_command_line(tmp_path, monkeypatch):
  source = "from integration_tests.own_system import register_system\nregister_system('named')\n"
  (tmp_path / "module_named.py").write_text(source)
  monkeypatch.chdir(tmp_path)
  file = running.write_yaml(tmp_path / "own.yml", **running.TINY)
  words = ["melodi_imports=json, module_named", "decoder_block=named", "melodi_window_length=16"]
  with running.maxtext_process():
    assert load_config(["", str(file), *words], here=False).decoder_block.value == "named"


class Shrinking(Nothing):
  """Stores less than it says."""

  @property
  def stored(self):
    return Stored((4,), (None,))

  def end(self, kept, state, pushed, windows):
    return kept[:, :3]


@pytest.mark.parametrize(
  "parts, layer, sentence",
  [
    (lambda config, spec: None, None, "`parts` of the system mine must return Parts"),
    (whole(reader=None), None, "`parts` of the system mine must return Parts"),
    (whole(), lambda config, index: None, "`layer` of the system mine must return a LayerSpec"),
    (whole(long=lambda *_: None), None, "the system mine does not fit together: "),
    (whole(params=lambda *_, **__: None), None, "the system mine does not fit together: "),
    (whole(long=Shrinking), None, "memory has the shape (1, 3) after a window, and (1, 4) before"),
  ],
)
def test_parts_that_do_not_fit_are_named(parts, layer, sentence):
  melodi_plugin.register_system("mine", parts, layer=layer)
  error = error_of(decoder_block="mine", melodi_window_length=16)
  assert sentence in error
  assert "\n" not in error


def test_parts_that_fit_are_a_model():
  melodi_plugin.register_system("mine", whole(), layer=lambda *_: LayerSpec(short_tokens=4))
  with running.maxtext_process():
    keys = {"melodi_summary_tokens": 4, "melodi_window_length": 16}
    config = running.initialize(decoder_block="mine", **keys)
  assert table.stored_numbers(melodi_plugin.MelodiConfig.from_maxtext(config)) == (3 * 4 * 32, 0)
