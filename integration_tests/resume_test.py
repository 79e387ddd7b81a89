"""Stopped and resumed = never stopped, bit for bit, on documents, with dropout."""

import logging
import pathlib
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import (
  STEPS,
  assert_same_checkpoint,
  checkpoints,
  write_config,
)
from melodi_plugin.cli.main import main
from melodi_plugin.data.place import StateMismatch, row_that_goes_on
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.decoders.state import row_axis

STOP = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two runs: `through` makes STEPS steps, `resumed` has what that saved after STOP and goes on."""
  folder = tmp_path_factory.mktemp("resume")
  config = write_config(folder, checkpoint_period=STOP - 1)
  for run_name in ("through", "resumed"):
    if run_name == "resumed":
      saved = (checkpoints(folder, name) / str(STOP - 1) for name in ("through", run_name))
      shutil.copytree(*saved)
    keys = (f"run_name={run_name}", f"steps={STEPS}", f"metrics_file={folder}/{run_name}.jsonl")
    running.train(str(config), *keys)
  return folder


def test_resumed_run_ends_in_the_very_state_of_the_run_that_never_stopped(folder):
  last = str(STEPS - 1)
  assert_same_checkpoint(
    checkpoints(folder, "through") / last, checkpoints(folder, "resumed") / last
  )


def test_run_was_stopped_in_the_middle_of_documents_with_memory_that_matters(folder):
  stopped = checkpoints(folder, "resumed") / str(STOP - 1)
  rows = running.iterator_state(stopped)["rows"].values()
  assert any(0 < row["offset"] < row["tokens"] for row in rows)
  before, after = running.checkpoint(stopped), running.checkpoint(stopped.parent / str(STEPS - 1))
  memory = [name for name in before if "/memory_" in name]
  assert len(memory) == 3
  for name in [*memory, "params/params/decoder/layers_2_to_2/gate"]:
    assert before[name].any(), name
    assert (before[name] != after[name]).any(), name


def test_resumed_steps_report_the_losses_of_the_run_that_never_stopped(folder):
  through, resumed = (running.metrics(folder / f"{name}.jsonl") for name in ("through", "resumed"))
  assert [line["step"] for line in through] == list(range(STEPS))
  assert [line["step"] for line in resumed] == list(range(STOP, STEPS))
  for key in ("learning/loss", "learning/total_weights", "learning/grad_norm"):
    assert [line[key] for line in resumed] == [line[key] for line in through[STOP:]], key


def test_loaded_parameters_start_with_empty_memory(folder):
  items = checkpoints(folder, "through") / str(STEPS - 1) / "items"
  saved = running.checkpoint(items.parent)
  with running.maxtext_process():
    config = running.initialize(
      str(folder / "config.yml"),
      f"load_parameters_path={items}",
      **{"base_output_directory": str(folder / "fresh"), "run_name": "loaded"},
    )
    trainer = running.Trainer(config)
    memory, params = trainer.memory(), trainer.params()
  for name, value in memory.items():
    assert saved[f"nnx_aux/model/decoder/{name}"].any()
    assert not np.asarray(value).any(), name
  assert params.keys() == {
    name.removeprefix("params/params/") for name in saved if name.startswith("params/")
  }
  for name, value in params.items():
    np.testing.assert_array_equal(np.asarray(value), saved[f"params/params/{name}"], err_msg=name)


@pytest.mark.parametrize(
  "windows, trains",
  [
    pytest.param(2, False, marks=pytest.mark.broad),
    (8, False),
    pytest.param(8, True, marks=pytest.mark.slow),
  ],
)
def test_queue_of_another_length_keeps_its_newest_tokens(folder, windows, trains):
  keys = {"run_name": "through", "steps": STEPS + 1, "melodi_long_term_windows": windows}
  saved = running.checkpoint(checkpoints(folder, "through") / str(STEPS - 1))
  long, held = (saved[f"nnx_aux/model/decoder/memory_{name}"] for name in ("long", "windows"))
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    trainer = running.Trainer(running.from_yaml(folder / "config.yml", **keys))
    memory = {name: np.asarray(leaf) for name, leaf in trainer.memory().items()}
    if trains:
      assert np.isfinite(trainer.step()["learning/loss"])
  increment, stored = running.MELODI["melodi_long_term_increment"], long.shape[2]
  kept = min(stored, windows * increment)
  np.testing.assert_array_equal(memory["memory_long"][:, :, -kept:], long[:, :, -kept:])
  assert memory["memory_long"].shape[2] == windows * increment
  assert not memory["memory_long"][:, :, :-kept].any()
  np.testing.assert_array_equal(memory["memory_windows"], np.minimum(held, stored // increment))


@pytest.mark.parametrize("trains", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_in_a_batch_of_twice_the_rows_those_of_the_checkpoint_go_on(folder, caplog, trains):
  """Wherever the order has them; the others begin documents."""
  path = checkpoints(folder, "through") / str(STEPS - 1)
  saved, place = running.checkpoint(path), running.iterator_state(path)
  keys = {"run_name": "through", "steps": STEPS + 1, "per_device_batch_size": 2}
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    with caplog.at_level(logging.WARNING):
      trainer = running.Trainer(running.from_yaml(folder / "config.yml", **keys))
    memory = trainer.memory()
    shards = {name: leaf.sharding.shard_shape(leaf.shape) for name, leaf in memory.items()}
    memory = {name: np.asarray(leaf) for name, leaf in memory.items()}
    positions = np.asarray(next(trainer.loader.data_iterator)["inputs_position"])[:, 0]
    if trains:
      assert np.isfinite(trainer.step()["learning/loss"])
  assert "more rows than the checkpoint: 8 go on with their documents" in caplog.text
  from_rows = [row_that_goes_on(place, row, 16) for row in range(16)]
  assert sorted(row for row in from_rows if row is not None) == list(range(8))
  for name, leaf in memory.items():
    axis = row_axis(name)
    assert shards[name][axis] == 2, name
    old = saved[f"nnx_aux/model/decoder/{name}"]
    for row, own in enumerate(from_rows):
      kept = 0 if own is None else old.take(own, axis)
      np.testing.assert_array_equal(leaf.take(row, axis), kept, err_msg=name)
  offsets = [0 if own is None else place["rows"][str(own)]["offset"] for own in from_rows]
  assert positions.tolist() == offsets and any(offsets)


def test_other_number_of_rows_needs_a_key_and_then_starts_with_empty_memory(folder, caplog):
  def trainer(**keys):
    keys |= {"run_name": "through", "steps": STEPS + 2, "per_device_batch_size": 1.5}
    config = running.from_yaml(folder / "config.yml", **keys, ici_fsdp_parallelism=1)
    return running.Trainer(config, jax.devices()[:1])

  saved = running.checkpoint(checkpoints(folder, "through") / str(STEPS - 1))
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    with pytest.raises(StateMismatch) as error:
      trainer()
    said = str(error.value)
    assert "rows in the batch (per_device_batch_size times gradient_accumulation_steps" in said
    assert "times devices) (8) than this run has (12)" in said
    assert "set melodi_restart_documents=true" in said
    with caplog.at_level(logging.WARNING):
      resumed = trainer(melodi_restart_documents=True)
    memory, params = resumed.memory(), resumed.params()
    assert int(resumed.state["optimizer"]["step"][...]) == STEPS
    batch = resumed.loader.load_next_batch()
  assert "Documents start anew, with empty memory." in caplog.text
  assert memory["memory_windows"].shape == (12,)
  assert not any(np.asarray(value).any() for value in memory.values())
  for name, value in params.items():
    np.testing.assert_array_equal(np.asarray(value), saved[f"params/params/{name}"], err_msg=name)
  assert not np.asarray(batch["inputs_position"])[:, 0].any()


# What has changed in a configuration, and what the sentence says: docs/data.md has this table.
REFUSED = [
  ({"melodi_window_length": 32}, "saved with another melodi_window_length (16) than this run has"),
  ({"melodi_summary_tokens": 8}, "short_mixer/context_norm is (32, 2) in the checkpoint and miss"),
  ({"melodi_short_term_tokens": 8}, "short_mixer/bias is (4, 2) in the checkpoint and (8, 2)"),
  ({"melodi_long_term_increment": 4}, "long_mixer/bias is (2, 1) in the checkpoint and (4, 1)"),
  ({"melodi_long_term_layers": "1,2"}, "layers_0_to_0/attention_norm is missing in the checkpoint"),
  ({"melodi_short_term_layers": "0,1"}, "short_mixer/bias is (4, 1) in the checkpoint and missing"),
  ({"base_emb_dim": 64}, "decoder_norm/scale is (32,) in the checkpoint and (64,) in the model"),
  ({"scan_layers": False}, "layers_0/attention_norm is missing in the checkpoint and (32,) in the"),
  ({"opt_type": "sgd"}, "keep opt_type, or choose another run_name."),
  (
    {"dataset_type": "synthetic", "per_device_batch_size": 2},
    "memory_long is (1, 8, 8, 32) in the checkpoint and (1, 16, 8, 32) in the model",
  ),
]
CONVERTED = "and this run keeps it in bfloat16 ("
SAID = [
  ({"melodi_long_term_windows": 2}, "Queues hold 8 tokens in the checkpoint and 4 in this run"),
  ({"melodi_memory_dtype": "bfloat16"}, CONVERTED),
  ({"weight_dtype": "bfloat16", "sharding_tolerance": 1.0}, CONVERTED),
  ({"mu_dtype": "bfloat16"}, CONVERTED),
]
EXACT = [({"max_target_length": 128},), ({"grain_worker_count": 1},), ({"remat_policy": "full"},)]
BY_DEFAULT = ("melodi_window_length", "melodi_long_term_layers", "opt_type", "melodi_memory_dtype")


def changes(table):
  """Its rows as cases; what the default run does not show runs in the broad one."""
  return [
    pytest.param(
      *row,
      id=",".join(row[0]),
      marks=() if next(iter(row[0])) in BY_DEFAULT else pytest.mark.broad,
    )
    for row in table
  ]


def resumed(folder, keys):
  """A run that goes on with other keys."""
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    own = {"run_name": "through", "steps": STEPS + 1}
    return running.Trainer(running.from_yaml(folder / "config.yml", **(own | keys)))


@pytest.mark.parametrize("keys, words", changes(REFUSED))
def test_another_model_is_refused_at_resume_in_a_sentence(folder, keys, words):
  with pytest.raises((UserError, StateMismatch)) as error:
    resumed(folder, keys)
  if isinstance(error.value, UserError):
    assert "does not fit the configuration: " in str(error.value)
  assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("keys, words", changes(SAID))
def test_what_is_converted_at_resume_is_said(folder, keys, words, caplog):
  with caplog.at_level(logging.WARNING):
    assert int(resumed(folder, keys).state["optimizer"]["step"][...]) == STEPS
  said = [message for message in caplog.messages if words in message]
  assert said and not any("\n" in message for message in said)


@pytest.mark.parametrize("keys", changes(EXACT))
def test_what_changes_no_number_goes_on_exactly(folder, keys, caplog):
  saved = running.checkpoint(checkpoints(folder, "through") / str(STEPS - 1))
  with caplog.at_level(logging.WARNING):
    run = resumed(folder, keys)
  assert not any(word in caplog.text for word in ("converted", "Queues hold", "anew"))
  for name, array in run.memory().items():
    np.testing.assert_array_equal(array, saved[f"nnx_aux/model/decoder/{name}"], err_msg=name)
  for name, array in run.params().items():
    np.testing.assert_array_equal(array, saved[f"params/params/{name}"], err_msg=name)
  place = running.iterator_state(checkpoints(folder, "through") / str(STEPS - 1))
  assert run.loader.data_iterator.local_iterator.get_state()["rows"] == place["rows"]


def test_table_of_changes_in_the_docs_is_what_is_tested_here():
  page = pathlib.Path(__file__).parents[1] / "docs" / "data.md"
  rows = re.findall(r"^\| (`.+) \| (refused|said|exactly)", page.read_text(), re.MULTILINE)
  tables = {"refused": REFUSED, "said": SAID, "exactly": EXACT}
  for kind, table in tables.items():
    told = {key for keys, k in rows if k == kind for key in re.findall(r"`(\w+)`", keys)}
    tested = {key for keys, *_ in table for key in keys} - {"dataset_type", "sharding_tolerance"}
    tested -= {"per_device_batch_size"}  # whose row says more; the tests of rows hold it
    assert told == tested, kind


@pytest.mark.parametrize(
  "path, words",
  [
    ("through/checkpoints/5/items", "decoder_norm/scale is (32,) in the checkpoint and (64,) in"),
    ("through/checkpoints", "is not a checkpoint of MaxText's parameters, or was not written to"),
    ("nowhere", "is not a checkpoint of MaxText's parameters, or was not written to its end"),
  ],
)
def test_parameters_that_cannot_be_loaded_are_refused_in_a_sentence(folder, path, words):
  keys = {"run_name": "new", "base_emb_dim": 64, "load_parameters_path": f"{folder}/out/{path}"}
  with running.maxtext_process(), pytest.raises(UserError) as error:
    running.Trainer(running.from_yaml(folder / "config.yml", **keys))
  assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.broad  # registration_test has an error while loading, documents_test the sentence
def test_document_that_cannot_be_read_ends_the_command_with_failure_and_a_sentence(
  tmp_path, capsys
):
  # Eight rows read eight documents of 13 windows each; the ninth, due in step 3, has one token.
  keys = {"steps": 50, "lengths": [200] * 8 + [1], "add_bos": False, "add_eos": False}
  config = write_config(tmp_path, **keys, enable_data_shuffling=False)
  with running.maxtext_process():
    assert main(["train", str(config)]) not in (0, None)
  sentence = "08.txt has 1 token, and 2 are needed to predict one; remove it."
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("error: ") and last.endswith(sentence)
  said = (tmp_path / "out" / "tiny" / "log.txt").read_text()
  assert re.findall(r"completed step: (\d+)", said)[-1] == "2"


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
  """A run of 200 steps as a command."""
  folder = tmp_path_factory.mktemp("stopped")
  config = write_config(folder, checkpoint_period=20, per_device_batch_size=2)
  code, log = running.command(*command(config), "run_name=through", cwd=folder)
  assert code == 0, log
  return config


def command(config):
  return "-m", "melodi_plugin", "train", str(config), "steps=200", "async_checkpointing=true"


STOPS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_stopped_run_continues_as_if_it_had_not_been_stopped(never_stopped, stop):
  folder, own = never_stopped.parent, (*command(never_stopped), f"run_name={stop.name}")
  saved = checkpoints(folder, stop.name)
  process = running.start(*own, cwd=folder)
  while process.poll() is None and not (saved / "40").exists():
    time.sleep(0.01)
  process.send_signal(stop)
  assert process.wait(timeout=60) == STOPS[stop]
  assert not (saved / "199").exists()
  said = (folder / "log.txt").read_text()
  left = re.findall(r"interrupted: (\d+) of 200 steps are saved", said)
  assert len(left) == (stop != signal.SIGKILL)

  code, log = running.command(*own, cwd=folder)
  assert code == 0, log
  first = int(re.findall(r"^step (\d+) of 200", log, re.MULTILINE)[0])
  assert first == int(left[0]) + 1 if left else first > 40
  assert_same_checkpoint(checkpoints(folder, "through") / "199", saved / "199")
