"""How a program ends."""

import errno

import jax.numpy as jnp
import pytest

from melodi_plugin.errors import exit_status, is_full, unwritten

# As an H100 and the compiler for TPUs say it; MaxText blames its checkpoints for the first.
GPU = (
  "Checkpointing failed. RESOURCE_EXHAUSTED: Out of memory while trying to allocate 109.96GiB with "
  "allocator GPU_0_bfc on device 0. [executable_name='jit_train_step']"
)
TPU = (
  "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
  "Used 20.00G of 15.75G hbm. Exceeded hbm capacity by 4.25G.\n\nTotal hbm usage >= 20.26G"
)

TENSORSTORE = (
  'RESOURCE_EXHAUSTED: Error writing local file "/run/3.tmp/items/d/0": Failed writing: '
  '"/run/3.tmp/items/d/0.__lock": Failed to write 1296896 bytes to file 3: No space left on device '
  "[os_error_code='28']"
)


def fail(message: str):
  def program():
    raise RuntimeError(message)

  return program


@pytest.mark.parametrize(
  "message, told",
  [
    (GPU, "allocate 109.96GiB with"),
    (TPU, "Used 20.00G of 15.75G hbm"),
    ("RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 1.2G.", "1.2G"),
  ],
)
def test_a_device_that_is_too_small_ends_in_a_sentence(message, told, capsys):
  assert exit_status(fail(message)) == 2
  said = capsys.readouterr().err
  assert said.startswith("error: the device cannot hold this: ") and told in said
  assert said.count("\n") == 1 and "lower per_device_batch_size" in said


def test_what_jax_says_here_is_known(capsys):
  assert exit_status(lambda: jnp.zeros((1 << 30, 1 << 18)).block_until_ready()) == 2
  assert "Out of memory allocating" in capsys.readouterr().err


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: Quota exceeded", "out of memory"])
def test_other_errors_stay_what_they_are(message):
  with pytest.raises(RuntimeError, match=message):
    exit_status(fail(message))


GLOO = (
  "UNKNOWN: Gloo AllGather failed: [external/xla++ext+gloo/gloo/transport/tcp/pair.cc:538] "
  "Read error [127.0.0.1]:26320: Connection reset by peer"
)
SERVICE = (
  "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout. "
  "This indicates that the remote task has failed, got preempted, or crashed unexpectedly. "
  "[type.googleapis.com/tensorflow.CoordinationServiceError='']\n=== Source Location Trace: ==="
)


@pytest.mark.parametrize("message, told", [(GLOO, "reset by peer)"), (SERVICE, "Task 1 h")])
def test_a_process_that_is_gone_ends_the_others_at_once_in_a_sentence(
  message, told, monkeypatch, capsys
):
  class Ended(BaseException):
    pass

  def end(status):
    raise Ended(status)

  monkeypatch.setattr("os._exit", end)
  with pytest.raises(Ended, match="2"):
    exit_status(fail(message))
  said = capsys.readouterr().err
  assert said.startswith("error: another process of this job has ended or cannot be reached (")
  assert told in said and said.count("\n") == 1 and "googleapis" not in said and ".cc" not in said


def full(*of) -> OSError:
  return OSError(errno.ENOSPC, "No space left on device", *of)


def caused(message: str, cause: Exception) -> Exception:
  error = RuntimeError(message)
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  "error, file",
  [
    (full("/a/b c.txt"), "/a/b c.txt"),
    (full(), None),
    (caused("cannot save", full("/a/b")), "/a/b"),
    (caused(f"failed: {full()}", full("/a/b")), "/a/b"),
    (RuntimeError(f"failed: {full('/a/b')}"), "/a/b"),
    (ValueError(TENSORSTORE), "/run/3.tmp/items/d/0"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/a"), "/a"),
  ],
)
def test_a_full_disk_is_known_and_the_file_where_it_is_said(error, file):
  assert is_full(error) and unwritten(error) == file


def test_other_errors_are_no_full_disk():
  error = caused("no", OSError(errno.EACCES, "Permission denied", "/a"))
  assert not is_full(error) and unwritten(error) is None
