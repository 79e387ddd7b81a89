"""A tokenizer with a chat template, and conversations in files."""

import json
import pathlib
from collections.abc import Sequence

Conversation = Sequence[dict[str, str]]

TEMPLATE = (
  "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
  "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def write_chat_tokenizer(folder: pathlib.Path, template: str | None = TEMPLATE) -> pathlib.Path:
  """A Hugging Face tokenizer of 16 tokens: four special ones, a to j, a space, and the unknown."""
  # Slow to import, and only this needs them.
  from tokenizers import Tokenizer, models
  from transformers import PreTrainedTokenizerFast

  names = [*SPECIAL, *"abcdefghij ", "<unk>"]
  ids = {name: number for number, name in enumerate(names)}
  fast = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.BPE(vocab=ids, merges=[], unk_token="<unk>")),
    additional_special_tokens=list(SPECIAL),
    eos_token="<|end|>",
    clean_up_tokenization_spaces=False,
  )
  fast.chat_template = template
  fast.save_pretrained(folder)
  return folder


def conversation(*contents: str, system: str = "") -> list[dict[str, str]]:
  """Messages of a user and the assistant in turns, after those of the system if there are any."""
  turns = [
    {"role": ("user", "assistant")[number % 2], "content": content}
    for number, content in enumerate(contents)
  ]
  return [{"role": "system", "content": system}, *turns] if system else turns


def write_conversations(path: pathlib.Path, conversations: Sequence[Conversation]) -> pathlib.Path:
  """JSONL whose records are c0, c1, ... with their `messages`."""
  records = [{"id": f"c{i}", "messages": messages} for i, messages in enumerate(conversations)]
  path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
  return path
