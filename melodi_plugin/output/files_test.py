"""A file is the old one or the new one, whenever its writer stops."""

import errno
import os

import fsspec
import pytest

from melodi_plugin.output.files import (
  check_writable,
  read_file,
  read_json,
  write_file,
  write_files,
)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_interrupted_writer_leaves_the_old_file_and_nothing_else(
  tmp_path, monkeypatch, call, error
):
  path = str(tmp_path / "new" / "a.bin")
  write_file(path, b"old")

  def fail(*_):
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(os, call, fail)
    with pytest.raises(error):
      write_file(path, b"new")
  assert os.listdir(tmp_path / "new") == ["a.bin"] and read_file(path) == b"old"
  write_file(path, b"new")
  assert os.listdir(tmp_path / "new") == ["a.bin"] and read_file(path) == b"new"


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
  def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match=r"No space left on device: '.*/a\.bin'"):
    write_file(str(tmp_path / "a.bin"), b"new")


def test_file_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
  calls, own = [], {"fsync": os.fsync, "replace": os.replace}

  def noted(name):
    def call(*arguments):
      calls.append(name)
      return own[name](*arguments)

    return call

  for name in own:
    monkeypatch.setattr(os, name, noted(name))
  write_file(str(tmp_path / "a.bin"), b"new")
  assert calls == ["fsync", "replace", "fsync"]  # its content, its name, its folder


def test_link_stays_a_link(tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "there" / "a.bin")
  write_file(str(tmp_path / "link"), b"new")
  assert (tmp_path / "there" / "a.bin").read_bytes() == b"new" and (tmp_path / "link").is_symlink()


def test_folder_may_be_remote():
  folder = "memory://files_test/runs"
  write_files(folder, {"a.json": b"[1]", "b.bin": b"\xff"})
  assert (read_json(f"{folder}/a.json"), read_file(f"{folder}/b.bin")) == ([1], b"\xff")
  fsspec.filesystem("memory").rm("files_test", recursive=True)


def test_what_cannot_be_read_is_one_sentence(tmp_path):
  write_files(str(tmp_path), {"b.bin": b"\xff"})
  for path, reason in (
    (tmp_path / "missing", "there is no such file."),
    (tmp_path, "Is a directory."),
    (tmp_path / "b.bin", "'utf-8' codec"),
  ):
    with pytest.raises(ValueError, match=f"cannot read {path}: {reason}"):
      read_json(str(path))


def test_what_cannot_be_written_is_known_before(tmp_path):
  path = tmp_path / "new" / "a.bin"
  check_writable(str(path))
  assert os.listdir(tmp_path / "new") == []
  path.write_bytes(b"old")
  check_writable(str(path))
  assert path.read_bytes() == b"old"
  with pytest.raises(IsADirectoryError):
    check_writable(str(tmp_path))
  with pytest.raises(NotADirectoryError):
    check_writable(f"{path}/b.bin")
  with pytest.raises(OSError):
    check_writable("/proc/a.bin")
  check_writable("memory://somewhere/a.bin")
