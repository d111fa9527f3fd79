"""FAULTS B 30: what answers is not the service, and cannot even say so in TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from adapters.models.openai_chat import OpenAiChatConfig, OpenAiChatModelVendor
from adapters.speech.hearing.deepgram import DeepgramConfig, DeepgramTranscriberVendor
from engine.errors import VendorError, Why
from engine.runtime.network import Network
from tests.vendors.puppets import CALL, SESSION, House, context

KEY = "sk-secret"


@asynccontextmanager
async def page_without_tls() -> AsyncIterator[str]:
    """The address of a port on which everybody is told the same."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await stream.receive_some(1)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def ear_of(address: str, house: House) -> AbstractAsyncContextManager[Any]:
    config = DeepgramConfig(KEY, url=f"wss://{address}/v1/listen", name="one")
    return DeepgramTranscriberVendor(config, Network()).open(CALL, house.ledger)


@asynccontextmanager
async def mind_of(address: str, house: House) -> AsyncIterator[Any]:
    config = OpenAiChatConfig(key=KEY, model="m", url=f"https://{address}/v1", name="one")
    async with (
        OpenAiChatModelVendor(config, Network()).open(SESSION, house.ledger) as model,
        model.open_reply(context("Hello.")) as parts,
    ):
        yield await parts.receive()


@pytest.mark.parametrize("make", [ear_of, mind_of])
async def test_b30_a_service_without_tls_is_a_failure_that_names_host_and_reason_and_not_the_key(
    make: Callable[[str, House], AbstractAsyncContextManager[Any]],
) -> None:
    house = House()
    async with page_without_tls() as address:
        with pytest.raises(VendorError) as caught:
            async with make(address, house):
                pass
    assert caught.value.why is Why.UNREACHABLE
    assert "cannot connect to 127.0.0.1: TLS: " in str(caught.value)
    assert KEY not in str(caught.value)
    assert house.book.open == []
