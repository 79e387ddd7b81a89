"""Around stock blocks, and in stock decoders without memory, what cannot work is refused."""

from types import SimpleNamespace

import pytest

from integration_tests import running
from integration_tests.refusal_cases import (
  AROUND,
  AROUND_CASES,
  LLAMA,
  STOCK_CASES,
  WINDOW_CASES,
  refusal,
)
from melodi_plugin.maxtext.decoders.stock_block import PARTS
from melodi_plugin.maxtext.decoders.stock_refusals import check_stock
from melodi_plugin.maxtext.refusals.blocks import NO_MEMORY, STOCK_BLOCKS


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@pytest.mark.parametrize(
  "settings, words", AROUND_CASES, ids=[",".join(settings) for settings, _ in AROUND_CASES]
)
def test_setting_is_refused_around_a_stock_block(settings, words):
  message = refusal(running.melodi_config, **(AROUND | settings))
  assert words in message
  assert message.startswith("decoder_block: melodi")
  assert "\n" not in message and message.endswith(".")
  assert "{" not in message and "Type." not in message


def test_what_the_papers_layers_cannot_have_is_not_refused_around_a_stock_block():
  running.melodi_config(**AROUND, base_num_query_heads=4, attn_logits_soft_cap=50.0)


@pytest.mark.parametrize(
  "block, why",
  [
    ("deepseek", "its attention keeps compressed latents (MLA), not keys and values of tokens"),
    ("gpt_oss", "its attention has sinks, which would have to be shared with memory"),
    ("lama2", "no test has shown that it can"),
  ],
)
def test_block_that_memory_cannot_go_around_is_refused_with_the_reason(block, why):
  message = refusal(running.melodi_config, melodi_base_block=block)
  assert (
    f"melodi_base_block={block}: memory cannot go around this block, because {why}; " in message
  )
  assert f"choose one of {', '.join(STOCK_BLOCKS)}, or 'paper'." in message


def test_every_block_without_memory_is_one_of_maxtext():
  from maxtext.common.common_types import DecoderBlockType

  blocks = {member.value for member in DecoderBlockType} - {running.MELODI["decoder_block"]}
  assert {*STOCK_BLOCKS, *NO_MEMORY} <= blocks


def test_a_block_that_can_be_built_is_not_refused():
  assert {*STOCK_BLOCKS} == PARTS.keys()


def test_other_system_does_not_go_around_a_stock_block():
  message = refusal(running.initialize, decoder_block="transformer_xl", melodi_base_block="llama2")
  assert "leave melodi_base_block at 'paper'" in message


def test_base_block_that_contradicts_decoder_block_is_refused():
  message = refusal(running.melodi_config, decoder_block="llama2", melodi_base_block="qwen3")
  assert (
    "melodi_base_block=qwen3 contradicts decoder_block=llama2, which model_name or your config "
    "sets; set melodi_base_block=llama2." in message
  )


def test_base_block_alone_is_enough():
  config = running.melodi_config(melodi_base_block="llama2")  # decoder_block is melodi here
  assert config.decoder_block.value == "llama2"


@pytest.mark.parametrize(
  "settings, words", STOCK_CASES, ids=[",".join(settings) for settings, _ in STOCK_CASES]
)
def test_setting_is_refused_for_a_stock_decoder_in_rows(settings, words):
  keys = LLAMA | {"melodi_documents_in_rows": True}
  message = refusal(running.initialize, **(keys | settings))
  assert message.startswith("decoder_block: llama2 cannot run: ") and words in message
  assert "\n" not in message and message.endswith(".") and "{" not in message
  running.initialize(**(keys | settings | {"melodi_documents_in_rows": False}))


@pytest.mark.parametrize(
  "settings, words", WINDOW_CASES, ids=[",".join(settings) for settings, _ in WINDOW_CASES]
)
def test_setting_is_refused_for_a_sliding_window(settings, words):
  message = refusal(running.initialize, **({"melodi_sliding_window": 8} | LLAMA | settings))
  assert message.startswith("decoder_block: llama2 cannot run: ") and words in message
  assert "\n" not in message and message.endswith(".") and "{" not in message


@pytest.mark.parametrize(
  "block, why",
  [
    ("deepseek", "compressed latents (MLA)"),
    ("qwen3_next", "most of its layers are gated delta nets"),
    ("gemma2", "some of them have a window of their own"),
    ("olmo3", "no test has shown that they can"),
  ],
)
def test_block_without_a_place_for_a_sliding_window_is_refused_with_the_reason(block, why):
  keys = {"decoder_block": block, "melodi_sliding_window": 8, "melodi_sink_tokens": 0}
  keys |= {"melodi_distill_weight": 0, "melodi_adapter": ""}
  keys |= {"melodi_documents_in_rows": False, "attention": "dot_product"}
  keys |= {"attention_type": "global", "context_parallel_load_balance": False}
  with pytest.raises(ValueError, match="set it to 0, or decoder_block to one of llama2") as error:
    check_stock(SimpleNamespace(**keys))
  assert why in str(error.value)
