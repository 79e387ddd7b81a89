"""The forms in which layers are named, the specs of layers and every error message."""

import re

import pytest

from melodi_plugin.config.layers import LayerSpec, Neighbors, Recurrence, Run
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.config.settings import parse_layers
from melodi_plugin.config.systems import BLOCK_RECURRENT, MEMORIZING, TRANSFORMER_XL
from melodi_plugin.conformance.stacks import small_config
from melodi_plugin.testing.tiny import from_keys, tiny_config

# -- Layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "value, layers",
  [
    (None, ()),
    ("", ()),
    ("none", ()),
    ("all", (0, 1, 2, 3, 4, 5, 6)),
    ("middle", (3,)),
    (6, (6,)),
    (0, (0,)),
    ("0", (0,)),
    ("6", (6,)),
    ("2,6", (2, 6)),
    (" 6 , 2 ", (2, 6)),
    ("[2, 6]", (2, 6)),
    ("(2, 6)", (2, 6)),
    ([6, 2, 6], (2, 6)),
    ((2, 6), (2, 6)),
    ([], ()),
  ],
)
def test_layers_are_read_from_every_form(value, layers):
  assert parse_layers("melodi_long_term_layers", value, 7) == layers


@pytest.mark.parametrize("num_layers, middle", [(1, 0), (2, 1), (12, 6), (13, 6)])
def test_middle_is_the_references_layer(num_layers, middle):
  assert parse_layers("melodi_long_term_layers", "middle", num_layers) == (middle,)


@pytest.mark.parametrize("value", ["upper", "2,", "2;6", "1.5", "2 6"])
def test_what_is_no_list_of_layers_is_named_with_its_key_and_the_forms(value):
  message = (
    f"melodi_short_term_layers={value!r} is not a list of layers; write 'all', 'middle', 'none', "
    "or numbers from 0 such as '2,6'."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    parse_layers("melodi_short_term_layers", value, 7)


@pytest.mark.parametrize("key", ["long_term_layers", "short_term_layers"])
@pytest.mark.parametrize("layer", [-1, 3])
def test_layer_outside_the_model_is_named(key, layer):
  message = f"melodi_{key} names layer {layer}, but the model has layers 0 to 2."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    tiny_config(**{key: (0, layer)})


# -- Specs and runs -------------------------------------------------------------------------------

SHORT = LayerSpec(4, 0, 0, mixes_summary=True, mixes_short=True, residual_short=True)
LONG = SHORT._replace(increment=2, queue_tokens=6)
BARE = LayerSpec(0, 0, 0, mixes_summary=False, mixes_short=False, residual_short=False)


@pytest.mark.parametrize(
  "changes, short, long",
  [
    ({}, SHORT, LONG),
    (
      dict(short_term_tokens=3),
      SHORT._replace(short_tokens=3, residual_short=False),
      LONG._replace(short_tokens=3, residual_short=False),
    ),
    # The reference's asymmetry: without short-term memory only a long-term layer mixes u.
    (dict(short_term_tokens=0), BARE, LayerSpec(0, 2, 6, True, False, False)),
    (dict(short_term_layers=()), BARE, LayerSpec(0, 2, 6, True, False, False)),
    (
      dict(summary_branching=False),
      LayerSpec(4, 0, 0, False, False, False),
      LayerSpec(4, 2, 6, False, False, False),
    ),
    (
      dict(summary_branching=False, short_term_tokens=0),
      BARE,
      LayerSpec(0, 2, 6, False, False, False),
    ),
    (
      dict(summary_tokens=0),
      LayerSpec(4, 0, 0, False, True, False),
      LayerSpec(4, 2, 6, False, True, False),
    ),
    (dict(long_term_increment=0), SHORT, SHORT),
    (dict(long_term_windows=0), SHORT, SHORT),
  ],
)
def test_spec_of_short_and_long_layers(changes, short, long):
  config = tiny_config(**changes)
  assert config.layer(0) == config.layer(2) == short
  assert config.layer(1) == long
  assert config.layers == (short, long, short)


def test_layers_keep_their_own_memories():
  config = tiny_config(long_term_layers=(0, 1), short_term_layers=(1, 2))
  assert config.layers == (LayerSpec(0, 2, 6, True, False, False), LONG, SHORT)


def test_runs_are_maximal():
  every = tuple(range(7))
  config = tiny_config(num_layers=7, long_term_layers=(0, 3, 4), short_term_layers=every)
  assert config.runs() == (
    Run(LONG, 0, 1),
    Run(SHORT, 1, 2),
    Run(LONG, 3, 2),
    Run(SHORT, 5, 2),
  )


def test_homogeneous_stack_is_one_run():
  config = tiny_config(num_layers=7, long_term_layers=(), short_term_layers=tuple(range(7)))
  assert config.runs() == (Run(SHORT, 0, 7),)


def test_every_layer_is_a_run_of_its_own_without_scan():
  config = tiny_config()
  assert config.runs(scan_layers=False) == (Run(SHORT, 0, 1), Run(LONG, 1, 1), Run(SHORT, 2, 1))


def test_derived_sizes():
  config = tiny_config()
  assert config.queue_tokens == 3 * 2
  assert config.mixer_inputs == 8 + 4


# -- Checks ---------------------------------------------------------------------------------------


def test_summary_tokens_handed_on_unmixed_must_fit_short_term_memory():
  message = (
    "melodi_summary_branching=false hands the 4 summary tokens on as short-term memory, so "
    "melodi_short_term_tokens must be 4 or 0, not 3."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    tiny_config(summary_branching=False, short_term_tokens=3)


def test_short_term_memory_cannot_come_from_no_summary_tokens():
  with pytest.raises(ValueError, match="must be 0"):
    tiny_config(summary_branching=False, summary_tokens=0)


@pytest.mark.parametrize(
  "changes",
  [
    dict(short_term_tokens=4),
    dict(short_term_tokens=0),
    dict(short_term_tokens=3, short_term_layers=()),
  ],
)
def test_sizes_that_fit_without_branching(changes):
  assert not tiny_config(summary_branching=False, **changes).layer(0).mixes_summary


def test_config_can_be_a_static_argument():
  assert hash(tiny_config()) == hash(tiny_config())
  assert tiny_config() == tiny_config() != tiny_config(window_length=4)
  with pytest.raises(AttributeError, match="cannot assign to field"):
    tiny_config().window_length = 4


# -- Around a stock block -------------------------------------------------------------------------


def test_around_a_stock_block_empty_slots_are_hidden_and_memory_has_no_residual():
  config = from_keys(melodi_base_block="llama2")
  assert config.mask_empty_slots
  assert config.layer(0).mixes_short
  assert not config.layer(0).residual_short
  assert from_keys().layer(0).residual_short


def test_stored_heads_count_every_attention_of_a_stock_layer():
  assert tiny_config().stored_heads == 2
  assert tiny_config(base_block="qwen3", num_kv_heads=1).stored_heads == 1
  assert from_keys(melodi_base_block="gemma2").stored_heads == 4


def test_memory_parameters_are_known_by_their_path():
  for path in ("decoder/memory_layers_0_to_2/gate", "decoder/summary_embeddings"):
    assert is_memory_parameter(path)
  for path in (
    "decoder/layers/mlp/wi_0/kernel",
    "decoder/memory_short",
    "token_embedder/embedding",
  ):
    assert not is_memory_parameter(path)


# -- Systems that MELODI is compared with ---------------------------------------------------------

SMALL = dict(num_layers=4, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, window_length=8)


def test_memorizing_layer_has_no_cache_where_it_attends_to_its_whole_queue():
  dense = MelodiConfig.baseline(MEMORIZING, memory_layers=(1,), queue_windows=4, **SMALL)
  assert [spec.short_tokens for spec in dense.layers] == [8, 0, 8, 8]
  assert [spec.queue_tokens for spec in dense.layers] == [0, 32, 0, 0]
  assert [spec.has_positions for spec in dense.layers] == [True, False, True, True]
  nearest = MelodiConfig.baseline(
    MEMORIZING, memory_layers=(1,), queue_windows=4, neighbors=Neighbors(4), **SMALL
  )
  assert [spec.short_tokens for spec in nearest.layers] == [8, 8, 8, 8]


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(queue_windows=0), "melodi_long_term_windows must be at least 1"),
    (dict(neighbors=Neighbors(3)), "melodi_neighbors=3 does not divide melodi_window_length=8"),
  ],
)
def test_impossible_memorizing_transformer_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    MelodiConfig.baseline(
      MEMORIZING, memory_layers=(1,), **{"queue_windows": 4, **SMALL, **changes}
    )


def test_cache_has_windows_length_unless_a_key_says_otherwise():
  usual = small_config(TRANSFORMER_XL, melodi_window_length=8)
  assert [usual.layer(0).cache_tokens, usual.layer(0).sink_tokens] == [8, 0]
  assert small_config(TRANSFORMER_XL, melodi_window_length=8, melodi_cache_tokens=8) == usual
  own = small_config(
    TRANSFORMER_XL, melodi_window_length=8, melodi_cache_tokens=12, melodi_sink_tokens=3
  )
  assert own.layers == (LayerSpec(15, mixed=False, sink_tokens=3, cache_tokens=12),) * 2
  assert own.layer(0).mixed_tokens == 0


def test_layer_around_a_stock_block_has_sinks_mixed_tokens_and_a_cache():
  keys = dict(melodi_cache_tokens=12, melodi_sink_tokens=3, melodi_short_term_tokens=5)
  spec = from_keys(melodi_base_block="llama2", melodi_short_term_layers="0", **keys).layer(0)
  assert (spec.short_tokens, spec.verbatim_tokens, spec.mixed_tokens) == (20, 15, 5)
  assert spec.mixes_short and spec.mixed
  without = from_keys(melodi_base_block="llama2", melodi_short_term_layers="1", **keys).layer(0)
  assert without.short_tokens == without.sink_tokens == without.cache_tokens == 0


def test_more_sinks_than_the_first_window_has_are_refused():
  with pytest.raises(ValueError, match="melodi_sink_tokens=9 are more than the melodi_window_len"):
    small_config(TRANSFORMER_XL, melodi_window_length=8, melodi_sink_tokens=9)
  with pytest.raises(ValueError, match="melodi_sink_tokens=9 are more than the melodi_window_len"):
    from_keys(melodi_base_block="llama2", melodi_window_length=8, melodi_sink_tokens=9)


def test_recurrent_layer_outside_the_model_is_named_with_its_own_key():
  with pytest.raises(ValueError, match="melodi_recurrent_layers names layer 9, but"):
    MelodiConfig.baseline(BLOCK_RECURRENT, memory_layers=(9,), states=4, **SMALL)


@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_feedback_needs_one_recurrent_layer(layers):
  with pytest.raises(ValueError, match="name one"):
    MelodiConfig.baseline(
      BLOCK_RECURRENT,
      memory_layers=layers,
      states=4,
      recurrence=Recurrence(feedback=True),
      **SMALL,
    )
