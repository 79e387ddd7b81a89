"""What all tests of routes ask."""

import pytest

from melodi_plugin.testing.http import tiny_service


@pytest.fixture
def service():
  """Ready."""
  return tiny_service()
