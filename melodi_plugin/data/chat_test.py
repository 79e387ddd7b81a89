"""Chat templates: which one, what they make of messages, where answers are, how sessions go on."""

import json
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest

from melodi_plugin.data.chat import CannotRender, Chat, chat_from, tokenizer_of
from melodi_plugin.data.corpus import corpus_tokenizer
from melodi_plugin.data.tokenizer import Tokenizer

ASSETS = resources.files("maxtext") / "assets" / "tokenizers"
PLAIN = (
  "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
  "{% if add_generation_prompt %}assistant: {% endif %}"
)
# No rendering begins with that of fewer messages.
COUNTED = "{{ messages | length }} messages\n" + PLAIN
ASK = [{"role": "user", "content": "Who is there?"}]


def _tokenizer(path, kind):
  keys = dict(add_bos=False, add_eos=False, vocab_size=300_000, hf_access_token="")
  keys |= dict(tokenizer_path=str(path), tokenizer_type=kind, melodi_special_tokens_in_text=False)
  return Tokenizer(SimpleNamespace(**keys))


@pytest.fixture(name="qwen", scope="module")
def _qwen():
  return _tokenizer(ASSETS / "qwen3-tokenizer", "huggingface")


@pytest.fixture(name="pieces", scope="module")
def _pieces(tmp_path_factory):
  path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
  path.write_bytes(corpus_tokenizer.train(["Who is there? user: A play"] * 9, vocab_size=290).model)
  return _tokenizer(path, "sentencepiece")


def test_messages_become_the_special_tokens_of_the_template(qwen):
  ids = Chat(qwen)(ASK)
  library = qwen.library.tokenizer
  assert library.decode(ids) == (
    "<|im_start|>user\nWho is there?<|im_end|>\n<|im_start|>assistant\n"
  )
  assert ids[0] == library.convert_tokens_to_ids("<|im_start|>")
  # The tokenizer of documents still reads them as text.
  assert not {ids[0]} & set(qwen.encode("<|im_start|>"))


def test_answers_end_with_eos_and_with_what_the_template_puts_there(qwen, pieces):
  (end,) = qwen.library.tokenizer.convert_tokens_to_ids(["<|im_end|>"])
  assert end in Chat(qwen).end_ids
  eot = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
  (eot_id,) = qwen.library.tokenizer.convert_tokens_to_ids(["<|endoftext|>"])
  assert set(Chat(qwen, eot).end_ids) == {*qwen.eos_ids, eot_id}
  assert Chat(pieces, PLAIN).end_ids == pieces.eos_ids  # a newline is text


@pytest.mark.parametrize(("kind", "template"), [("qwen", None), ("qwen", PLAIN), ("pieces", PLAIN)])
def test_a_session_goes_on_with_new_messages_alone(request, kind, template):
  tokenizer = request.getfixturevalue(kind)
  chat = Chat(tokenizer, template)
  assert chat.extends
  answer, more = "Nay, answer me.", [{"role": "user", "content": "Long live the king!"}]
  whole = chat([*ASK, {"role": "assistant", "content": answer}, *more])
  parts = [*chat(ASK), *tokenizer.encode(answer), *chat.after_answer(more)]
  assert tokenizer.decode(parts) == tokenizer.decode(whole)
  # A space at the end of a prompt can be one token with the answer, but special tokens never are.
  assert template or parts == whole


def test_the_token_that_ended_an_answer_is_not_read_again(qwen):
  chat = Chat(qwen)
  ids = chat.after_answer(ASK)
  assert ids[0] in chat.end_ids
  assert chat.after_answer(ASK, last=ids[0]) == ids[1:]
  assert chat.after_answer(ASK, last=7) == ids


def test_a_template_that_writes_old_messages_anew_does_not_extend(qwen):
  chat = Chat(qwen, COUNTED)
  assert not chat.extends
  assert chat.end_ids == qwen.eos_ids
  assert qwen.decode(chat(ASK)).startswith("1 messages\nuser: Who")
  with pytest.raises(ValueError, match="session cannot go on with new messages alone; send the"):
    chat.after_answer(ASK)


def test_without_a_template_the_sentence_says_what_to_set(pieces):
  with pytest.raises(ValueError, match="has no chat template; set chat_template or"):
    Chat(pieces)


def test_what_a_template_refuses_is_a_sentence(qwen):
  strict = "{% if messages[0].role == 'tool' %}{{ raise_exception('No tools') }}{% endif %}" + PLAIN
  with pytest.raises(ValueError, match=r"cannot render these messages \(No tools\); give it"):
    Chat(qwen, strict)([{"role": "tool", "content": "4"}])
  with pytest.raises(ValueError, match="cannot render these messages"):
    Chat(qwen, "{{ 1 / 0 }}")


@pytest.mark.parametrize("kind", ["qwen", "pieces"])
def test_templates_cannot_reach_python(request, kind):
  escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
  with pytest.raises(ValueError, match="unsafe"):
    Chat(request.getfixturevalue(kind), escape)


def test_keys_of_maxtext_win_over_the_tokenizers_own(qwen, tmp_path):
  keys = {"chat_template": "", "chat_template_path": ""}
  own = chat_from(SimpleNamespace(**keys), qwen)
  assert qwen.decode(own(ASK)).startswith("user\nWho")  # special tokens are no text
  (tmp_path / "t.jinja").write_text(PLAIN)
  (tmp_path / "t.json").write_text(json.dumps({"chat_template": PLAIN}))
  for change in (
    {"chat_template": PLAIN},
    {"chat_template_path": str(tmp_path / "t.jinja")},
    {"chat_template_path": str(tmp_path / "t.json")},
  ):
    chat = chat_from(SimpleNamespace(**(keys | change)), qwen)
    assert qwen.decode(chat(ASK)) == "user: Who is there?\nassistant: "


@pytest.mark.parametrize(
  ("name", "content", "problem"),
  [
    ("missing.jinja", None, r"cannot be read \(No such file or directory\)"),
    ("list.json", "[1]", "holds no chat template"),
    ("broken.json", "{", "holds no chat template"),
    ("latin.jinja", b"\xe9", "holds no chat template"),
  ],
)
def test_a_file_without_a_template_is_a_sentence(qwen, tmp_path, name, content, problem):
  if content is not None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  keys = SimpleNamespace(chat_template="", chat_template_path=str(tmp_path / name))
  with pytest.raises(ValueError, match=problem):
    chat_from(keys, qwen)


TALK = [
  {"role": "system", "content": "You are brief."},
  *ASK,
  {"role": "assistant", "content": "Nay, answer me."},
  {"role": "user", "content": "Long live the king!"},
  {"role": "assistant", "content": "He."},
]


CHATML = (
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def slow_answers(chat, messages, end):
  """Turn by turn: what a whole turn adds to the prompt that a client sends, up to `end`."""
  answers = np.zeros(len(chat.with_answers(messages)[0]), bool)
  for number, message in enumerate(messages):
    if message["role"] == "assistant":
      prompt, whole = chat(messages[:number]), chat.with_answers(messages[: number + 1])[0]
      assert whole[: len(prompt)] == prompt
      answers[len(prompt) : len(prompt) + whole[len(prompt) :].index(end) + 1] = True
  return answers.tolist()


@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[:3], [*TALK, *ASK]])
def test_answers_are_what_a_client_would_get_turn_by_turn(qwen, messages):
  chat = Chat(qwen, CHATML)
  (end,) = qwen.library.tokenizer.convert_tokens_to_ids(["<|im_end|>"])
  _, answers = chat.with_answers(messages)
  assert answers.tolist() == slow_answers(chat, messages, end)


# Qwen3's own leaves the (empty) thoughts out of an answer once another message follows.
@pytest.mark.parametrize(
  ("template", "thoughts"), [(CHATML, ""), (None, "<think>\n\n</think>\n\n")]
)
def test_of_special_tokens_only_those_that_end_an_answer_are_answers(qwen, template, thoughts):
  ids, answers = Chat(qwen, template).with_answers(TALK)
  start, end = qwen.library.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
  assert ids.count(start) == ids.count(end) == 5
  assert not answers[np.array(ids) == start].any()
  assert answers[np.array(ids) == end].tolist() == [False, False, True, False, True]
  text = qwen.library.tokenizer.decode(np.array(ids)[answers])
  assert text == f"Nay, answer me.<|im_end|>{thoughts}He.<|im_end|>"


@pytest.mark.parametrize("kind", ["qwen", "pieces"])
def test_a_token_with_the_end_of_the_prompt_and_the_begin_of_the_answer_counts(request, kind):
  tokenizer = request.getfixturevalue(kind)
  ids, answers = Chat(tokenizer, PLAIN).with_answers(TALK)
  text = tokenizer.decode([i for i, own in zip(ids, answers, strict=True) if own])
  assert "Nay, answer me." in text and "He." in text
  for word in ("brief", "user", "Long", "assistant"):
    assert word not in text


def test_answers_of_a_template_that_writes_old_messages_anew_are_refused(qwen):
  with pytest.raises(CannotRender, match="cannot be told which tokens are answers; set"):
    Chat(qwen, COUNTED).with_answers(TALK)


def _keys(tokenizer, **changes):
  keys = dict(add_bos=True, add_eos=True, vocab_size=300_000, hf_access_token="", use_sft=True)
  keys |= dict(tokenizer_path=tokenizer.path, tokenizer_type=tokenizer.kind)
  keys |= dict(melodi_special_tokens_in_text=False, chat_template="", chat_template_path="")
  return SimpleNamespace(**(keys | {"sft_train_on_completion_only": True} | changes))


def test_conversations_are_read_as_the_template_says_and_nothing_more(qwen):
  read = tokenizer_of(_keys(qwen))
  ids, scored = read.with_scored(json.dumps(TALK))
  expected, answers = Chat(qwen).with_answers(TALK)
  assert ids.tolist() == read(json.dumps(TALK)).tolist() == expected  # no BOS, no EOS
  np.testing.assert_array_equal(scored, answers)
  assert read.scored_text(json.dumps(TALK)) == "Nay, answer me.\nHe."
  whole = tokenizer_of(_keys(qwen, sft_train_on_completion_only=False))
  assert whole.with_scored(json.dumps(TALK))[1] is None
  assert whole.scored_text(json.dumps(TALK)).startswith("You are brief.\nWho is there?\nNay")
  assert isinstance(tokenizer_of(_keys(qwen, use_sft=False, add_bos=False)), Tokenizer)


def test_another_template_or_another_choice_of_tokens_is_another_fingerprint(pieces):
  plain = {"chat_template": PLAIN}
  changes = [
    plain,
    {"chat_template": "Talk:\n" + PLAIN},
    plain | {"sft_train_on_completion_only": False},
  ]
  found = {tokenizer_of(_keys(pieces, **change)).fingerprint() for change in changes}
  assert len(found) == 3
  assert tokenizer_of(_keys(pieces, **plain)).fingerprint() in found


def test_conversations_need_a_template_and_answers_that_become_tokens(qwen, pieces):
  with pytest.raises(ValueError, match="has no chat template; set chat_template or"):
    tokenizer_of(_keys(pieces))
  silent = "{% for m in messages %}{{ m.content }}{% endfor %}"
  talk = json.dumps([*ASK, {"role": "assistant", "content": ""}])
  with pytest.raises(CannotRender, match="no token of the answers"):
    tokenizer_of(_keys(qwen, chat_template=silent)).with_scored(talk)
