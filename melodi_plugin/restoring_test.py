"""What of a checkpoint cannot be read is one sentence, and nothing follows it."""

import asyncio
import json
import re

import pytest
import uvloop

from melodi_plugin.restoring import ending_reads, reading_arrays


def wrapped(cause: Exception) -> Exception:
  """As Orbax passes on what TensorStore says of an array."""
  error = Exception("Encountered error while reading array index: (slice(0, 4, 1),). See\nmore")
  error.__cause__ = cause
  return error


# Of files that were cut or removed, with flipped bits, and of one that may not be read.
CUT = 'OUT_OF_RANGE: Error reading "a/0.0" in OCDBT database: Requested byte range [0, 4) is not'
FLIPPED = 'FAILED_PRECONDITION: Error reading "a": ZSTD_decompressStream() failed: Data corruption'
DAMAGE = [
  *(ValueError(CUT), ValueError(FLIPPED), ValueError("DATA_LOSS: Digest mismatch\nTrace")),
  *(ValueError("NOT_FOUND: a"), ValueError("Failed to open: a [os_error_code='36']")),
  *(FileNotFoundError("a"), json.JSONDecodeError("Expecting value", "", 0)),
]


@pytest.mark.parametrize("passed_on", [wrapped, lambda error: error], ids=["wrapped", "plain"])
@pytest.mark.parametrize("error", DAMAGE, ids=str)
def test_damage_of_a_file_is_a_sentence_with_advice(error, passed_on):
  reason = re.escape(str(error).partition("\n")[0])
  words = f"^/a cannot be read: {reason}; copy or write it again.$"
  with pytest.raises(ValueError, match=words), reading_arrays("/a"):
    raise passed_on(error)


def test_what_cannot_be_read_now_need_not_be_written_again():
  stale = ValueError("ABORTED: Failed to open: \"/a/d\": Stale [os_error_code='116']")
  words = r"^/a cannot be read: ABORTED: .*116'\]; mend that.$"
  with pytest.raises(ValueError, match=words), reading_arrays("/a"):
    raise wrapped(stale)


@pytest.mark.parametrize("passed_on", [lambda error: error, wrapped])
def test_a_list_that_lacks_an_array_is_damaged(passed_on):
  words = r"^/a cannot be read: a list of its arrays has no 'params.b'; copy or write it again.$"
  with pytest.raises(ValueError, match=words), reading_arrays("/a"):
    raise passed_on(KeyError("params.b"))


@pytest.mark.parametrize(
  "error", [ValueError("Checkpoint does not match the model:\n - a"), RuntimeError("DATA_LOSS: a")]
)
def test_a_file_is_not_to_blame_for_shapes_and_devices(error):
  with pytest.raises(type(error)) as raised, reading_arrays("/a"):
    raise error
  assert raised.value is error
  with pytest.raises(ValueError) as raised, reading_arrays("/a"):
    raise wrapped(error)
  reason = str(error).partition("\n")[0].rstrip(":")
  assert str(raised.value) == f"/a cannot be read: {reason}."


@pytest.mark.parametrize("loops", [asyncio, uvloop])
def test_reads_beside_one_that_fails_end_before_their_loop(loops):
  ended = []

  async def read() -> None:
    try:
      await asyncio.sleep(60)
    finally:
      ended.append("read")

  async def fail() -> None:
    raise ValueError("DATA_LOSS: a")

  async def read_all() -> None:
    await asyncio.gather(read(), fail(), fail())

  before = asyncio.new_event_loop, uvloop.new_event_loop
  with ending_reads():
    loop = loops.new_event_loop()
  with pytest.raises(ValueError, match="DATA_LOSS"):
    loop.run_until_complete(read_all())
  loop.close()
  assert ended == ["read"]
  loop.call_soon_threadsafe(ended.clear)  # as TensorStore says that a read has ended
  assert ended == ["read"]
  assert (asyncio.new_event_loop, uvloop.new_event_loop) == before
