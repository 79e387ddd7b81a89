"""An imported GGUF file gives MaxText's own llama2 the logits of the file's model."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.checkpoints.gguf.importer import import_file
from melodi_plugin.cli.main import main
from melodi_plugin.maxtext import loading, weights
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.serving.engine import Engine
from melodi_plugin.testing.files.gguf_file import (
  LAYERS,
  TOKENS,
  H,
  K,
  h,
  random_tensors,
  write_gguf,
)

_ROOT = pathlib.Path(__file__).parents[1]
_REFERENCE = _ROOT.parent / "shared" / "reference" / "smollm2" / "logits_float32.npz"
_SMOLLM2 = os.environ.get("MELODI_SMOLLM2_GGUF", "")


def _config(folder: pathlib.Path, **keys):
  """MaxText's config of an import, for one row on one device, in float32."""
  fixed = {
    "run_name": "imported",
    "base_output_directory": "unused",
    "enable_checkpointing": False,
    "skip_jax_distributed_system": True,
    "log_config": False,
    "dataset_type": "synthetic",
    "packing": False,
    "dtype": "float32",
    "matmul_precision": "highest",
    "attention": "dot_product",
    "per_device_batch_size": 1 / len(jax.devices()),
  }
  return running.from_yaml(folder / "model.yml", **(fixed | keys))


class _Stock:
  """An import in unmodified MaxText, float32, for one text of at most `length` tokens."""

  def __init__(self, folder: pathlib.Path, length: int):
    from maxtext.layers.nnx_decoders import NNXDecoder
    from maxtext.utils import maxtext_utils, model_creation_utils

    path = str(folder / "0" / "items")
    config = _config(folder, max_target_length=length, load_parameters_path=path)
    mesh = maxtext_utils.get_mesh_from_config(config, jax.devices()[:1])
    self._model = model_creation_utils.from_pretrained(config, mesh, model_mode="train")
    self._length = length
    assert type(self._model.decoder) is NNXDecoder

  def __call__(self, tokens) -> np.ndarray:
    """Logits (N, V) of N tokens."""
    return np.asarray(_forward(self._model, *self._padded(tokens)))[0, : len(tokens)]

  def exact(self, tokens) -> np.ndarray:
    """The same, but with a tied embedding in float32, which MaxText rounds to bfloat16."""
    logits = np.asarray(_forward_exact(self._model, *self._padded(tokens)))
    return logits[0, : len(tokens)]

  def _padded(self, tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    positions = np.arange(self._length, dtype=np.int32)[None]
    padded = np.zeros_like(positions)
    padded[0, : len(tokens)] = tokens
    return padded, positions, (positions < len(tokens)).astype(np.int32)


@nnx.jit
def _forward(model, tokens, positions, segment_ids):
  return model(tokens, positions, decoder_segment_ids=segment_ids, enable_dropout=False)


@nnx.jit
def _forward_exact(model, tokens, positions, segment_ids):
  _, hidden, _ = model.decoder(
    shared_embedding=model.token_embedder,
    decoder_input_tokens=tokens,
    decoder_positions=positions,
    decoder_segment_ids=segment_ids,
    deterministic=True,
  )
  return jnp.dot(model.decoder.decoder_norm(hidden), model.token_embedder.embedding[...].T)


def _import(gguf: pathlib.Path, folder: pathlib.Path, **options) -> pathlib.Path:
  with running.maxtext_process():
    import_file(gguf, folder, **options)
  return folder


# -- A tiny model against NumPy --------------------------------------------------------------------


def _rotate(x, base):
  """RoPE of (N, heads, h) on neighbouring pairs, as GGUF's llama has them."""
  angles = np.arange(len(x))[:, None, None] * base ** (-np.arange(0, h, 2) / h)
  turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
  return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def _norm(x, scale):
  return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * scale


def _attend(x, w):
  query, key, value = ((x @ w[f"attn_{name}"].T).reshape(len(x), -1, h) for name in ("q", "k", "v"))
  query, key = _rotate(query, 5000.0), _rotate(key, 5000.0)
  key, value = (np.repeat(array, H // K, axis=1) for array in (key, value))
  scores = np.einsum("qnh,knh->nqk", query, key) / np.sqrt(h)
  scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("nqk,knh->qnh", weights, value).reshape(len(x), -1) @ w["attn_output"].T


def _llama(tensors, tokens):
  """Logits (N, V) in float64, of the tensors as GGUF has them."""
  tensors = {name.removesuffix(".weight"): np.float64(w) for name, w in tensors.items()}
  x = tensors["token_embd"][tokens]
  for layer in range(LAYERS):
    start = f"blk.{layer}."
    w = {name.removeprefix(start): a for name, a in tensors.items() if name.startswith(start)}
    x = x + _attend(_norm(x, w["attn_norm"]), w)
    y = _norm(x, w["ffn_norm"])
    gate = y @ w["ffn_gate"].T
    x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
  # MaxText 0.2.5 rounds the embedding that it uses for logits, whatever its dtype.
  rounded = tensors["token_embd"].astype(jnp.bfloat16).astype(np.float64)
  return _norm(x, tensors["output_norm"]) @ tensors.get("output", rounded).T


@pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.broad), False])
def test_logits_are_those_of_the_file(tmp_path, tied):
  tensors = random_tensors(tied=tied)
  gguf = write_gguf(tmp_path / "tiny.gguf", tensors)
  tokens = np.random.default_rng(1).integers(len(TOKENS), size=12)
  wanted = _llama(tensors, tokens)
  for scan_layers in (True, False):
    folder = _import(gguf, tmp_path / f"scan_{scan_layers}", scan_layers=scan_layers)
    with running.maxtext_process(registered=False):
      found = _Stock(folder, 16)(tokens)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_the_command_says_what_it_wrote_and_maxtext_reads_its_tokenizer(
  tmp_path, monkeypatch, capsys
):
  write_gguf(tmp_path / "tiny.gguf", random_tensors(tied=True))
  monkeypatch.chdir(tmp_path)
  with running.maxtext_process():
    assert main(["import-gguf", "tiny.gguf", "out", "scan_layers=false"]) == 0
  printed = capsys.readouterr().out
  assert "load_parameters_path=out/0/items" in printed
  assert f"{len(TOKENS)} tokens: tokenizer_path=out/tokenizer" in printed
  assert "config of the model: out/model.yml" in printed
  with running.maxtext_process(registered=False):
    from maxtext.input_pipeline import tokenizer

    config = running.from_yaml(tmp_path / "out" / "model.yml", skip_jax_distributed_system=True)
    kind = config.tokenizer_type.value
    read = tokenizer.build_tokenizer(config.tokenizer_path, kind, False, False, "")
  assert [TOKENS[index] for index in read.encode(" the 12")] == ["Ġthe", "Ġ", "1", "2"]
  assert (read.bos_id, read.eos_id) == (1, 0)


# -- The real model --------------------------------------------------------------------------------


@pytest.fixture(name="smollm2", scope="module")
def _smollm2(tmp_path_factory):
  if not os.path.isfile(_SMOLLM2):
    pytest.skip("MELODI_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf")
  if not _REFERENCE.is_file():
    pytest.skip(f"there are no reference logits {_REFERENCE}")
  return _import(pathlib.Path(_SMOLLM2), tmp_path_factory.mktemp("smollm2") / "import")


@pytest.mark.slow
def test_smollm2_has_the_logits_of_transformers(smollm2):
  import transformers

  with np.load(_REFERENCE) as reference:
    tokens, wanted = reference["tokens"], reference["logits"]
  with running.maxtext_process(registered=False):
    model = _Stock(smollm2, 32)
    np.testing.assert_allclose(model.exact(tokens), wanted, rtol=0, atol=2e-3)
    np.testing.assert_allclose(model(tokens), wanted, rtol=0, atol=0.15)  # bfloat16 embedding
    continued = list(tokens)
    for _ in range(20):
      continued.append(model(continued)[-1].argmax())
  tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2 / "tokenizer")
  text = "The history of all hitherto existing society is"
  assert tokenizer.encode(text) == tokens.tolist()
  assert tokenizer.decode(continued[len(tokens) :]) == (
    " the history of humanity.\n\nThe first human beings were created by God.\n\nThe universe"
  )


@pytest.mark.slow
def test_smollm2_with_a_head_of_its_own_has_them_in_stock_maxtext(smollm2, tmp_path):
  del smollm2  # the file and the reference are there
  folder = _import(pathlib.Path(_SMOLLM2), tmp_path / "own_head", own_head=True)
  with np.load(_REFERENCE) as reference, running.maxtext_process(registered=False):
    found = _Stock(folder, 32)(reference["tokens"])
    np.testing.assert_allclose(found, reference["logits"], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_smollm2_with_memory_starts_without_harm(smollm2):
  import transformers

  window, windows = 128, 8
  tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2 / "tokenizer")
  text = (_ROOT / "docs" / "results.md").read_text()
  tokens = np.asarray(tokenizer.encode(text)[: window * windows + 1], np.int32)
  inputs, targets = tokens[None, :-1], tokens[1:]
  positions = np.arange(window * windows, dtype=np.int32)[None]
  alone = inputs.reshape(windows, window), positions[:, :window].repeat(windows, 0)
  with running.maxtext_process():
    stock = stock_model.build(_config(smollm2, max_target_length=window))
    _copy_import(smollm2, stock)
    wanted, _ = _read(stock, *alone)
    memory = {
      "melodi_base_block": "llama2",
      "melodi_window_length": window,
      "melodi_summary_tokens": 16,
      "melodi_long_term_increment": 16,
      "melodi_long_term_windows": 4,
    }
    sizes = {"max_target_length": window * windows}
    grafted = stock_model.build(_config(smollm2, **sizes, **memory))
    _copy_import(smollm2, grafted)
    found, _ = _read(grafted, inputs, positions)
    off = {"melodi_memory_offset": "-inf", "melodi_memory_gate": "inf"}
    hidden = stock_model.build(_config(smollm2, **sizes, **memory, **off))
    _copy_import(smollm2, hidden)
    unread, _ = _read(hidden, inputs, positions)

  def perplexity(logits):
    later = np.asarray(jax.nn.log_softmax(logits.reshape(-1, logits.shape[-1])))[window:]
    return np.exp(-later[np.arange(len(later)), targets[window:]].mean())

  np.testing.assert_allclose(found[0, :window], wanted[0], rtol=0, atol=1e-3)
  np.testing.assert_allclose(unread.reshape(wanted.shape), wanted, rtol=0, atol=1e-3)
  assert perplexity(found) < 1.01 * perplexity(wanted)


@pytest.mark.slow
def test_smollm2_with_memory_writes_what_evaluate_says(smollm2):
  """Six windows of real text, with offsets and gates at 0 so that memory speaks."""
  import transformers

  window, length = 64, 6 * 64
  tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2 / "tokenizer")
  text = (_ROOT / "docs" / "results.md").read_text()
  tokens = np.asarray(tokenizer.encode(text)[: length + 1], np.int32)
  memory = {
    "melodi_base_block": "llama2",
    "melodi_window_length": window,
    "melodi_summary_tokens": 8,
    "melodi_long_term_increment": 8,
    "melodi_long_term_windows": 3,
    "melodi_memory_offset": 0.0,
    "melodi_memory_gate": 0.0,
  }
  with running.maxtext_process():
    config = _config(smollm2, max_target_length=length, **memory)
    model = stock_model.build(config)
    _copy_import(smollm2, model)
    read, places = stock_model.reader(model), np.arange(length, dtype=np.int32)[None]
    wanted, alone = (
      np.asarray(jax.nn.log_softmax(read(nnx.state(model), tokens[None, :-1], at, ids)[0][0]))
      for at, ids in ((places, np.ones_like(places)), (places % window, 1 + places // window))
    )
    loaded = loading.Loaded(*nnx.split(model, nnx.Param, nnx.BatchStat, ...))
    engine = Engine(PreparedModel(config, loaded, model.mesh), 2, scores=True)
    score, step = window + 30, 4 * window + 11  # where `score` begins, and where steps do
    engine.read({1: tokens[:9]})
    engine.read({0: tokens[:score]})
    scores = engine.score({0: tokens[score:step]}, {0: tokens[score + 1 : step + 1]})
    drawn = [engine.generate({0: int(token)})[0] for token in tokens[step:-1]]

  spoken = np.abs(wanted - alone)[window:].max(axis=1)
  assert (spoken > 0.1).mean() > 0.9  # by memory; not to the first token of a window
  own = np.take_along_axis(wanted, tokens[1:, None], axis=1)[score:step, 0]
  np.testing.assert_allclose(scores.logprobs[0, : step - score], own, rtol=0, atol=1e-4)
  for place, found in enumerate(drawn, step):
    assert found.token == wanted[place].argmax()
    np.testing.assert_allclose(found.top_logprobs, wanted[place, found.top_ids], rtol=0, atol=1e-4)


def _copy_import(folder: pathlib.Path, model: nnx.Module) -> None:
  stored = weights.stored_shapes(str(folder / "0" / "items"))
  own = stock_model.params_of(model)
  for name, array in weights.read_arrays(str(folder / "0" / "items"), list(stored)).items():
    own[name][...] = jnp.asarray(array)


def _read(model: nnx.Module, tokens, positions):
  logits, state = stock_model.reader(model)(
    nnx.state(model), *map(jnp.asarray, (tokens, positions, np.ones_like(tokens)))
  )
  return np.asarray(logits), state


@pytest.mark.slow
def test_smollm2_yaml_is_what_the_import_writes(smollm2):
  def keys(path):
    lines = path.read_text().splitlines()
    return [line for line in lines if not line.startswith(("#", "tokenizer_path:"))]

  assert keys(_ROOT / "configs" / "yaml" / "smollm2_135m.yml") == keys(smollm2 / "model.yml")
