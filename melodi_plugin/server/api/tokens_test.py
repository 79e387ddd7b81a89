"""Texts as tokens, and back."""

from melodi_plugin.testing.http import call, check_error


def test_texts_become_tokens_and_come_back(service):
  text = "é €"
  told = call(service, "POST", "/tokenize", json={"prompt": text, "add_special_tokens": False})
  assert told.json()["tokens"] == list(text.encode())
  back = call(service, "POST", "/detokenize", json={"tokens": [*told.json()["tokens"], 258]})
  assert back.json() == {"prompt": text}
  assert call(service, "POST", "/tokenize", json={"prompt": ""}).json()["tokens"] == []
  check_error(call(service, "POST", "/detokenize", json={"tokens": [1, 300]}), 400, "tokens")
  check_error(call(service, "POST", "/detokenize", json={"tokens": [-1]}), 400, "tokens")
  check_error(call(service, "POST", "/tokenize", json={"prompt": 3}), 400, "prompt")
  check_error(call(service, "POST", "/tokenize", json={"prompt": "a", "model": "x"}), 404, "model")


def test_lm_eval_finds_the_token_that_ends_a_text(service):
  end = call(service, "GET", "/tokenizer_info").json()["eos_token"]
  asked = {"prompt": end, "add_special_tokens": False}
  assert call(service, "POST", "/tokenize", json=asked).json()["tokens"] == [258]
