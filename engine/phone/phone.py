"""A telephone on the provider's side of the wire: places calls at any engine, as strictly as the provider would."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import trio

from engine.phone.call import PhoneCall, SendNow, never
from engine.phone.errors import CallFailed
from engine.phone.plivo import PlivoSide
from engine.phone.side import Answered, Back, Callee, ProviderSide
from engine.phone.telnyx import TelnyxSide
from engine.phone.twilio import SIGNALWIRE, TwilioSide
from engine.phone.vonage import VonageSide
from engine.runtime.sockets import HandshakeFailed, Socket, SocketLimits, open_socket
from engine.runtime.ticker import Ticker

SIDES: dict[str, Callable[[Callee], ProviderSide]] = {
    "twilio": TwilioSide,
    "vonage": VonageSide,
    "telnyx": TelnyxSide,
    "plivo": PlivoSide,
    "signalwire": partial(TwilioSide, dialect=SIGNALWIRE),
}
"""Providers that can be played, by name."""
BEATS = 8
"""Callers do not all speak at the same instant: their frames are spread over this many beats of 20 ms."""
WEBHOOK_S = 5.0
"""How long a provider waits for an answer."""
FIRST = Back()
"""The address that the last answer named."""
LIMITS = SocketLimits(message_bytes=1024 * 1024, queue=4096)


@dataclass(frozen=True, slots=True)
class OpenLine:
    """A media socket that has opened."""

    socket: Socket
    send_now: SendNow = never
    """A shorter way for audio, if there is one."""


Dial = Callable[[Answered], AbstractAsyncContextManager[OpenLine]]
"""Opens the media socket of an answered call. Raises CallFailed."""


class Phone:
    """Places any number of calls. Made by :func:`open_phone`."""

    def __init__(self, ssl_context: ssl.SSLContext, dial: Dial | None = None) -> None:
        self._ssl_context = ssl_context
        self._dial = dial or self._open_socket
        self._tickers = [Ticker() for _ in range(BEATS)]
        self._next_ticker = itertools.cycle(self._tickers)

    async def run(self) -> None:
        """Keep the beat until cancelled."""
        async with trio.open_nursery() as nursery:
            for ticker in self._tickers:
                nursery.start_soon(ticker.run)

    @asynccontextmanager
    async def call(
        self,
        side: ProviderSide,
        *,
        again: bool = False,
        back: Back = FIRST,
        report_end: bool = False,
        record: bool = True,
    ) -> AsyncIterator[PhoneCall]:
        """Place one call; ``again``: go on with one whose media socket is gone while its caller is there, by what
        ``back`` tells. Leaving the block hangs up, if nobody has yet; an exception in it cuts the line.

        ``report_end`` posts the status webhook after the call; ``record`` keeps the audio that was heard. Raises
        CallRefused, CallFailed. What the block raises comes out as it is, in no group.
        """
        async with self._new_client() as client:
            try:
                answered = await (side.again(back, client) if again else side.dial(client))
            except httpx.HTTPError as exc:
                raise CallFailed(f"no answer to the webhook ({type(exc).__name__})") from exc
            began_s = trio.current_time()
            async with self._dial(answered) as line, self._talking(side, line, record=record) as call:
                yield call
            if report_end:
                await self._report_end(side, client, trio.current_time() - began_s)

    @asynccontextmanager
    async def _talking(self, side: ProviderSide, line: OpenLine, *, record: bool) -> AsyncIterator[PhoneCall]:
        call = PhoneCall(side, line.socket, record=record, send_now=line.send_now)
        stop_ticking = next(self._next_ticker).add(call.tick)
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call.read)
                nursery.start_soon(call.write)
                try:
                    yield call
                    await call.hang_up()
                except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery that would group it
                    failure = exc
                nursery.cancel_scope.cancel()
        finally:
            stop_ticking()
            call.drop()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _open_socket(self, answered: Answered) -> AsyncIterator[OpenLine]:
        headers = [(name.encode(), value.encode()) for name, value in answered.headers.items()]
        try:
            async with open_socket(
                answered.url, headers=headers, limits=LIMITS, ssl_context=self._ssl_context
            ) as socket:
                yield OpenLine(socket)
        except HandshakeFailed as exc:
            raise CallFailed(f"no media socket: {exc}") from exc

    async def _report_end(self, side: ProviderSide, client: httpx.AsyncClient, duration_s: float) -> None:
        try:
            status = await side.completed(client, duration_s)
        except httpx.HTTPError as exc:
            raise CallFailed(f"no answer to the status webhook ({type(exc).__name__})") from exc
        if status not in {200, 204}:
            raise CallFailed(f"the status webhook answered HTTP {status}")

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._ssl_context, trust_env=False, timeout=WEBHOOK_S)


@asynccontextmanager
async def open_phone(dial: Dial | None = None) -> AsyncIterator[Phone]:
    """A phone for any number of calls. ``dial`` opens media sockets another way than over the network. What the block
    raises comes out as it is, in no group."""
    phone = Phone(ssl.create_default_context(), dial)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(phone.run)
        try:
            yield phone
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery that would group it
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def place_call(
    provider: str, callee: Callee, *, report_end: bool = False, record: bool = True
) -> AsyncIterator[PhoneCall]:
    """One call, with a phone of its own. ``provider`` is a key of ``SIDES``. See :meth:`Phone.call`."""
    side = SIDES[provider](callee)
    async with open_phone() as phone, phone.call(side, report_end=report_end, record=record) as call:
        yield call
