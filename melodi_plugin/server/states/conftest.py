"""A store in the test's folder, and its clock."""

import pytest

from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.states import load, save


class Clock:
  now = 1e9

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def opened(tmp_path, clock, request):
  """Opens a store in the test's folder, after closing the one before."""
  stores = []

  def open_store(saves=save, **limits):
    if stores:
      stores.pop().close()
    stores.append(Store(str(tmp_path), saves, load, clock=clock, **limits))
    return stores[-1]

  # A fixture that yields is no fixture any more once jaxtyping has wrapped it.
  request.addfinalizer(lambda: stores and stores.pop().close())  # noqa: PT021
  return open_store
