"""A connection that was silent while a caller thought is used again."""

from __future__ import annotations

import time

import httpx
import pytest

from engine.runtime.network import Network
from tests.fakes.clouds.loopback import Cloud, Request, Response, serving


class Echo(Cloud):
    async def http(self, request: Request) -> Response:
        return Response(body=request.body)


def our_port(response: httpx.Response) -> int:
    address: tuple[str, int] = response.extensions["network_stream"].get_extra_info("client_addr")
    return address[1]


@pytest.mark.parametrize(("silent_s", "is_same"), [(30.0, True), (90.0, False)])
async def test_an_idle_connection_lives_for_a_minute(
    silent_s: float, is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic = time.monotonic
    async with serving(Echo()) as served, Network().client(served.http) as client:
        first = our_port(await client.post("/", content=b"a"))
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + silent_s)
        assert (our_port(await client.post("/", content=b"b")) == first) is is_same
