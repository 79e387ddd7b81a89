"""A conversation becomes the tokens that a model was trained to read it as.

`Chat` renders the messages of a client; `Conversations` does so for documents that are
conversations, and says which of their tokens are answers.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from melodi_plugin.data.spans import encode_with_spans, tokens_of
from melodi_plugin.data.tokenizer import Tokenizer

Message = Mapping[str, str]  # role ('system', 'user' or 'assistant') and content

_ANSWER = "Two."
_OPENING: list[Message] = [{"role": "user", "content": "One."}]
_TURN: list[Message] = [
  {"role": "assistant", "content": _ANSWER},
  {"role": "user", "content": "Three."},
]


class CannotRender(ValueError):  # noqa: N818 - it is the conversation that does not fit
  """A conversation that the chat template cannot render; its message is one sentence."""


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
        "chat_template_path, or give text instead of messages."
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

  def with_answers(self, messages: Sequence[Message]) -> tuple[list[int], np.ndarray]:
    """The ids of a whole conversation, and which of them are answers, bool [N].

    They are what a model has to write: all that the template puts behind the prompt for an answer,
    up to the token that ends it, with that one.  A token that holds the end of the prompt and the
    begin of an answer counts.

    Raises:
      CannotRender: if the template cannot render it, or its answers are not to be found.
    """
    text = self._render(messages, ask=False)
    ids, spans = encode_with_spans(self._tokenizer, text)
    ends = np.isin(ids, self.end_ids)
    answers = np.zeros(len(ids), bool)
    for number, message in enumerate(messages):
      if message["role"] == "assistant":
        answers[self._answer(messages[: number + 1], text, spans, ends)] = True
    return ids, answers

  def _answer(
    self, messages: Sequence[Message], text: str, spans: np.ndarray, ends: np.ndarray
  ) -> np.ndarray:
    """Which tokens of `text` are the last one of `messages`; `ends` tells those that can end it."""
    prompt, whole = self._render(messages[:-1]), self._render(messages, ask=False)
    begin, said = len(prompt), messages[-1]["content"].strip()
    if text.startswith(whole) and whole.startswith(prompt):
      own = tokens_of(spans, begin, len(whole))
      ending = own[ends[own]]
      return own[own <= ending[-1]] if len(ending) else own
    # Some templates write less of an answer once others follow, as Qwen3's, without thoughts.
    behind = text[begin:].lstrip()
    if not (text.startswith(prompt) and said and behind.startswith(said)):
      raise CannotRender(
        "The chat template writes earlier messages anew when others follow, so it cannot be told "
        "which tokens are answers; set another chat_template."
      )
    own = tokens_of(spans, begin, len(text) - len(behind) + len(said))
    after = own[-1] + 1
    return np.append(own, after) if after < len(ends) and ends[after] else own

  def fingerprint(self) -> str:
    """Digest of what it makes of messages."""
    own = self._template or self._tokenizer.library.tokenizer.chat_template
    content = f"{self._tokenizer.fingerprint()}\0{json.dumps(own, sort_keys=True)}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

  def _render(self, messages: Sequence[Message], *, ask: bool = True) -> str:
    """The text of messages, with the begin of the next answer if it is to `ask` for one."""
    plain = [dict(message) for message in messages]
    try:
      if self._hugging_face:
        return self._tokenizer.library.tokenizer.apply_chat_template(
          plain, chat_template=self._template, tokenize=False, add_generation_prompt=ask
        )
      return _render(plain, self._template or "", ask)
    except Exception as error:  # a template is code, of whoever made the tokenizer
      reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
      raise CannotRender(
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


class Conversations:
  """Documents that are conversations, as JSON of their messages, to token ids, int32.

  What begins and ends a text is the template's, so add_bos and add_eos say nothing here.

  Attributes:
    special_in_text: a special token that is spelled out in a message is that token, as in `Chat`.
  """

  special_in_text = True

  def __init__(self, chat: Chat, tokenizer: Tokenizer, *, answers_only: bool):
    """Renders with `chat`; `answers_only` if no other tokens are to be learned."""
    self._chat = chat
    self._tokenizer = tokenizer
    self._answers_only = answers_only

  def __call__(self, text: str) -> np.ndarray:
    """Ids of a conversation; raises ValueError as `with_scored`."""
    return self.with_scored(text)[0]

  def with_scored(self, text: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids of a conversation, and which of them are to be predicted, bool [N]; None for all.

    Raises:
      CannotRender: if the template cannot render it so that its answers can be told apart.
      ValueError: if an id does not fit vocab_size.
    """
    ids, answers = self._chat.with_answers(json.loads(text))
    if not answers[1:].any():
      raise CannotRender("The tokenizer makes no token of the answers; give them text.")
    return self._tokenizer.checked(ids), answers if self._answers_only else None

  def scored_text(self, text: str) -> str:
    """What of a conversation is to be predicted: its answers, or all messages, one a line."""
    messages = json.loads(text)
    return "\n".join(
      message["content"]
      for message in messages
      if message["role"] == "assistant" or not self._answers_only
    )

  def fingerprint(self) -> str:
    """Digest of what it makes of a conversation."""
    return f"{self._chat.fingerprint()}{', answers' if self._answers_only else ''}"


def chat_from(config: Any, tokenizer: Tokenizer) -> Chat:
  """The chat of MaxText's keys chat_template and chat_template_path, or of the tokenizer.

  Raises:
    ValueError: as `Chat`, or if the file is none.
  """
  return Chat(tokenizer, config.chat_template or _read_template(config.chat_template_path))


def tokenizer_of(config: Any, *, answers_only: bool | None = None) -> Tokenizer | Conversations:
  """What makes tokens of a document of `config`: of its text, or of its messages with `use_sft`.

  Args:
    config: MaxText's.
    answers_only: whether other tokens of a conversation are not to be predicted; by default as
      `sft_train_on_completion_only` says.

  Raises:
    ValueError: if the tokenizer does not fit, or there is no chat template.
  """
  tokenizer = Tokenizer(config)
  if not config.use_sft:
    tokenizer("A tokenizer that does not fit has to fail before training starts.")
    return tokenizer
  only = config.sft_train_on_completion_only if answers_only is None else answers_only
  read = Conversations(chat_from(config, tokenizer), tokenizer, answers_only=only)
  read(json.dumps([*_OPENING, _TURN[0]]))  # and so has a template
  return read


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


def _render(messages: list[dict[str, str]], template: str, ask: bool) -> str:
  """As a Hugging Face tokenizer would; one that is not has no names of special tokens."""
  from transformers.utils.chat_template_utils import render_jinja_template  # slow to import

  (text,), _ = render_jinja_template(
    [messages], chat_template=template, add_generation_prompt=ask, bos_token="", eos_token=""
  )
  return text
