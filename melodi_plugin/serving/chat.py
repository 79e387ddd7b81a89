"""A conversation becomes the tokens that a model was trained to read it as."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from melodi_plugin.data.tokenizer import Tokenizer

Message = Mapping[str, str]  # role ('system', 'user' or 'assistant') and content

_ANSWER = "Two."
_OPENING: list[Message] = [{"role": "user", "content": "One."}]
_TURN: list[Message] = [
  {"role": "assistant", "content": _ANSWER},
  {"role": "user", "content": "Three."},
]


class Chat:
  """Renders messages with a chat template, in the sandbox of transformers.

  A special token that is spelled out in a message becomes that token, as everywhere in chat
  templates.

  Attributes:
    extends: whether the text of a longer conversation begins with that of the shorter one and its
      answer, so that whoever has read those can go on with the new messages (`after_answer`).
    end_ids: the tokens that end an answer: EOS, and what the template puts behind an answer.
  """

  def __init__(self, tokenizer: Tokenizer, template: str | None = None):
    """Tries `template`, by default the tokenizer's own.

    Raises:
      ValueError: if there is none, or it cannot be rendered.
    """
    self._tokenizer = tokenizer.with_special_tokens
    self._hugging_face = tokenizer.kind == "huggingface"
    self._template = template or None
    own = self._hugging_face and self._tokenizer.library.tokenizer.chat_template
    if not (self._template or own):
      raise ValueError(
        f"Tokenizer {tokenizer.path} has no chat template; set chat_template or "
        "chat_template_path, or give a prompt instead of messages."
      )
    self.extends = self._extends()
    ends = self._tokenizer.encode(self._behind(_OPENING, _TURN))[:1] if self.extends else []
    special = {i for i in ends if not tokenizer.is_text(i)}
    self.end_ids = tuple(sorted({*tokenizer.eos_ids, *special}))

  def __call__(self, messages: Sequence[Message]) -> list[int]:
    """The ids of `messages` and of the begin of the answer; raises ValueError."""
    return self._tokenizer.encode(self._render(messages))

  def after_answer(self, messages: Sequence[Message], last: int | None = None) -> list[int]:
    """The ids between an answer, whatever came before it, and the next answer.

    Args:
      messages: the new ones.
      last: the id that ended the answer, which is not repeated.

    Raises:
      ValueError: if the template does not extend, or not with these messages.
    """
    ids = self._tokenizer.encode(self._behind(_OPENING, [_TURN[0], *messages]))
    return ids[1:] if last is not None and ids[:1] == [last] else ids

  def _render(self, messages: Sequence[Message]) -> str:
    plain = [dict(message) for message in messages]
    try:
      if self._hugging_face:
        return self._tokenizer.library.tokenizer.apply_chat_template(
          plain, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
      return _render(plain, self._template or "")
    except Exception as error:  # a template is code, of whoever made the tokenizer
      reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
      raise ValueError(
        f"The chat template cannot render these messages ({reason}); give it the roles that it "
        "knows, in its order, or set another chat_template."
      ) from error

  def _behind(self, before: Sequence[Message], turn: Sequence[Message]) -> str:
    """What the template puts behind the answer that `turn` begins with."""
    begin = self._render(before) + turn[0]["content"]
    whole = self._render([*before, *turn])
    if not whole.startswith(begin):
      raise ValueError(
        "The chat template writes earlier messages anew when others follow, so a session cannot "
        "go on with new messages alone; send the whole conversation."
      )
    return whole[len(begin) :]

  def _extends(self) -> bool:
    messages = _OPENING
    for _ in range(2):
      longer = [*messages, *_TURN]
      if not self._render(longer).startswith(self._render(messages) + _ANSWER):
        return False
      messages = longer
    return True


def chat_from(config: Any, tokenizer: Tokenizer) -> Chat:
  """The chat of MaxText's keys chat_template and chat_template_path, or of the tokenizer.

  Raises:
    ValueError: as `Chat`, or if the file is none.
  """
  return Chat(tokenizer, config.chat_template or _read_template(config.chat_template_path))


def _read_template(path: str) -> str | None:
  """The template in a file: Jinja, or JSON with the field chat_template."""
  if not path:
    return None
  try:
    text = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    return json.loads(text)["chat_template"] if path.endswith(".json") else text
  except OSError as error:
    raise ValueError(
      f"chat_template_path={path} cannot be read ({error.strerror}); name a Jinja file, or JSON "
      "with the field chat_template."
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"chat_template_path={path} holds no chat template; name a Jinja file, or JSON with the "
      "field chat_template."
    ) from error


def _render(messages: list[dict[str, str]], template: str) -> str:
  """As a Hugging Face tokenizer would; one that is not has no names of special tokens."""
  from transformers.utils.chat_template_utils import render_jinja_template  # slow to import

  (text,), _ = render_jinja_template(
    [messages], chat_template=template, add_generation_prompt=True, bos_token="", eos_token=""
  )
  return text
