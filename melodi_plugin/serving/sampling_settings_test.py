"""Bounds of the settings, and what MaxText's keys become."""

import types

import pytest

from melodi_plugin.serving.sampling_settings import SamplingSettings


@pytest.mark.parametrize(
  "values, sentence",
  [
    (dict(temperature=-1), "temperature=-1 is refused: it should be greater than or equal to 0."),
    (dict(temperature=float("nan")), "temperature=nan is refused: it should be a finite number."),
    (dict(top_k=-1), "top_k=-1 is refused: it should be greater than or equal to 0."),
    (dict(top_p=1.5), "top_p=1.5 is refused: it should be less than or equal to 1."),
    (dict(min_p=2), "min_p=2 is refused: it should be less than or equal to 1."),
    (dict(presence_penalty=3), "presence_penalty=3 is refused"),
    (dict(frequency_penalty=-3), "frequency_penalty=-3 is refused"),
    (dict(logit_bias={-1: 0}), "logit_bias.-1=-1 is refused"),
    (dict(logit_bias={"7": 101}), "logit_bias.7=101 is refused"),
    (dict(logit_bias={"the": 1}), "logit_bias.the='the' is refused: it should be a valid integer"),
    (dict(logit_bias=dict.fromkeys(range(301), 1)), "at most 300 items"),
    (dict(seed=2**63), "seed=9223372036854775808 is refused"),
    (dict(top_q=1), "top_q=1 is refused: extra inputs are not permitted."),
  ],
)
def test_value_out_of_bounds_is_one_sentence(values, sentence):
  with pytest.raises(ValueError) as error:
    SamplingSettings(**values)
  assert sentence in str(error.value)
  assert "\n" not in str(error.value)


def test_ids_that_are_text_in_json_are_numbers():
  assert SamplingSettings(logit_bias={"7": -100}).logit_bias == {7: -100.0}


def test_seed_that_nobody_gave_is_another_one_every_time():
  assert len({SamplingSettings().seed for _ in range(8)}) > 1


def maxtext(strategy, temperature=0.5, top_k=0, top_p=-1.0):
  return types.SimpleNamespace(
    decode_sampling_strategy=strategy,
    decode_sampling_temperature=temperature,
    decode_sampling_top_k=top_k,
    decode_sampling_nucleus_p=top_p,
  )


@pytest.mark.parametrize(
  "config, values",
  [
    (maxtext("greedy", top_k=5, top_p=0.5), dict(temperature=0)),
    (maxtext("weighted", top_k=5, top_p=0.5), dict(temperature=0.5, temperature_last=True)),
    (
      maxtext("nucleus", top_k=5, top_p=0.9),
      dict(temperature=0.5, top_p=0.9, temperature_last=True),
    ),
    (
      maxtext("topk", top_k=5, top_p=0.9),
      dict(temperature=0.5, top_k=5, temperature_last=True),
    ),
    (
      maxtext("composite", top_k=5, top_p=0.9),
      dict(temperature=0.5, top_k=5, top_p=0.9, temperature_last=True),
    ),
  ],
  ids=["greedy", "weighted", "nucleus", "topk", "composite"],
)
def test_keys_of_maxtext(config, values):
  assert SamplingSettings.from_maxtext(config, seed=3) == SamplingSettings(**values, seed=3)


@pytest.mark.parametrize(
  "config, sentence",
  [
    (maxtext("topk"), "decode_sampling_top_k tokens, which is 0; set it to 1 or more."),
    (maxtext("composite", top_p=0.9), "decode_sampling_top_k tokens, which is 0"),
    (maxtext("composite", top_k=2), "decode_sampling_nucleus_p together, which is -1.0; set it"),
    (maxtext("nucleus", top_p=1.5), "decode_sampling_nucleus_p together, which is 1.5"),
    (maxtext("weighted", temperature=-1), "temperature=-1 is refused"),
  ],
)
def test_keys_of_maxtext_that_say_nothing_are_refused(config, sentence):
  with pytest.raises(ValueError, match=sentence):
    SamplingSettings.from_maxtext(config)
