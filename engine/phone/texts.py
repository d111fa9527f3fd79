"""SMS from the provider's side: sends one at any engine, and gets the text that answers it."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import httpx
import trio

from engine.phone import plivo, telnyx, twilio, vonage
from engine.phone.errors import CallFailed, TooSlow
from engine.phone.rest import Message, read_request, respond
from engine.phone.side import Callee

PROVIDERS: Final = ("twilio", "vonage", "telnyx", "plivo", "signalwire")
WEBHOOK_S: Final = 15.0
"""How long a provider waits for the answer to an SMS."""
_LONG: Final = 800
"""Of an answer in pieces, every one but the last is longer."""
_NEXT_PIECE_S: Final = 1.0
_KEPT: Final = 1000


class Inbox:
    """The providers' REST APIs on loopback, as far as an engine needs them, and the telephones behind them. Made by
    :func:`open_inbox`; ``url`` goes into the engine's settings as the ``api_url`` of each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fails_with = 0
        """An HTTP status to answer every request with; 0 works."""
        self.requests: list[str] = []
        """What was asked, method and path, and how it was answered; the last thousand."""
        self._messages: deque[Message] = deque(maxlen=_KEPT)
        self._arrived = trio.Event()

    async def receive(self, sender: str, recipient: str) -> str:
        """The next text between these numbers, waited for if there is none."""
        while True:
            arrived = self._arrived
            for message in self._messages:
                if (_digits(message.sender), _digits(message.recipient)) == (_digits(sender), _digits(recipient)):
                    self._messages.remove(message)
                    return message.text
            await arrived.wait()

    def forget(self, sender: str, recipient: str) -> None:
        """Drop what has come between these numbers and nobody has read."""
        pair = (_digits(sender), _digits(recipient))
        kept = [item for item in self._messages if (_digits(item.sender), _digits(item.recipient)) != pair]
        self._messages = deque(kept, maxlen=_KEPT)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One request of an engine."""
        async with stream:
            with trio.move_on_after(WEBHOOK_S):
                request = await read_request(stream)
                if request is None:
                    return
                message, status, body = respond(request, self.fails_with)
                self.requests = [*self.requests, f"{request.method} {request.path} {status}"][-_KEPT:]
                if message is not None:
                    self._messages.append(message)
                    self._arrived.set()
                    self._arrived = trio.Event()
                await request.answer(status, body)


@asynccontextmanager
async def open_inbox(port: int = 0) -> AsyncIterator[Inbox]:
    """Listens on 127.0.0.1; port 0 picks a free one. What the block raises comes out as it is, in no group."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    inbox = Inbox(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, inbox.serve, listeners))
        try:
            yield inbox
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery that would group it
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def send_text(
    provider: str,
    callee: Callee,
    text: str,
    *,
    inbox: Inbox | None = None,
    text_id: str = "",
    in_parts: bool = False,
    within_s: float = 30.0,
) -> str:
    """Send an SMS as ``callee.caller``, and the answer to it, its pieces put together.

    ``provider`` is one of ``PROVIDERS``. Without an ``inbox`` only an answer in the webhook of Twilio or
    SignalWire can be had.
    ``in_parts`` sends a long text as Vonage's SMS API does. Raises CallFailed when the webhook is refused or its answer
    makes no sense, TooSlow when there is no answer in time.
    """
    if inbox is not None:
        inbox.forget(callee.dialled, callee.caller)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False, timeout=WEBHOOK_S)
        )
        with trio.move_on_after(within_s):
            if texts := await _post(provider, callee, text, client, text_id, in_parts=in_parts):
                return " ".join(texts)
            if inbox is not None:
                return await _answer_in(inbox, callee)
    raise TooSlow("no answer to the text" + ("" if inbox else ": the webhook brought none, and there is no inbox"))


async def _post(
    provider: str, callee: Callee, text: str, client: httpx.AsyncClient, text_id: str, *, in_parts: bool
) -> list[str]:
    try:
        match provider:
            case "twilio":
                return await twilio.post_text(callee, text, client, text_id)
            case "signalwire":
                return await twilio.post_text(callee, text, client, text_id, twilio.SIGNALWIRE)
            case "vonage":
                await vonage.post_text(callee, text, client, text_id, in_parts=in_parts)
            case "telnyx":
                await telnyx.post_text(callee, text, client, text_id)
            case "plivo":
                await plivo.post_text(callee, text, client, text_id)
            case _:
                raise ValueError(f"no such provider: {provider}")
    except httpx.HTTPError as exc:
        raise CallFailed(f"no answer to the webhook ({type(exc).__name__})") from exc
    return []


async def _answer_in(inbox: Inbox, callee: Callee) -> str:
    pieces = [await inbox.receive(callee.dialled, callee.caller)]
    with trio.move_on_after(_NEXT_PIECE_S) as waiting:
        while len(pieces[-1]) > _LONG:
            pieces.append(await inbox.receive(callee.dialled, callee.caller))
            waiting.deadline = trio.current_time() + _NEXT_PIECE_S
    return " ".join(pieces)


def _digits(number: str) -> str:
    return number.removeprefix("+")
