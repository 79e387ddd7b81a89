"""The melodi_* keys: what is wrong with a name or a value is said in readable words."""

import pytest

from integration_tests import running
from melodi_plugin.cli.main import main


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def error_of(**keys) -> str:
  with pytest.raises(ValueError) as error:
    running.melodi_config(**keys)
  return str(error.value)


def test_misspelt_key_is_refused_by_name():
  assert "'melodi_window_lenght' not in" in error_of(melodi_window_lenght=16)


def test_value_outside_the_choices_is_refused_with_the_choices():
  message = error_of(melodi_schedule="sideways")
  assert "melodi_schedule" in message and "'layers', 'windows' or 'diagonal'" in message


def test_window_of_no_tokens_is_refused():
  message = error_of(melodi_window_length=0)
  assert "melodi_window_length" in message and "greater than 0" in message


def test_short_term_memory_without_branching_must_be_of_the_summary_size():
  keys = {"melodi_summary_branching": False, "melodi_short_term_tokens": 3}
  assert error_of(**keys) == (
    "melodi_summary_branching=false hands the 4 summary tokens on as short-term memory, so "
    "melodi_short_term_tokens must be 4 or 0, not 3."
  )
  running.melodi_config(**(keys | {"melodi_short_term_tokens": 4}))
  running.melodi_config(**(keys | {"melodi_short_term_tokens": 0}))
  running.melodi_config(**(keys | {"melodi_short_term_layers": "none"}))


@pytest.mark.parametrize("key", ["melodi_long_term_layers", "melodi_short_term_layers"])
@pytest.mark.parametrize("layer", [3, -1])
def test_layer_outside_of_the_model_is_refused(key, layer):
  assert error_of(**{key: [0, layer]}) == (
    f"{key} names layer {layer}, but the model has layers 0 to 2."
  )


def test_list_of_layers_that_is_none_is_refused():
  message = error_of(melodi_long_term_layers="first")
  assert message.startswith("melodi_long_term_layers='first' is not a list of layers; write")


def test_segment_must_be_whole_windows():
  message = error_of(melodi_window_length=24)
  assert "max_target_length=64 is not a whole number of windows of melodi_window_length=24" in (
    message
  )


def test_a_vocabulary_in_no_tiles_is_refused():
  message = "num_vocab_tiling=0 is no number of tiles; set it to 1 or more."
  assert message in error_of(num_vocab_tiling=0)


def test_sizes_are_not_checked_without_melodi():
  running.initialize(decoder_block="llama2", melodi_window_length=24, melodi_long_term_layers="99")


def test_bad_config_ends_the_command_with_failure_and_the_sentence(tmp_path, capsys):
  file = running.write_yaml(
    tmp_path / "bad.yml", **(running.TINY | running.MELODI | {"packing": True})
  )
  assert main(["train", str(file)]) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert "packing=true packs every row anew" in last
