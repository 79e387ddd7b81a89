"""What of a config can change a result."""

import enum

from melodi_plugin.compare import configs


def test_settings_leave_out_places_and_seeds(tmp_path):
  keys = {
    "run_name": "a",
    "base_output_directory": f"{tmp_path}/out",
    "checkpoint_dir": f"{tmp_path}/out/a/checkpoints/",
    "jax_cache_dir": f"{tmp_path}/out",
    "dump_hlo_xla_flags": f"--xla_dump_to={tmp_path}",
    "init_weights_seed": 3,
    "learning_rate": 0.1,
    "mesh_axes": ("data", "fsdp"),
    "tokenizer_path": "tokenizer.model",
  }
  assert configs.settings_of(keys) == {
    "learning_rate": 0.1,
    "mesh_axes": ["data", "fsdp"],
    "tokenizer_path": "tokenizer.model",
  }


def test_settings_are_what_a_user_writes():
  block = enum.Enum("DecoderBlockType", {"MELODI": "melodi"})
  assert configs.settings_of({"decoder_block": block.MELODI}) == {"decoder_block": "melodi"}


def test_settings_keep_inputs_in_the_folder_and_what_lies_beside_it(tmp_path):
  kept = {
    "grain_eval_files": f"{tmp_path}/out/test.jsonl",
    "grain_train_files": f"{tmp_path}/out/train.jsonl",
    "load_parameters_path": f"{tmp_path}/out_of_before/checkpoints/3/items",
    "tokenizer_path": f"{tmp_path}/out/tokenizer.model",
  }
  assert configs.settings_of(kept | {"base_output_directory": f"{tmp_path}/out"}) == kept
