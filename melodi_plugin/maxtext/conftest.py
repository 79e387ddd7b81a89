"""What tests of rows read: documents, conversations, and one device."""

import jax
import pytest

from melodi_plugin.testing.files.rows import config_of_talks, config_of_texts


@pytest.fixture
def config(tmp_path):
  """Of a run on documents."""
  return config_of_texts(tmp_path)


@pytest.fixture
def talks(tmp_path):
  """Of a run on conversations."""
  return config_of_talks(tmp_path)


@pytest.fixture
def mesh():
  """One device."""
  return jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
