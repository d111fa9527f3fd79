"""Texts: an SMS webhook waits a little for the answer; what takes longer goes out over the provider's REST API."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import httpx
import structlog
import trio

from engine.errors import Busy, RateLimited, StoreDown, VendorError
from engine.events import Modality
from engine.observe.labels import TextOutcome
from engine.observe.metrics import Metrics
from engine.ports import Ability, Answer, IncomingText, Provider
from engine.runtime.rates import RateLimiter, number_key
from engine.settings import SessionSettings
from engine.storage.identity import PLACEHOLDERS, e164
from engine.web.desk import Sessions

log = structlog.get_logger()

SORRY = "We are sorry, we cannot answer right now. Please write again later."
NO_WORDS = "We can only read words. Please write to us what you would like to say."
MAX_CHARS = 4000
"""Of a text; no provider sends longer ones."""
IDS_KEPT = 1000
"""Texts whose answer is remembered, for a provider that asks twice."""
MAX_OWED = 100
"""Answers at once that are to go out over REST."""
SEND_S = 30.0
"""For sending a late answer, with all tries."""
PAUSES_S = (1.0, 3.0)
"""Between the tries."""
STOPPED_RETRY_S = 5.0
"""For the engine to be up again."""

_Key = tuple[str, str]
"""Provider and its id of the text."""


class Overloaded(Exception):
    """The text cannot be taken at the moment; the provider may ask again. ``wait_s``: when that is worth it."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


@dataclass(eq=False, slots=True)
class _Text:
    """One text, from its first webhook until it is forgotten."""

    provider: Provider
    incoming: IncomingText
    by_rest: bool
    """The answer goes over REST: the provider takes none in the document, or nobody waited long enough."""
    done: trio.Event = field(default_factory=trio.Event)
    answer: str = ""
    store_fault: str = ""
    was_dropped: bool = False
    """The engine stopped before there was an answer."""
    is_promised: bool = False
    """A webhook has been answered with nothing: it is for us to bring the answer."""
    is_forgotten: bool = False
    """Its sender has been erased: it is neither answered any more nor kept."""

    def document(self) -> Answer:
        """For a webhook. Raises StoreDown and Overloaded."""
        if self.store_fault:
            raise StoreDown(self.store_fault)
        if self.was_dropped:
            raise Overloaded(STOPPED_RETRY_S)
        return self.provider.answer_text("" if self.by_rest else self.answer)

    def clear(self) -> None:
        """Neither words nor number are kept of a sender who has been erased."""
        if self.is_forgotten and self.done.is_set():
            self.answer = ""
            self.incoming = replace(self.incoming, sender="", text="")


class TextDesk:
    """``run`` it in a task that outlives the webhooks; ``new_http_client`` makes the client of one late answer."""

    def __init__(
        self,
        sessions: Sessions,
        settings: SessionSettings,
        metrics: Metrics,
        new_http_client: Callable[[], httpx.AsyncClient],
    ) -> None:
        self.owed = 0
        """Answers that are to go out over REST and have not."""
        self._sessions = sessions
        self._answer_s = settings.text_answer_s
        self._region = settings.default_region
        self._limiter = RateLimiter(settings.texts_per_minute_per_caller)
        self._metrics = metrics
        self._new_http_client = new_http_client
        self._texts: OrderedDict[_Key, _Text] = OrderedDict()
        self._under_way = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Texts are answered in here; until cancelled, which drops what is still owed."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def answer(self, provider: Provider, incoming: IncomingText) -> Answer:
        """The document for a text's webhook. The same text asked again has the same answer, and is answered once.

        Raises StoreDown when that is known in time, and Overloaded; then the text may be asked again.
        """
        key = (provider.name, incoming.text_id)
        text = self._texts.get(key)
        if text is None:
            if not self._limiter.allows(self._limited_as(incoming.sender)):
                self._count(TextOutcome.RATE_LIMIT)
                log.info("text_refused", provider=provider.name, text_id=incoming.text_id, why="rate_limit")
                return provider.answer_text("")
            text = self._begin(key, provider, incoming)
        if not text.is_promised:
            await self._wait(text)
        return text.document()

    async def forget(self, number: str) -> None:
        """Of the texts of this number (E.164) only their ids stay known, so that none is answered twice."""
        for text in self._texts.values():
            if e164(text.incoming.sender, self._region) == number:
                text.is_forgotten = True
                text.clear()

    def _limited_as(self, sender: str) -> str:
        """Withheld senders are not one number."""
        is_withheld = "".join(filter(str.isdigit, sender)) in PLACEHOLDERS
        return e164(sender, self._region) or ("" if is_withheld else number_key(sender))

    def _begin(self, key: _Key, provider: Provider, incoming: IncomingText) -> _Text:
        """Raises Overloaded."""
        if self._nursery is None or not self._sessions.agents:
            raise Overloaded(STOPPED_RETRY_S)
        by_rest = not provider.answers_texts
        if self._under_way >= IDS_KEPT or (by_rest and self.owed >= MAX_OWED):
            raise Overloaded(self._answer_s)
        text = self._texts[key] = _Text(provider, incoming, by_rest)
        if len(self._texts) > IDS_KEPT:
            del self._texts[next(known for known, other in self._texts.items() if other.done.is_set())]
        self.owed += by_rest
        self._under_way += 1
        self._nursery.start_soon(self._serve, key, text)
        return text

    async def _wait(self, text: _Text) -> None:
        """Until there is an answer, or it is promised. Raises Overloaded."""
        try:
            with trio.move_on_after(self._answer_s):
                await text.done.wait()
        finally:
            # Also when the webhook was cut off: somebody has to bring the answer.
            if not text.done.is_set():
                self._promise(text)
        if not text.done.is_set() and not text.is_promised:
            raise Overloaded(self._answer_s)  # it stays known: asked again, the answer may be there

    def _promise(self, text: _Text) -> None:
        if not text.by_rest and self.owed < MAX_OWED:
            text.by_rest = True
            self.owed += 1
        text.is_promised = text.by_rest

    # --- in the nursery -------------------------------------------------------------------------------------

    async def _serve(self, key: _Key, text: _Text) -> None:
        try:
            outcome = await self._think(text)
            if outcome is TextOutcome.STORE_DOWN and text.is_promised:
                text.store_fault = ""  # too late to be asked again
            if text.store_fault:
                del self._texts[key]
            text.done.set()
            text.clear()
            if text.by_rest and text.answer and not text.store_fault and not await self._was_sent(text):
                outcome = TextOutcome.FAILED
            self._count(outcome)
        finally:
            text.was_dropped = not text.done.is_set()
            text.done.set()
            self._under_way -= 1
            self.owed -= text.by_rest

    async def _think(self, text: _Text) -> TextOutcome:
        """Sets the answer: a sentence, whatever happens."""
        text.answer = SORRY
        words = _plain(text.incoming.text)
        if not words.strip():
            text.answer = NO_WORDS
            return TextOutcome.ANSWERED
        try:
            said = await self._sessions.text(text.provider.name, replace(text.incoming, text=words))
        except StoreDown as exc:
            text.store_fault = exc.why
            return TextOutcome.STORE_DOWN
        except RateLimited:
            text.answer = ""
            return TextOutcome.RATE_LIMIT
        except (Busy, VendorError, trio.TooSlowError) as exc:
            self._tell("text_failed", text, type(exc).__name__)
            return TextOutcome.FAILED
        except Exception as exc:  # the edge of one text
            log.error("text_failed", provider=text.provider.name, error=type(exc).__name__, exc_info=exc)
            return TextOutcome.FAILED
        text.answer = said.text
        return TextOutcome.ANSWERED_LATER if text.by_rest else TextOutcome.ANSWERED

    async def _was_sent(self, text: _Text) -> bool:
        if Ability.SEND_TEXT not in text.provider.control.abilities:
            self._tell("text_not_sent", text, "not_configured")
            return False
        try:
            with trio.fail_after(SEND_S):
                async with self._new_http_client() as client:
                    return await self._send(text, client)
        except trio.TooSlowError:
            self._tell("text_not_sent", text, "timeout")
        except Exception as exc:  # the edge of one text
            log.error("text_not_sent", provider=text.provider.name, error=type(exc).__name__, exc_info=exc)
        return False

    async def _send(self, text: _Text, client: httpx.AsyncClient) -> bool:
        incoming = text.incoming
        for pause_s in (*PAUSES_S, None):
            try:
                await text.provider.control.send_text(incoming.recipient, incoming.sender, text.answer, client)
                return True
            except VendorError as exc:
                self._tell("text_not_sent", text, str(exc))
            if pause_s is not None:
                await trio.sleep(pause_s)
        return False

    def _tell(self, event: str, text: _Text, why: str) -> None:
        log.warning(event, provider=text.provider.name, text_id=text.incoming.text_id, why=why)

    def _count(self, outcome: TextOutcome) -> None:
        self._metrics.texts_total.labels(modality=Modality.SMS, outcome=outcome).inc()


def _plain(text: str) -> str:
    """What can be stored everywhere: no NUL, no half of a character."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:MAX_CHARS]
