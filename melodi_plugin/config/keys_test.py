"""The keys: their forms, their defaults, and what they refuse."""

import re

import pytest
from pydantic import ValidationError

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.settings import parse_strings
from melodi_plugin.testing.tiny import from_keys


def test_every_key_has_our_prefix_a_default_and_a_sentence():
  for name, field in MelodiKeys.model_fields.items():
    assert name.startswith("melodi_")
    assert not field.is_required(), name
    assert re.fullmatch(r"\S.{15,}[^.]\.", field.description or "", re.DOTALL), name


def test_keys_reach_the_config_under_their_names():
  given = dict(
    window_length=24,
    summary_tokens=5,
    short_term_tokens=5,
    long_term_increment=3,
    long_term_windows=7,
    summary_branching=False,
    position="none",
    mask_empty_slots=True,
  )
  config = from_keys(
    melodi_long_term_layers=[1, 3],
    melodi_short_term_layers="0,2",
    **{f"melodi_{name}": value for name, value in given.items()},
  )
  assert config == MelodiConfig(
    num_layers=4,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    dropout_rate=0.25,
    num_kv_heads=2,
    long_term_layers=(1, 3),
    short_term_layers=(0, 2),
    **given,
  )


def test_defaults_are_the_references():
  config = from_keys()
  assert (config.window_length, config.summary_tokens, config.short_term_tokens) == (512, 64, 64)
  assert config.queue_tokens == 4096 == 128 * config.long_term_increment
  assert (config.long_term_layers, config.short_term_layers) == ((2,), (0, 1, 2, 3))
  assert config.summary_branching
  assert config.position == "t5"
  assert not config.mask_empty_slots


def test_keys_are_read_from_the_text_of_environment_variables():
  config = from_keys(
    melodi_window_length="24",
    melodi_summary_branching="false",
    melodi_mask_empty_slots="True",
    melodi_long_term_layers="1, 2",
    melodi_short_term_layers="0",
  )
  assert config.window_length == 24
  assert config.summary_branching is False
  assert config.mask_empty_slots is True
  assert (config.long_term_layers, config.short_term_layers) == ((1, 2), (0,))


@pytest.mark.parametrize("key", ["melodi_prepare_data", "melodi_probe", "melodi_stop"])
def test_nothing_after_the_equals_sign_means_none(key):
  assert getattr(MelodiKeys(**{key: None}), key) == ""


@pytest.mark.parametrize(
  ("written", "strings"),
  [
    ("", ()),
    ("User:", ("User:",)),
    ("[END]", ("[END]",)),
    ('["\\n\\n", "[END]"]', ("\n\n", "[END]")),
    (["\n", "é"], ("\n", "é")),
  ],
)
def test_stop_is_a_string_or_a_list_of_strings(written, strings):
  assert parse_strings("melodi_stop", MelodiKeys(melodi_stop=written).melodi_stop) == strings


@pytest.mark.parametrize("written", ['["a"', '["a", 1]', '["a", ""]', '["a"] b', '[""]'])
def test_what_only_begins_as_a_list_is_refused(written):
  with pytest.raises(ValueError, match=r"melodi_stop=.* is not a JSON list of strings"):
    parse_strings("melodi_stop", written)


def test_null_of_yaml_means_no_layer():
  assert from_keys(melodi_long_term_layers=None).long_term_layers == ()


@pytest.mark.parametrize(
  "key, value",
  [
    ("melodi_window_length", 0),
    ("melodi_summary_tokens", -1),
    ("melodi_short_term_tokens", -1),
    ("melodi_long_term_increment", -1),
    ("melodi_long_term_windows", -1),
    ("melodi_max_tokens", 0),
    ("melodi_slots", 0),
    ("melodi_position", "alibi"),
    ("melodi_memory_dtype", "float16"),
    ("melodi_schedule", "sideways"),
    ("melodi_long_term_layers", 1.5),
  ],
)
def test_impossible_value_is_refused_by_the_key(key, value):
  with pytest.raises(ValidationError, match=key):
    MelodiKeys(**{key: value})
