"""One TLS context for all engines, phones and agents of these tests: each makes its own, and each costs 40 ms."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def one_tls_context() -> Iterator[None]:
    context = ssl.create_default_context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", lambda: context)
        yield
