"""Training and evaluation on conversations: the loss of answers, hand-computed from all losses.

All of it: uv run pytest -m broad integration_tests/chat_data_test.py
"""

import json
import random

import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import EQUAL_LAYERS
from melodi_plugin.cli.main import main
from melodi_plugin.evaluation.losses import read_losses
from melodi_plugin.testing.files import chats

pytestmark = (
  pytest.mark.broad
)  # masks are pipeline_test's, losses of whole documents evaluate_test's
STEPS, LENGTH = 2, running.TINY["max_target_length"]


def talk(seed: int) -> list[dict[str, str]]:
  """Nine turns of some 15 to 25 characters: more than two segments."""
  chance = random.Random(seed)
  contents = ["".join(chance.choices("abcdefghij ", k=chance.randint(15, 25))) for _ in range(8)]
  return chats.conversation(*contents, system="abc" * seed)


TALKS = [talk(seed) for seed in range(8)]  # one for each row, in order


def answers(messages: list[dict[str, str]]) -> np.ndarray:
  """Which tokens of a conversation are to be learned: a message is its role, its text, its end."""
  marked = []
  for message in messages:
    own = message["role"] == "assistant"
    marked += [False, *[own] * len(message["content"]), own]
  return np.array(marked)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder with a run whose parameters stay as they are, and a config that reads its text."""
  folder = tmp_path_factory.mktemp("chat")
  text = str(chats.write_conversations(folder / "talks.jsonl", TALKS))
  keys = running.TINY | running.MELODI | EQUAL_LAYERS
  keys |= {"use_sft": True, "sft_train_on_completion_only": True, "dataset_type": "grain"}
  keys |= {"train_data_columns": ["messages"], "eval_data_columns": ["messages"]}
  keys |= {"tokenizer_path": str(chats.write_chat_tokenizer(folder / "tokenizer"))}
  keys |= {"tokenizer_type": "huggingface", "grain_eval_files": text, "grain_worker_count_eval": 0}
  keys |= {"base_output_directory": str(folder), "enable_checkpointing": True, "steps": STEPS}
  running.write_yaml(folder / "own.yml", **keys)
  keys |= {"grain_train_files": text, "grain_worker_count": 0, "enable_data_shuffling": False}
  keys |= {"learning_rate": 0.0, "metrics_file": str(folder / "metrics.jsonl")}
  running.train(str(running.write_yaml(folder / "train.yml", **keys)))
  checkpoint = f"{folder}/tiny/checkpoints/{STEPS - 1}/items"
  with running.maxtext_process():
    argv = [str(folder / "own.yml"), f"load_parameters_path={checkpoint}"]
    assert main(["evaluate", *argv, "melodi_write_losses=true"]) == 0
  return folder


@pytest.fixture(scope="module")
def losses(trained):
  """Of every conversation the loss of all its tokens but the first."""
  return [own.nats for _, own in sorted(read_losses(str(trained / "tiny" / "losses.npz")).items())]


def test_loss_of_a_step_is_the_mean_over_the_answers_in_its_segments(trained, losses):
  steps = running.metrics(trained / "metrics.jsonl")
  assert len(steps) == STEPS
  for number, step in enumerate(steps):
    here = slice(number * LENGTH, (number + 1) * LENGTH)
    counts = [answers(messages)[1:][here] for messages in TALKS]
    nats = [own[here] for own in losses]
    picked = np.concatenate([n[c] for n, c in zip(nats, counts, strict=True)])
    assert step["learning/total_weights"] == picked.size < sum(map(len, nats))
    assert step["learning/loss"] == pytest.approx(picked.mean(), rel=1e-5)
    assert abs(picked.mean() - np.concatenate(nats).mean()) > 1e-3


def test_evaluation_scores_the_answers_and_says_so(trained, losses, capsys):
  (found,) = json.loads((trained / "tiny" / "evaluation.json").read_text())
  counts = [answers(messages)[1:] for messages in TALKS]
  expected = [float(own[c].sum()) for own, c in zip(losses, counts, strict=True)]
  assert [document["tokens"] for document in found["documents"]] == [c.sum() for c in counts]
  assert [document["nats"] for document in found["documents"]] == pytest.approx(expected, rel=1e-5)
  assert found["scored"] == "answers"
  own = ["\n".join(m["content"] for m in talk if m["role"] == "assistant") for talk in TALKS]
  assert found["bytes"] == sum(map(len, own))
  assert found["words"] == sum(len(text.split()) for text in own)
  assert "Of conversations only answers were scored" in (trained / "tiny/report.md").read_text()


def test_probes_read_no_conversations(trained, capsys):
  argv = [str(trained / "own.yml"), "load_parameters_path=somewhere", "melodi_probe=rare_words"]
  with running.maxtext_process():
    assert main(["evaluate", *argv]) == 2
  assert "probes read documents and no conversations; set use_sft=false." in capsys.readouterr().err
