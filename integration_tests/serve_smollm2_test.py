"""A real pretrained model with memory, served: a document is read once, sessions ask about it."""

import os
import pathlib

import pytest

from integration_tests import running, served
from integration_tests.pages import ROOT

pytestmark = pytest.mark.slow
SMOLLM2 = os.environ.get("MELODI_SMOLLM2_GGUF", "")
CONFIG = str(ROOT / "configs/yaml/melodi_smollm2_135m.yml")
QUESTION = "What is the capital of France?"


def melodi(folder: pathlib.Path, *words: str) -> None:
  code, log = running.command("-m", "melodi_plugin", *words, cwd=folder)
  assert code == 0, log


def asked(server, said: str, **more):
  """An answer, greedy, and the tokens that were read for it."""
  answer = server.client.chat.completions.create(
    messages=[{"role": "user", "content": said}],
    model="smollm2", max_tokens=24, temperature=0, extra_body=more, timeout=600,
  )  # fmt: skip
  return answer.choices[0].message.content, answer.usage.prompt_tokens


@pytest.mark.skipif(not SMOLLM2, reason="MELODI_SMOLLM2_GGUF does not name a GGUF file of SmolLM2")
def test_document_is_read_once_and_asked_about_in_several_sessions(tmp_path):
  melodi(tmp_path, "import-gguf", SMOLLM2, "stock")
  keys = [f"tokenizer_path={tmp_path}/stock/tokenizer", f"base_output_directory={tmp_path}"]
  stock = f"load_parameters_path={tmp_path}/stock/0/items"
  melodi(tmp_path, "graft", CONFIG, "run_name=own", stock, *keys)
  own = f"load_parameters_path={tmp_path}/own/grafted/items"
  served_as = ["melodi_serve_model=smollm2", "melodi_serve_folder=states", "melodi_slots=2"]
  document = (ROOT / "README.md").read_text()
  with served.server(tmp_path / "server", [CONFIG, own, *keys, *served_as]) as server:
    said = {"name": "page", "text": document}
    created = server.http.post("/v1/memories", json=said, timeout=600)
    assert created.status_code == 201 and created.json()["tokens"] > 2000
    alone, tokens = asked(server, QUESTION)
    assert "Paris" in alone and tokens < 50
    first, in_first = asked(server, QUESTION, memory="page", session="first")
    again, in_second = asked(server, QUESTION, memory="page", session="second")
    assert first == again and in_first == in_second < 50
    italy, in_turn = asked(server, "And of Italy?", session="first")
    assert "Rome" in italy and in_turn < 30
    kept = {own["name"]: own["tokens"] for own in server.http.get("/v1/sessions").json()["data"]}
    assert kept["first"] > kept["second"] > created.json()["tokens"]
