"""What is damage of a checkpoint, and what is none."""

import errno
import os
import types

import pytest

from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.seams.saved.restore import _Broken, _reading, apply_restore


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_what_this_machine_cannot_read_now_is_a_sentence_and_no_damage(number):
  words = f"cannot be read now, an array of it: .*{os.strerror(number)}.*; mend that, and the same"
  with pytest.raises(UserError, match=words), _reading("an array"):
    raise OSError(number, os.strerror(number), "/a/b")


# As TensorStore says it; ESTALE has no status of its own.
STALE = (
  'ABORTED: Error opening "zarr3" driver: Error reading local file "/a/d/0": Failed to open: '
  '"/a/d/0": Stale file handle [os_error_code=\'116\'] [tensorstore_spec=\'{\\"path\\":\\"/a\\"}\']'
)
RIGHTS = "Failed to open: \"/a/d/0\": Operation not permitted [os_error_code='1']"


@pytest.mark.parametrize("message", [STALE, RIGHTS])
def test_a_number_of_the_system_in_a_text_counts_as_the_error_itself(message):
  with pytest.raises(UserError, match="cannot be read now, an array of it: "), _reading("an array"):
    raise ValueError(message)


@pytest.mark.parametrize(
  "message, kind, words",
  [
    (STALE, UserError, "cannot be read now, an array of it: ABORTED: Error opening"),
    ("DATA_LOSS: Digest mismatch", _Broken, r"an array cannot be read \(DATA_LOSS: Digest mism"),
  ],
)
def test_what_tensorstore_says_counts_and_not_what_orbax_makes_of_it(message, kind, words):
  wrapped, error = RuntimeError("array index (slice(0, 4, 1),)"), KeyError("incompatible handler")
  wrapped.__cause__, error.__cause__ = ValueError(message), wrapped
  with pytest.raises(kind, match=words), _reading("an array"):
    raise error


def test_a_store_that_does_not_answer_is_a_sentence_and_no_damage():
  with pytest.raises(UserError, match="cannot be read now"), _reading("an array"):
    raise ValueError("UNAVAILABLE: try again\nwith a trace")


@pytest.mark.parametrize(
  "error",
  [
    *(OSError(errno.EIO, "Input/output error"), FileNotFoundError("a"), KeyError("b")),
    ValueError("DATA_LOSS: Failed to read: \"/a\": Input/output error [os_error_code='5']"),
  ],
)
def test_what_nobody_could_read_is_damage(error):
  with pytest.raises(_Broken, match="an array cannot be read"), _reading("an array"):
    raise error


@pytest.fixture
def load(monkeypatch):
  """MaxText's function with our seam, which finds damaged arrays wherever it reads."""
  from maxtext.common import checkpointing

  def damaged(*_, **__):
    cause = ValueError("DATA_LOSS: Digest mismatch")
    raise Exception("Encountered error while reading") from cause  # noqa: TRY002, as Orbax does

  monkeypatch.setattr(checkpointing, "load_state_if_possible", damaged)
  monkeypatch.setattr(checkpointing, "latest_step", lambda manager: manager.step)
  apply_restore()  # monkeypatch undoes it
  return checkpointing.load_state_if_possible


STOCK = types.SimpleNamespace(decoder_block="llama2")


@pytest.mark.parametrize("step", ["no manager", None])
@pytest.mark.parametrize("paths", [("/a/items", ""), ("", "/a/items")])
def test_damaged_arrays_of_a_given_path_are_a_sentence_for_a_stock_decoder_too(load, paths, step):
  manager = None if step == "no manager" else types.SimpleNamespace(step=step)
  with pytest.raises(UserError, match="/a/items cannot be read: DATA_LOSS: Digest mismatch; copy"):
    load(manager, None, *paths, 8, {}, maxtext_config=STOCK)


def test_a_given_path_is_not_to_blame_for_the_runs_own_checkpoint(load):
  with pytest.raises(Exception, match="Encountered error") as error:
    load(types.SimpleNamespace(step=3), None, "/a/items", "", 8, {}, maxtext_config=STOCK)
  assert type(error.value) is Exception
