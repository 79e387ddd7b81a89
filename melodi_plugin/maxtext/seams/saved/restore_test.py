"""What is damage of a checkpoint, and what is none."""

import errno
import os

import pytest

from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.seams.saved.restore import _Broken, _reading


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_what_this_machine_cannot_read_now_is_a_sentence_and_no_damage(number):
  words = f"cannot be read now, an array of it: .*{os.strerror(number)}.*; mend that, and the same"
  with pytest.raises(UserError, match=words), _reading("an array"):
    raise OSError(number, os.strerror(number), "/a/b")


def test_a_store_that_does_not_answer_is_a_sentence_and_no_damage():
  with pytest.raises(UserError, match="cannot be read now"), _reading("an array"):
    raise ValueError("UNAVAILABLE: try again\nwith a trace")


@pytest.mark.parametrize(
  "error", [OSError(errno.EIO, "Input/output error"), FileNotFoundError("a"), KeyError("b")]
)
def test_what_nobody_could_read_is_damage(error):
  with pytest.raises(_Broken, match="an array cannot be read"), _reading("an array"):
    raise error
