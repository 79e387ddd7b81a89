"""From a Hugging Face folder to a model with memory: the commands of docs/hugging_face.md."""

import jax
import numpy as np
import pytest
from flax import nnx

from integration_tests import running

torch = pytest.importorskip("torch", reason="torch is not installed (docs/hugging_face.md)")
pytestmark = pytest.mark.slow

WINDOW, VOCABULARY, WIDTH, HEADS, KV_HEADS, MLP = 16, 64, 32, 4, 2, 64
# MaxText's converter knows the number of layers and head_dim of llama3.1-8b by heart: 32 and 128.
SIZES = {
  "model_name": "llama3.1-8b",
  "override_model_config": True,
  "vocab_size": VOCABULARY,
  "base_emb_dim": WIDTH,
  "base_num_query_heads": HEADS,
  "base_num_kv_heads": KV_HEADS,
  "base_mlp_dim": MLP,
}
MELODI = {
  "melodi_base_block": "llama2",
  "melodi_window_length": WINDOW,
  "melodi_summary_tokens": 4,
  "melodi_short_term_tokens": 6,
  "melodi_long_term_increment": 2,
  "melodi_long_term_windows": 4,
}


def random_llama():
  """A llama of Hugging Face whose every parameter matters, and the RoPE of Llama 3.1."""
  import transformers

  config = transformers.LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=MLP,
    num_hidden_layers=32,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=128,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling={
      "rope_type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192,
    },
    max_position_embeddings=131072,
    tie_word_embeddings=False,
  )
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(config).eval()
  with torch.no_grad():
    for name, param in model.named_parameters():
      torch.nn.init.uniform_(param, *((0.5, 1.5) if "norm" in name else (-0.3, 0.3)))
  return model


def convert(folder, out, cwd) -> str:
  """MaxText's converter, as a command; returns the path of the stock checkpoint."""
  keys = SIZES | {
    "scan_layers": True,
    "hardware": "cpu",
    "skip_jax_distributed_system": True,
    "base_output_directory": out,
  }
  code, log = running.command(
    *("-m", "maxtext.checkpoint_conversion.to_maxtext"),
    *(f"{key}={value}" for key, value in keys.items()),
    *(f"--hf_model_path={folder}", "--save_dtype=float32"),
    cwd=cwd,
    HF_HUB_OFFLINE="1",
  )
  assert code == 0, log
  return str(out / "0" / "items")


def new_config(tmp_path, checkpoint: str):
  """A config of the model with memory, of two windows, in float32."""
  from maxtext.configs import pyconfig

  by_model = ("base_num_decoder_layers", "head_dim")
  tiny = {key: value for key, value in running.TINY.items() if key not in by_model}
  more = {
    "base_output_directory": str(tmp_path),
    "load_parameters_path": checkpoint,
    "max_target_length": 2 * WINDOW,
    "per_device_batch_size": 1 / len(jax.devices()),
    "matmul_precision": "highest",
  }
  return pyconfig.initialize([""], **(tiny | SIZES | MELODI | more))


def logits_of(config, tokens: np.ndarray) -> np.ndarray:
  """Logits (T, V) of MaxText's model of a config, with the weights of its checkpoint."""
  from maxtext.utils import maxtext_utils, model_creation_utils

  mesh = maxtext_utils.get_mesh_from_config(config, jax.devices()[:1])
  model = model_creation_utils.from_pretrained(config, mesh, model_mode="train")
  positions = np.arange(len(tokens), dtype=np.int32)[None]

  @nnx.jit
  def forward(model, tokens, positions, ids):
    return model(tokens, positions, decoder_segment_ids=ids, enable_dropout=False)

  return np.asarray(forward(model, tokens[None], positions, np.ones_like(positions)))[0]


def test_converted_and_grafted_llama_has_the_logits_of_torch(tmp_path):
  from melodi_plugin.checkpoints.graft import graft

  llama = random_llama()
  llama.save_pretrained(tmp_path / "llama")
  stock = convert(tmp_path / "llama", tmp_path / "stock", cwd=tmp_path)
  tokens = np.random.default_rng(0).integers(VOCABULARY, size=2 * WINDOW, dtype=np.int32)
  with torch.no_grad():
    expected = llama(torch.tensor(tokens[None], dtype=torch.long)).logits[0].numpy()
  with running.maxtext_process():
    folder = graft(new_config(tmp_path, stock)).folder
    found = logits_of(new_config(tmp_path, folder), tokens)
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(found[:WINDOW], expected[:WINDOW], rtol=0, atol=1e-4)
  assert np.abs(found - expected)[WINDOW:].max() > 1e-2  # the second window sees less, and memory
