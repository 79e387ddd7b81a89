"""`melodi sizes` and MaxText's TFLOP/s, against models that MaxText makes."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from integration_tests import running
from melodi_plugin.cli.main import main
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import is_melodi
from melodi_plugin.cost.flops import model_work
from melodi_plugin.cost.sizes import Sizes, closed_form
from melodi_plugin.maxtext.light import read_light
from melodi_plugin.testing.products import counted

STOCK = dict(decoder_block="llama2", base_num_kv_heads=1, head_dim=32, vocab_size=96)
AROUND = running.MELODI | STOCK | dict(melodi_base_block="llama2")
CASES = {
  "melodi": running.MELODI,
  "untied": running.MELODI | dict(logits_via_embedding=False),
  "tied": running.MELODI | dict(logits_via_embedding=True),
  "transformer_xl": dict(decoder_block="transformer_xl", melodi_window_length=16),
  "memorizing_transformer": dict(
    decoder_block="memorizing_transformer", melodi_window_length=16, melodi_long_term_windows=4
  ),
  "block_recurrent": dict(
    decoder_block="block_recurrent", melodi_window_length=16, melodi_recurrent_states=8
  ),
  "llama2": STOCK,
  "memory around llama2": AROUND,
  "a cache around llama2": AROUND
  | dict(melodi_cache_tokens=20, melodi_sink_tokens=4, melodi_long_term_pairs=True),
}


@pytest.fixture(autouse=True)
def _registered():
  with running.maxtext_process():
    yield


def sizes(config) -> Sizes:
  from melodi_plugin.maxtext.sizes import sizes as by_maxtext  # after registration

  return by_maxtext(config)


def model_of(config):
  """Shapes only."""
  from maxtext.utils import maxtext_utils, model_creation_utils

  mesh = maxtext_utils.get_mesh_from_config(config, jax.devices()[:1])
  return model_creation_utils.create_nnx_abstract_model(config, mesh)[1]


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_those_of_the_model(name):
  config = running.initialize(**CASES[name])
  found = sizes(config)
  leaves = jax.tree.leaves(nnx.state(model_of(config), nnx.Param))
  assert found.parameters == sum(math.prod(leaf.shape) for leaf in leaves)
  tables = 1 if config.logits_via_embedding else 2
  assert found.embedding_parameters == tables * config.vocab_size * config.emb_dim
  assert found.memory_all == found.memory_short + found.memory_long
  assert (found.memory_all > 0) == (found.memory_bytes > 0) == (name != "llama2")
  assert found.training_flops_per_step == found.training_flops_per_token * found.tokens_per_step


@pytest.mark.parametrize("name", ["melodi", "transformer_xl", "memorizing_transformer"])
def test_maxtext_reports_our_flops(name, capsys):
  from maxtext.common import metric_logger

  rows = dict(per_device_batch_size=2, gradient_accumulation_steps=3)
  config = running.initialize(**CASES[name] | rows)
  work = model_work(MelodiConfig.from_maxtext(config), 64, config.vocab_size)
  total, weights, attention = metric_logger.maxtext_utils.calculate_tflops_training_per_device(
    config
  )
  assert total * 1e12 == pytest.approx(6 * work.all.training)
  assert weights * 1e12 == pytest.approx(6 * work.weights.training)
  assert attention * 1e12 == pytest.approx(6 * work.attention.training)
  assert "Total TFLOPs" in capsys.readouterr().out
  assert sizes(config).training_flops_per_token * 64 == pytest.approx(work.all.training)


@pytest.mark.parametrize("name", ["melodi", "memory around llama2", "a cache around llama2"])
def test_forward_products_of_the_whole_model_are_those_of_the_traced_program(name):
  config = running.initialize(**CASES[name], scan_layers=False)
  graphdef, state = nnx.split(model_of(config))
  tokens = jnp.ones((8, 64), jnp.int32)
  positions = jnp.broadcast_to(jnp.arange(64, dtype=jnp.int32), (8, 64))

  def forward(state, tokens, positions):
    model = nnx.merge(graphdef, state)
    return model(tokens, positions, jnp.ones_like(tokens), enable_dropout=False), nnx.state(model)

  found = counted(forward, (state, tokens, positions)) / 8
  ours = sizes(config).training_flops_per_token * 64 / 3
  assert ours == pytest.approx(found, rel=0.02)


def test_microbatches_around_a_stock_block_are_counted():
  from maxtext.common import metric_logger

  count = metric_logger.maxtext_utils.calculate_tflops_training_per_device
  one, two = (
    count(running.initialize(**CASES["memory around llama2"], gradient_accumulation_steps=number))
    for number in (1, 2)
  )
  assert two == pytest.approx(tuple(2 * part for part in one))


def test_teacher_of_a_distillation_is_one_more_forward_pass_of_the_stock_model():
  from maxtext.common import metric_logger

  flops = metric_logger.maxtext_utils.calculate_tflops_training_per_device

  def count(**keys):
    config = running.initialize(**CASES["memory around llama2"] | keys)
    return sizes(config).training_flops_per_token

  stock = flops(running.initialize(**STOCK))[0] * 1e12 / 64
  assert count(melodi_distill_weight=1.0) - count() == pytest.approx(stock / 3)


# -- Without MaxText -------------------------------------------------------------------------------

ROOT = pathlib.Path(__file__).parents[1] / "configs" / "yaml"
SHIPPED = sorted(
  str(path.relative_to(ROOT)) for path in ROOT.rglob("*.yml") if path.parent.name != "shared"
)
ONLY_MAXTEXT = {"melodi_gemma3_12b.yml"}


def agree(path: str, *keys: str) -> None:
  """What is read and counted without MaxText is what MaxText reads and counts."""
  keys = ("skip_jax_distributed_system=true", "dataset_type=synthetic", *keys)
  light = read_light([path, *keys])
  config = running.initialize_only(path, *keys)
  if is_melodi(config):
    assert MelodiConfig.from_maxtext(light) == MelodiConfig.from_maxtext(config)
  ours, maxtexts = closed_form(light), sizes(config)
  for field, one, other in zip(Sizes._fields, ours, maxtexts, strict=True):
    assert one == pytest.approx(other, rel=1e-12 if "flops" in field else 0), field


# One of ours, a stock model, memory around one whose sizes a model_name sets.
@pytest.mark.parametrize(
  "name", ["melodi_shakespeare_cpu.yml", "smollm2_135m.yml", "melodi_qwen3_8b.yml"]
)
def test_sizes_without_maxtext_are_maxtexts(name):
  agree(str(ROOT / name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*SHIPPED} - ONLY_MAXTEXT))
def test_sizes_without_maxtext_are_maxtexts_for_every_file(name):
  agree(str(ROOT / name))


def test_files_that_need_maxtext_are_known():
  unread = {n for n in SHIPPED if read_light([str(ROOT / n), "dataset_type=synthetic"]) is None}
  assert unread == ONLY_MAXTEXT


def test_sizes_of_a_changed_config_without_maxtext_are_maxtexts():
  agree(
    str(ROOT / "small" / "memorizing.yml"),
    "logits_via_embedding=false",
    "max_target_length=512",
    "per_device_batch_size=3",
    "dtype=bfloat16",
    "melodi_memory_dtype=bfloat16",
  )
  agree(str(ROOT / "melodi_smollm2_135m.yml"), "melodi_distill_weight=1")


# -- The command -----------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path):
  gemma = STOCK | dict(decoder_block="gemma", base_num_kv_heads=2)
  cases = {"ours": running.MELODI, "stock": STOCK, "other": gemma}
  return [
    str(running.write_yaml(tmp_path / f"{name}.yml", **running.TINY | keys))
    for name, keys in cases.items()
  ]


def test_json_is_all_that_is_on_standard_output(paths, capsys):
  assert main(["sizes", *paths, "--json", "melodi_long_term_windows=8"]) == 0
  said = capsys.readouterr()
  ours, stock, other = json.loads(said.out)
  assert (ours["name"], stock["name"], other["name"]) == ("ours", "stock", "other")
  assert ours.keys() == stock.keys() == {"name", "printed_perplexity", *Sizes._fields}
  assert ours["memory_long"] == 2 * 8 * 2 * 32  # keys and values of Q windows of L tokens
  assert stock["memory_all"] == 0 and stock["parameters"] > 0
  # A block that has no closed form is MaxText's to count, and that takes a while.
  assert other["parameters"] > 0
  assert [line for line in said.err.splitlines() if "needs MaxText" in line] == [
    f"{paths[2]} needs MaxText to be read, which takes about 15 seconds"
  ]


def test_few_configs_stand_side_by_side_and_more_have_a_line_each(tmp_path, capsys):
  keys = running.TINY | running.MELODI
  paths = [str(running.write_yaml(tmp_path / f"{name}.yml", **keys)) for name in "abcde"]
  main(["sizes", *paths[:4]])
  lines = capsys.readouterr().out.splitlines()
  assert [cell.strip() for cell in lines[0].split("|")] == ["", "", "a", "b", "c", "d", ""]
  assert lines[2].split() == ["|", "parameters", *["|", "30,472"] * 4, "|"]
  main(["sizes", *paths])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 + 5 and all("30,472" in line for line in lines[2:])


@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (["melodi_window_length=17"], "17"),
    (["no_such_key=1"], "no_such_key is not a key of MaxText"),
    (["melodi_window_lenght=8"], "did you mean melodi_window_length?"),
  ],
)
def test_error_is_one_sentence_and_status_2(paths, arguments, sentence, capsys):
  assert main(["sizes", *paths, *arguments]) == 2
  said = capsys.readouterr()
  assert said.out == "" and sentence in said.err.splitlines()[-1]


def test_the_command_imports_neither_jax_nor_maxtext(paths, tmp_path):
  script = (
    "import sys\n"
    "from melodi_plugin.cli.main import main\n"
    f"assert main(['sizes', {paths[0]!r}, {paths[1]!r}]) == 0\n"
    "assert not {'jax', 'maxtext', 'transformers', 'matplotlib'} & sys.modules.keys()\n"
  )
  code, log = running.command("-c", script, cwd=tmp_path)
  assert code == 0, log
