"""The providers' webhooks: who may ask, and what the caller hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import BadRequest, BadSignature, StoreDown
from engine.observe.metrics import Metrics
from engine.ports import Answer, IncomingCall, Provider, WebhookKind, WebhookRequest
from engine.web.answers import error, retry_after
from engine.web.operations import STORE_RETRY_S
from engine.web.switchboard import Switchboard
from engine.web.texts import Overloaded, TextDesk
from engine.web.urls import PublicUrl

log = structlog.get_logger()

ANSWER_S = 3.0
"""A provider that waits longer hangs up on its caller."""
SORRY = "We are sorry, we cannot take your call right now. Please call again later."

DIAL = "dial"
"""The parameter of a webhook's query with the token of a call that we make."""
NO_TEXTS = "Texts are not answered here."


def webhook_routes(
    providers: Sequence[Provider],
    switchboard: Switchboard,
    metrics: Metrics,
    urls: PublicUrl,
    texts: TextDesk | None = None,
) -> list[Route]:
    """A route for each webhook of each provider."""
    return [
        Route(path, _Webhook(provider, kind, switchboard, texts, metrics, urls).answer, methods=sorted(methods))
        for provider in providers
        for path, (kind, methods) in provider.webhooks.items()
    ]


@dataclass(frozen=True, slots=True)
class _Webhook:
    provider: Provider
    kind: WebhookKind
    switchboard: Switchboard
    texts: TextDesk | None
    metrics: Metrics
    urls: PublicUrl

    async def answer(self, request: Request) -> Response:
        try:
            asked = await self._read(request)
            replay_key = self.provider.verify(asked)
            if self.kind is WebhookKind.STATUS:
                return self._take_status(asked)
            if self.kind is WebhookKind.WHISPER:
                text = self.switchboard.whisper(self.provider.name, self.provider.whispered_of(asked))
                return _as_response(self.provider.whisper(text))
            if self.kind is WebhookKind.TEXT:
                return await self._take_text(asked)
            return await self._take_call(request, asked, replay_key)
        except BadSignature as exc:
            self._count_forgery(exc.why)
            return error(403, "The request is not signed by its provider.", "bad_signature")
        except BadRequest as exc:
            return error(400, str(exc))

    async def _read(self, request: Request) -> WebhookRequest:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            headers.setdefault(name, value)
        return WebhookRequest(request.method, self.urls.called(request), headers, await request.body())

    def _count_forgery(self, why: str) -> None:
        name = self.provider.name
        self.metrics.signature_failures_total.labels(provider=name, why=why).inc()
        if self.kind is WebhookKind.CALL:
            self.metrics.calls_rejected_total.labels(provider=name, reason="bad_signature").inc()
        log.warning("bad_signature", provider=name, why=why)

    def _take_status(self, asked: WebhookRequest) -> Response:
        status = self.provider.read_status(asked)
        if status is not None:
            self.switchboard.call_has_news(self.provider.name, status, _dial_in(asked.url))
        return _as_response(self.provider.acknowledge(asked))

    async def _take_text(self, asked: WebhookRequest) -> Response:
        incoming = self.provider.read_text(asked)
        if incoming is None:
            return _as_response(self.provider.answer_text(""))
        if self.texts is None:
            return error(503, NO_TEXTS, "not_configured")
        try:
            return _as_response(await self.texts.answer(self.provider, incoming))
        except StoreDown:
            message = "The store is not available. Ask again a little later."
            return error(503, message, "store_down", retry_after(STORE_RETRY_S))
        except Overloaded as exc:
            return error(503, "Too many texts wait for an answer.", "busy", retry_after(exc.wait_s))

    async def _take_call(self, request: Request, asked: WebhookRequest, replay_key: str) -> Response:
        call = self.provider.read_call(asked)
        if call is None:
            return _as_response(self.provider.acknowledge(asked))
        if token := _dial_in(asked.url):
            known = self.switchboard.recognise(self.provider.name, call, token)
            if known is None:
                return _as_response(self.provider.refuse(SORRY))
            call = known
        return await self._connect(request, call, replay_key)

    async def _connect(self, request: Request, call: IncomingCall, replay_key: str) -> Response:
        line = self.provider.relay if self.switchboard.wants_relay(call) else self.provider
        if line is None:
            log.error("relay_missing", provider=self.provider.name, call_id=call.call_id)
            return _as_response(self.provider.refuse(SORRY))
        try:
            with trio.fail_after(ANSWER_S):
                admitted = await self.switchboard.admit(self.provider.name, call, replay_key)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with us, the caller hears a sentence
            log.error("admission_failed", provider=self.provider.name, call_id=call.call_id, error=type(exc).__name__)
            return _as_response(self.provider.refuse(SORRY))
        if isinstance(admitted, str):
            call = replace(call, preface=self.switchboard.preface(call))
            return _as_response(line.connect(call, self.urls.media(request, line.media_path), admitted))
        sentence = admitted.sentence
        return _as_response(self.provider.refuse(sentence) if sentence else self.provider.dismiss())


def _dial_in(url: str) -> str:
    """The token of a call that we make, which came in the query of the addresses that we gave for it."""
    return dict(parse_qsl(urlsplit(url).query)).get(DIAL, "")


def _as_response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, headers={"content-type": answer.content_type})
