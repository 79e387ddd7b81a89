"""The settings and fixtures of the integration tests."""

from integration_tests.conftest import float64  # noqa: F401
