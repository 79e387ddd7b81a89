"""The settings and fixtures of the unit tests."""

from melodi_plugin.conftest import float64  # noqa: F401
