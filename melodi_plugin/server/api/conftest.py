"""What all tests of routes ask."""

import pytest

from melodi_plugin.testing.http import stop, tiny_service


@pytest.fixture
def service(request):
  """Ready, and stopped after the test, which leaves no text in a slot."""
  service = tiny_service()
  request.addfinalizer(lambda: stop(service))  # noqa: PT021, jaxtyping wraps generators
  return service
