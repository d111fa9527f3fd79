"""What every test begins with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

pytest_plugins = ["tests.fakes.servers"]


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    """structlog is configured for the whole process: no test inherits what another has set."""
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that with several workers none of them is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)
