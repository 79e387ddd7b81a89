"""The melodi_* keys: read from every place that MaxText reads, as they are written there."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from integration_tests import running
from integration_tests.pages import ROOT
from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.serving.prompts import prompt_of

ENVIRONMENT = {  # as text, what becomes of it
  "melodi_base_block": ("llama2", "llama2"),
  "melodi_window_length": ("32", 32),
  "melodi_summary_tokens": ("8", 8),
  "melodi_short_term_tokens": ("0", 0),
  "melodi_long_term_increment": ("4", 4),
  "melodi_long_term_windows": ("2", 2),
  "melodi_long_term_windows_drawn": ("1,2", "1,2"),
  "melodi_long_term_pairs": ("true", True),
  "melodi_long_term_layers": ("0,2", (0, 2)),
  "melodi_short_term_layers": ("1", (1,)),
  "melodi_summary_branching": ("false", False),
  "melodi_position": ("none", "none"),
  "melodi_mask_empty_slots": ("true", True),
  "melodi_adapter": ("own.safetensors", "own.safetensors"),
  "melodi_memory_offset": ("-inf", -math.inf),
  "melodi_memory_gate": ("4", 4.0),
  "melodi_initial_temperature": ("6", 6.0),
  "melodi_long_term_temperature": ("6", 6.0),
  "melodi_memory_learning_rate_multiplier": ("0.5", 0.5),
  "melodi_scalar_learning_rate_multiplier": ("20", 20.0),
  "melodi_distill_weight": ("0.5", 0.5),
  "melodi_distill_temperature": ("2", 2.0),
  "melodi_distill_top_k": ("32", 32),
  "melodi_memory_dtype": ("bfloat16", "bfloat16"),
  "melodi_cache_tokens": ("48", 48),
  "melodi_neighbors": ("8", 8),
  "melodi_exact_neighbors": ("true", True),
  "melodi_recurrent_layers": ("1", "1"),
  "melodi_recurrent_states": ("16", 16),
  "melodi_recurrent_gate": ("lstm", "lstm"),
  "melodi_recurrent_cell": ("dual", "dual"),
  "melodi_recurrent_feedback": ("true", True),
  "melodi_reference_defects": ("true", True),
  "melodi_imports": ("json,csv", "json,csv"),
  "melodi_schedule": ("windows", "windows"),
  "melodi_reset_every_window": ("true", True),
  "melodi_documents_in_rows": ("true", True),
  "melodi_sliding_window": ("8", 8),
  "melodi_sink_tokens": ("2", 2),
  "melodi_overlapping_chunks": ("true", True),
  "melodi_prepare_data": ("shakespeare", "shakespeare"),
  "melodi_id_field": ("name", "name"),
  "melodi_special_tokens_in_text": ("true", True),
  "melodi_max_document_bytes": ("1000", 1000),
  "melodi_skip_broken_documents": ("true", True),
  "melodi_restart_documents": ("true", True),
  "melodi_checkpoint_fallback": ("false", False),
  "melodi_probe": ("passkey", "passkey"),
  "melodi_probe_tasks": ("qa1,qa2", "qa1,qa2"),
  "melodi_probe_lengths": ("512", "512"),
  "melodi_probe_texts": ("2", 2),
  "melodi_probe_writes": ("true", True),
  "melodi_judge": ("a.npz,b.npz", "a.npz,b.npz"),
  "melodi_write_losses": ("true", True),
  "melodi_evaluate_after_training": ("true", True),
  "melodi_prompt_file": ("-", "-"),
  "melodi_max_tokens": ("8", 8),
  "melodi_seed": ("7", 7),
  "melodi_stop": ("User:", "User:"),
  "melodi_documents": ("a.txt,b/*.txt", "a.txt,b/*.txt"),
  "melodi_memory_file": ("a.memory", "a.memory"),
  "melodi_memory_out": ("b.memory", "b.memory"),
  "melodi_memory_compact": ("true", True),
  "melodi_memory_title": ("A play", "A play"),
  "melodi_slots": ("2", 2),
  "melodi_learning_rate_schedule": ("paper", "paper"),
  "melodi_serve_host": ("0.0.0.0", "0.0.0.0"),
  "melodi_serve_port": ("0", 0),
  "melodi_serve_hosts": ("melodi.example", "melodi.example"),
  "melodi_serve_key_file": ("keys.txt", "keys.txt"),
  "melodi_serve_model": ("plays", "plays"),
  "melodi_serve_folder": ("states", "states"),
  "melodi_serve_body_bytes": ("1000", 1000),
  "melodi_serve_prompt_tokens": ("1000", 1000),
  "melodi_serve_max_tokens": ("1000", 1000),
  "melodi_serve_choices": ("2", 2),
  "melodi_serve_queue_texts": ("8", 8),
  "melodi_serve_queue_tokens": ("1000", 1000),
  "melodi_serve_queue_seconds": ("1.5", 1.5),
  "melodi_serve_request_seconds": ("60", 60.0),
  "melodi_serve_drain_seconds": ("0", 0.0),
  "melodi_serve_snapshot_bytes": ("0", 0),
  "melodi_serve_folder_bytes": ("1000000", 1_000_000),
  "melodi_serve_sessions": ("10", 10),
  "melodi_serve_days": ("0.5", 0.5),
}
# Keys that other systems than MELODI have, and what else they need.
NEEDS = {
  "melodi_cache_tokens": {"decoder_block": "transformer_xl"},
  "melodi_neighbors": {"decoder_block": "memorizing_transformer"},
  "melodi_exact_neighbors": {"decoder_block": "memorizing_transformer", "melodi_neighbors": 2},
  "melodi_recurrent_feedback": {
    "decoder_block": "block_recurrent",
    "melodi_schedule": "windows",
  },
  "melodi_reference_defects": {"decoder_block": "transformer_xl"},
  "melodi_adapter": {"melodi_base_block": "llama2", "load_parameters_path": "x"},
  "melodi_distill_weight": {"melodi_base_block": "llama2"},
  "melodi_long_term_pairs": {"melodi_base_block": "llama2"},
  "melodi_sliding_window": {"decoder_block": "llama2"},
  "melodi_sink_tokens": {"decoder_block": "llama2", "melodi_sliding_window": 8},
}
LAYERS = ("melodi_long_term_layers", "melodi_short_term_layers")
# Keys that no other fits.
ALONE = {
  *NEEDS,
  "melodi_base_block",
  "melodi_short_term_tokens",
  "melodi_summary_branching",
}
TOGETHER = [key for key in MelodiKeys.model_fields if key not in ALONE]


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def layers(config) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Layers with a queue, layers with short-term memory."""
  sizes = MelodiConfig.from_maxtext(config)
  return sizes.long_term_layers, sizes.short_term_layers


def as_read(config, key: str):
  """The value of a key; of a list of layers, what the model makes of it."""
  return layers(config)[LAYERS.index(key)] if key in LAYERS else getattr(config, key)


def test_every_key_has_a_default_and_the_defaults_are_a_valid_model():
  config = running.initialize(
    decoder_block="melodi", max_target_length=1024, base_num_decoder_layers=12
  )
  assert {key: getattr(config, key) for key in MelodiKeys.model_fields} == (
    MelodiKeys().model_dump()
  )
  assert layers(config) == ((6,), tuple(range(12)))


def test_keys_of_a_yaml_on_top_of_base_yml(tmp_path):
  keys = {"decoder_block": "melodi", "melodi_window_length": 32, "melodi_long_term_layers": [0, 2]}
  file = running.write_yaml(tmp_path / "own.yml", **keys)
  config = running.initialize(str(file), max_target_length=96)
  assert config.decoder_block.value == "melodi"
  assert (config.melodi_window_length, config.melodi_summary_tokens) == (32, 64)
  assert layers(config)[0] == (0, 2)


def test_a_yaml_on_top_of_another_yaml_keeps_the_keys_of_both(tmp_path):
  running.write_yaml(tmp_path / "lower.yml", melodi_window_length=32, melodi_summary_tokens=8)
  upper = tmp_path / "upper.yml"
  upper.write_text("base_config: lower.yml\nmelodi_summary_tokens: 2\n")
  config = running.initialize(str(upper))
  assert (config.melodi_window_length, config.melodi_summary_tokens) == (32, 2)


def test_command_line_wins_over_the_yaml(tmp_path):
  file = running.write_yaml(tmp_path / "own.yml", **running.MELODI)
  arguments = ["melodi_window_length=32", "melodi_schedule=windows", "melodi_long_term_layers=0,1"]
  config = running.initialize(str(file), *arguments)
  assert (config.melodi_window_length, config.melodi_schedule) == (32, "windows")
  assert layers(config)[0] == (0, 1)


@pytest.mark.parametrize("keys", [TOGETHER, *([key] for key in sorted(ALONE))], ids=len)
def test_environment_variables_set_the_keys(monkeypatch, tmp_path, keys):
  own = {k: v for key in keys for k, v in NEEDS.get(key, {}).items()}
  others = {k: v for k, v in (running.MELODI | own).items() if k not in keys}
  file = running.write_yaml(tmp_path / "own.yml", **others)
  for key in keys:
    monkeypatch.setenv(f"M_{key.upper()}", ENVIRONMENT[key][0])
  config = running.initialize(str(file), max_target_length=512)
  for key in keys:
    assert as_read(config, key) == ENVIRONMENT[key][1] != MelodiKeys.model_fields[key].default, key


@pytest.mark.parametrize(
  "written, expected",
  [
    ("middle", (1,)),
    ("all", (0, 1, 2)),
    ("none", ()),
    ("", ()),
    ("1", (1,)),
    ("0,2", (0, 2)),
    ("2, 0", (0, 2)),
    ("[0,2]", (0, 2)),
  ],
)
def test_lists_of_layers_on_the_command_line(tmp_path, written, expected):
  file = running.write_yaml(
    tmp_path / "own.yml", **(running.MELODI | {"melodi_long_term_layers": "2"})
  )
  config = running.initialize(str(file), f"melodi_long_term_layers={written}")
  assert layers(config)[0] == expected


@pytest.mark.parametrize(
  "text",
  [
    "",
    "null",
    "42",
    "Note: this",
    "[INST]",
    '["a", "b"]',
    "a=b",
    "${HOME} \\${x} $ \\",
    '\n é😀\x7f"',
  ],
)
def test_texts_on_the_command_line_are_what_is_written(text):
  file = ROOT / "configs/yaml/melodi_shakespeare_cpu.yml"
  config = load_config(["", str(file), f"prompt={text}", f"melodi_stop={text}"], here=False)
  assert (config.prompt, config.melodi_stop) == (text, text)


@pytest.mark.parametrize("name", ["007", "1e3", "[1]", "a,b", "[a]/b: c", "a;b", "yes", "*.x"])
def test_runs_and_files_on_the_command_line_have_the_names_that_are_written(name):
  file = ROOT / "configs/yaml/melodi_shakespeare_cpu.yml"
  keys = ("run_name", "grain_train_files", "tokenizer_path", "base_output_directory")
  config = load_config(["", str(file), *(f"{key}={name}" for key in keys)], here=False)
  assert [getattr(config, key) for key in keys[:3]] == [name] * 3
  assert config.checkpoint_dir == f"{pathlib.Path(name).absolute()}/{name}/checkpoints/"


@pytest.mark.parametrize(
  "written, found", [("${run_name}.jsonl", "a.jsonl"), ("null", None), ("''", "")]
)
def test_files_on_the_command_line_may_refer_to_other_keys_and_be_none(written, found):
  file = ROOT / "configs/yaml/melodi_shakespeare_cpu.yml"
  config = load_config(["", str(file), "run_name=a", f"metrics_file={written}"], here=False)
  assert config.metrics_file == found


def test_maxtext_has_a_prompt_that_nobody_asked_for():
  config = running.melodi_config()
  assert prompt_of(config) is None
  assert prompt_of(config, [f"prompt={config.prompt}"]) == config.prompt


def test_position_bias_can_be_turned_off(tmp_path):
  file = running.write_yaml(tmp_path / "own.yml", **running.MELODI)
  config = running.initialize(str(file), "melodi_position=none")
  assert MelodiConfig.from_maxtext(config).position == "none"


def test_every_key_is_described_without_importing_maxtext():
  script = (
    "import json, sys, melodi_plugin\n"
    "fields = melodi_plugin.MelodiKeys.model_fields\n"
    "assert 'maxtext' not in sys.modules and 'jax' not in sys.modules\n"
    "print(json.dumps({k: f.description for k, f in fields.items()}))"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=running.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  assert all(json.loads(done.stdout).values())
