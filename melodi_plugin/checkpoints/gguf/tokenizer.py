"""The byte-level BPE tokenizer inside a GGUF file, as a Hugging Face fast tokenizer."""

import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from melodi_plugin.checkpoints.gguf.header import Header

# What cuts text into the pieces that BPE works on, by `tokenizer.ggml.pre`.  The byte level has
# GPT-2's regular expression inside.
_DIGITS = {"gpt-2": False, "smollm": True}
_CONTROL, _USER_DEFINED = 3, 4  # `tokenizer.ggml.token_type`
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def build(header: Header) -> transformers.PreTrainedTokenizerFast:
  """The tokenizer that the keys `tokenizer.*` of a GGUF file describe.

  Control tokens become special tokens.  It puts no token before or after a text: MaxText's keys
  add_bos and add_eos do.

  Args:
    header: keys and values of the file; those of `tokenizer.ggml.model` gpt2.

  Raises:
    ValueError: for a tokenizer of another kind, or a broken one.
  """
  kind, pieces = header.get("tokenizer.ggml.model"), header.get("tokenizer.ggml.pre")
  if kind != "gpt2" or pieces not in _DIGITS:
    raise ValueError(
      f"its tokenizer is of the kind {kind} with the pre-tokenizer {pieces}, and only gpt2 with "
      f"{' or '.join(_DIGITS)} can be converted; use a file of a model with one of these."
    )
  tokens = header.strings("tokenizer.ggml.tokens")
  vocabulary = {token: index for index, token in enumerate(tokens)}
  if len(vocabulary) < len(tokens):
    raise ValueError("its tokenizer has two tokens with the same text; the file is broken.")
  bpe = _bpe(vocabulary, header.strings("tokenizer.ggml.merges"))
  tokenizer = tokenizers.Tokenizer(bpe)
  # Added tokens that are in the vocabulary keep their ids.
  types = header["tokenizer.ggml.token_type"]
  if not isinstance(types, list) or len(types) != len(tokens):
    raise ValueError(
      f"tokenizer.ggml.token_type is not a list of {len(tokens):,} types; the file is broken."
    )
  for token, type_ in zip(tokens, types, strict=True):
    if type_ == _CONTROL:
      tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    elif type_ == _USER_DEFINED:
      tokenizer.add_tokens([AddedToken(token, normalized=False)])
  byte_level = pre_tokenizers.ByteLevel(
    add_prefix_space=bool(header.get("tokenizer.ggml.add_space_prefix", False)), use_regex=True
  )
  digits = [pre_tokenizers.Digits(individual_digits=True)] if _DIGITS[pieces] else []
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
  tokenizer.decoder = decoders.ByteLevel()
  special = {}
  for name, key in _SPECIAL.items():
    index = header.get(f"tokenizer.ggml.{key}_token_id")
    if index is None:
      continue
    if type(index) is not int or not 0 <= index < len(tokens):
      raise ValueError(
        f"tokenizer.ggml.{key}_token_id is {index} and there are {len(tokens):,} tokens; the file "
        "is broken."
      )
    special[f"{name}_token"] = tokens[index]
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    chat_template=header.get("tokenizer.chat_template"),
    clean_up_tokenization_spaces=False,
    **special,
  )


def _bpe(vocabulary: dict[str, int], merges: list[str]) -> models.BPE:
  pairs = []
  for merge in merges:
    left, _, right = merge.partition(" ")
    if not {left, right, left + right} <= vocabulary.keys():
      raise ValueError(
        f"the merge {merge!r} of its tokenizer is not one of two tokens into a third; the file is "
        "broken."
      )
    pairs.append((left, right))
  return models.BPE(vocab=vocabulary, merges=pairs)
