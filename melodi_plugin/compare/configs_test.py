"""What of a config can change a result."""

from melodi_plugin.compare import configs


def test_settings_leave_out_places_and_seeds():
  keys = {
    "run_name": "a",
    "base_output_directory": "/there",
    "checkpoint_dir": "/there/a/checkpoints",
    "dump_hlo_xla_flags": "--xla_dump_to=/tmp",
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
