"""What all tests of routes ask."""

import pytest

from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.http import stop, tiny_service
from melodi_plugin.testing.slots import load_row, save_row


@pytest.fixture
def service(request):
  """Ready, and stopped after the test, which leaves no text in a slot."""
  service = tiny_service()
  request.addfinalizer(lambda: stop(service))  # noqa: PT021, jaxtyping wraps generators
  return service


@pytest.fixture
def kept(tmp_path, request):
  """The same, with a store in the test's folder."""
  store = Store(str(tmp_path), save_row, load_row)
  request.addfinalizer(store.close)
  service = tiny_service(store=store)
  request.addfinalizer(lambda: stop(service))  # noqa: PT021
  return service
