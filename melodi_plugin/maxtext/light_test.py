"""What is read without MaxText, and what is left to it: all that is wrong, new or ambiguous."""

import pytest

from melodi_plugin.maxtext.light import read_light

OURS = "base_config: base.yml\ndecoder_block: melodi\nmax_target_length: 1024\n"
OURS += "packing: false\ndataset_type: synthetic\n"


@pytest.fixture
def path(tmp_path):
  file = tmp_path / "own.yml"
  file.write_text(OURS)
  return str(file)


def test_keys_come_from_the_arguments_the_file_the_files_below_it_and_base_yml(path, tmp_path):
  upper = tmp_path / "upper.yml"
  upper.write_text("base_config: own.yml\nbase_emb_dim: 256\nmelodi_long_term_layers: none\n")
  own = ("base_mlp_dim=512", "learning_rate=1e-3", "muon_consistent_rms=0.2")  # there: None
  config = read_light([str(upper), *own])
  assert config.muon_consistent_rms == 0.2
  assert (config.decoder_block, config.max_target_length) == ("melodi", 1024)
  assert (config.emb_dim, config.mlp_dim, config.learning_rate) == (256, 512, 1e-3)
  assert (config.melodi_long_term_layers, config.melodi_window_length) == (None, 512)
  assert config.num_decoder_layers == config.base_num_decoder_layers > 0


def test_memory_around_a_stock_block_has_the_sizes_of_its_model_name(path):
  keys = ("model_name=qwen3-0.6b", "melodi_base_block=qwen3")
  config = read_light([path, *keys])
  assert (config.decoder_block, config.emb_dim, config.use_qk_norm) == ("qwen3", 1024, True)


@pytest.mark.parametrize(
  "keys",
  [
    ["melodi_window_lenght=8"],
    ["no_such_key=1"],
    ["base_emb_dim=wide"],
    ["base_emb_dim=1.5"],
    ["melodi_window_length=0"],
    ["melodi_window_length=24"],  # does not divide the segment
    ["melodi_long_term_layers=99"],
    ["packing=true"],
    ["quantization=int8"],
    ["global_parameter_scale=2"],
    ["model_name=llama2-7b"],  # its decoder_block is put over that of the file
    ["model_name=qwen3-0.6b", "melodi_base_block=qwen3", "base_emb_dim=8"],
    ["model_name=no-such-model"],
    ["melodi_base_block=gpt3"],
  ],
)
def test_what_is_wrong_or_needs_more_than_files_is_left_to_maxtext(path, keys):
  assert read_light([path]) is not None
  assert read_light([path, *keys]) is None


def test_a_variable_of_the_environment_is_left_to_maxtext(path, monkeypatch):
  monkeypatch.setenv("M_BASE_EMB_DIM", "64")
  assert read_light([path]) is None


@pytest.mark.parametrize("text", ["decoder_block: [", "- a list", "base_config: nowhere.yml"])
def test_a_file_that_cannot_be_read_is_left_to_maxtext(tmp_path, text):
  (tmp_path / "bad.yml").write_text(text)
  assert read_light([str(tmp_path / "bad.yml")]) is None
  assert read_light([str(tmp_path / "none.yml")]) is None
