"""The command line of a comparison, and configs that cannot be compared."""

import pathlib

import pytest

from melodi_plugin.compare import request
from melodi_plugin.errors import UserError
from melodi_plugin.testing.comparison import SETTINGS


def ask(*words: str) -> request.Request:
  """As the command line splits its words."""
  given = {"seeds": "0", "out": "comparison", "evaluate_with": "", "probe": ""}
  settings = dict(word.split("=", 1) for word in words if "=" in word)
  own = {name: settings.pop(name, default) for name, default in given.items()}
  configs = [word for word in words if "=" not in word]
  return request.ask(configs, [f"{key}={value}" for key, value in settings.items()], **own)


def test_words_become_a_request():
  words = ["a.yml", "deep/b.yml", "steps=5", "seeds=0,2", "out=there", "learning_rate=1e-2"]
  found = ask(*words, "evaluate_with=melodi_long_term_windows=1,4", "probe=ruler")
  assert found.configs == ("a.yml", "deep/b.yml") and found.names == ["a", "b"]
  assert found.overrides == ("steps=5", "learning_rate=1e-2")
  assert found.seeds == (0, 2) and found.out == pathlib.Path("there").absolute()
  assert (found.key, found.values) == ("melodi_long_term_windows", ("1", "4"))
  assert found.probe == "ruler"
  assert ask(*found.command.split()[2:])._replace(out=found.out) == found


BAD = [
  (["a.yml", "deep/a.yml"], "two rows are called a"),
  (["a.yml", "seeds=1,x"], "seeds=1,x is not a list of whole numbers"),
  (["a.yml", "seeds=1,1"], "names a seed twice"),
  (["a.yml", "evaluate_with=melodi_long_term_windows"], "is not key=value,value"),
  (["a.yml", "probe=rules"], "probe=rules is no probe; choose of passkey, mqar"),
  (["a.yml", "run_name=mine"], "run_name is set by the comparison itself"),
  (["a.yml", "evaluate_with=data_shuffle_seed=1"], "data_shuffle_seed is set by the comparison"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_what_it_cannot_mean_is_refused(words, sentence):
  with pytest.raises(UserError, match=sentence):
    ask(*words)


def refusal(**changes):
  with pytest.raises(UserError) as end:
    request.check_same({"a.yml": SETTINGS, "b.yml": SETTINGS | changes, "c.yml": SETTINGS})
  return str(end.value)


def test_same_budget_and_text_are_compared_whatever_the_model():
  # The same tokens per step in other rows, and another learning rate.
  other = {"global_batch_size_to_train_on": 4, "max_target_length": 32, "learning_rate": 0.3}
  request.check_same({"a.yml": SETTINGS, "b.yml": SETTINGS | other})


def test_another_budget_or_text_is_refused_with_key_and_file():
  assert "steps is 4 in a.yml and c.yml, 5 in b.yml" in refusal(steps=5)
  assert "num_epoch is None in a.yml and c.yml, 2 in b.yml" in refusal(num_epoch=2)
  said = refusal(tokenizer_path="other.model", max_target_length=32)
  assert "tokens per step (batch size times max_target_length) is 128 in a.yml and c.yml" in said
  assert "tokenizer_path is None in a.yml and c.yml, 'other.model' in b.yml" in said
  assert "\n" not in said


def test_nothing_to_evaluate_is_refused():
  with pytest.raises(UserError, match="grain_eval_files is not set in"):
    request.check_same({"a.yml": SETTINGS | {"grain_eval_files": ""}})
