"""The keys of a config that the help of a verb explains."""

from collections.abc import Callable, Sequence
from typing import Any

# MaxText has some 900 keys; these are the first that one needs.
MAXTEXT = {
  "base_output_directory": "Folder of all runs.",
  "run_name": "Folder of this run in it; the same name goes on from its last checkpoint.",
  "steps": "Training steps.",
  "per_device_batch_size": "Rows per device.",
  "max_target_length": "Tokens of a row per step: a segment, whole windows of it.",
  "dataset_type": "`grain` for documents.",
  "grain_train_files": "Documents to train on: text, .jsonl, .parquet or .array_record files.",
  "grain_eval_files": "Documents to evaluate with.",
  "tokenizer_path": "Tokenizer: a file of sentencepiece, or a folder of Hugging Face.",
  "tokenizer_type": "`sentencepiece`, `huggingface` or `tiktoken`.",
  "learning_rate": "Greatest learning rate.",
  "load_parameters_path": "Checkpoint whose parameters are read first: <folder>/items.",
  "prompt": "Text to go on from.",
  "decode_sampling_strategy": "`greedy`, `weighted`, `topk`, `nucleus` or `composite`.",
  "decode_sampling_temperature": "Logits are divided by it.",
  "decode_sampling_top_k": "`topk`, `composite`: draw among so many tokens.",
  "decode_sampling_nucleus_p": "`nucleus`, `composite`: draw among tokens of this probability.",
  "enable_checkpointing": "Whether checkpoints are written.",
  "checkpoint_period": "Steps between two checkpoints.",
  "eval_interval": "Steps between two evaluations in training; -1 for none.",
  "log_period": "Steps between two lines on the screen.",
  "hardware": "`tpu`, `gpu` or `cpu`; if it is not set, what there is.",
  "compile_topology": "The accelerators to compile for, as in v5e-16.",
  "compile_topology_num_slices": "How many of them; 1 if it is not set.",
  "compiled_trainstep_file": "File for the compiled step.",
}
EVALUATE = (
  "load_parameters_path",
  "grain_eval_files",
  "per_device_batch_size",
  "melodi_reset_every_window",
  "melodi_memory_file",
  "melodi_probe",
  "melodi_probe_tasks",
  "melodi_probe_lengths",
  "melodi_probe_texts",
  "melodi_probe_writes",
  "melodi_judge",
  "melodi_write_losses",
  "melodi_skip_broken_documents",
)
DECODE = (
  "load_parameters_path",
  "prompt",
  "melodi_prompt_file",
  "melodi_max_tokens",
  "melodi_stop",
  "melodi_seed",
  "decode_sampling_strategy",
  "decode_sampling_temperature",
  "decode_sampling_top_k",
  "decode_sampling_nucleus_p",
  "melodi_memory_file",
  "melodi_memory_out",
  "melodi_memory_compact",
  "melodi_memory_title",
)
MEMORIZE = (
  "load_parameters_path",
  "melodi_documents",
  "melodi_memory_out",
  "melodi_slots",
  "melodi_memory_compact",
  "melodi_skip_broken_documents",
)
SERVE = ("load_parameters_path", "melodi_slots")
SERVER = "melodi_serve_"  # how its own keys begin
GRAFT = ("load_parameters_path", "base_output_directory", "run_name", "melodi_base_block")
COMPILE = ("compile_topology", "compile_topology_num_slices", "compiled_trainstep_file")


def described(
  names: Sequence[str] = (), ours: Callable[[str], bool] = lambda name: False
) -> list[tuple[str, str]]:
  """Keys of a config and what they mean; behind them those of ours that are wanted."""
  from melodi_plugin.config.keys import MelodiKeys  # pydantic takes half a second: for help only

  fields = MelodiKeys.model_fields
  return [
    (f"{name}={_shown(fields[name].default)}", fields[name].description or "")
    if name in fields
    else (f"{name}=", MAXTEXT[name])
    for name in [*names, *filter(ours, fields)]
  ]


def _shown(default: Any) -> str:
  return str(default).lower() if isinstance(default, bool) else str(default)
