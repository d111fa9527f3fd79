"""HTTP clients, one a call."""

from __future__ import annotations

import ssl

import httpx


class HttpClients:
    """Makes one client a call, on one TLS context for the process: a context of its own would cost each call 40 ms of
    the event loop."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context()

    def __call__(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._context, trust_env=False, timeout=5.0)
