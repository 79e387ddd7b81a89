"""What a launcher settles before JAX is asked what there is."""

import os

import pytest

from melodi_plugin.errors import UserError
from melodi_plugin.maxtext import configs, machine

FLAG = "--xla_tpu_spmd_rng_bit_generator_unsafe"


@pytest.mark.parametrize(
  "before, after",
  [
    (None, f"{FLAG}=true"),
    ("--xla_a=1", f"--xla_a=1 {FLAG}=true"),
    (f"{FLAG}=false", f"{FLAG}=false"),
  ],
)
def test_every_chip_draws_its_own_unless_somebody_has_said_otherwise(monkeypatch, before, after):
  monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
  if before is not None:
    monkeypatch.setenv("LIBTPU_INIT_ARGS", before)
  for _ in range(2):
    machine.every_chip_draws_its_own()
    assert os.environ["LIBTPU_INIT_ARGS"] == after


class AskedError(Exception):
  pass


def test_a_config_is_not_read_before_chips_draw_their_own(monkeypatch):
  """Every launcher reads its config first, and whoever asks what hardware there is loads libtpu."""

  def ask(argv):
    assert FLAG in os.environ["LIBTPU_INIT_ARGS"]
    raise AskedError

  monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
  monkeypatch.setattr(configs, "on_this_machine", ask)
  with pytest.raises(AskedError):
    configs.load_config(["", "base.yml"])


@pytest.mark.parametrize(
  "content, sentence",
  [
    (b"- a\n- b\n", "own.yml has no keys; write `key: value` in every line."),
    (b"base_config: own.yml\n", "own.yml is based on itself; change its base_config."),
    (b"steps: [1,\n", "the configuration is not YAML: "),
    (b"\xff\xfe", "the configuration is not text in UTF-8: "),
  ],
)
def test_what_is_no_config_is_one_sentence(tmp_path, content, sentence):
  (tmp_path / "own.yml").write_bytes(content)
  with pytest.raises(UserError) as error:
    configs.load_config(["", str(tmp_path / "own.yml")], here=False)
  assert sentence in str(error.value) and "\n" not in str(error.value)


def test_the_last_word_on_a_key_holds(tmp_path):
  path = tmp_path / "own.yml"
  path.write_text("hardware: tpu\n")
  assert machine.written(["", str(path)], "hardware") == "tpu"
  assert machine.written(["", str(path), "hardware=gpu", "hardware=cpu"], "hardware") == "cpu"
