"""The written turns of a session: answered one after the other, beside the turns of its calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from engine.dialogue.context import FactsKnown
from engine.dialogue.history import TurnRecord
from engine.errors import Busy, ModelFailed, StoreDown, VendorError
from engine.runtime.mailbox import Answer, MailboxClosed
from engine.sessions.answering import Answering
from engine.sessions.answers import TurnAnswer
from engine.sessions.around import Around
from engine.sessions.messages import Text
from engine.sessions.notebook import Notebook
from engine.storage.record import Scope, SessionRecord, new_session_id

log = structlog.get_logger()

MAX_WAITING_TEXTS = 8


class WrittenTurns:
    """``run`` it in a task of the session's; all else may be called from any."""

    def __init__(
        self,
        pages: Notebook,
        around: Around,
        catch_up: Callable[[], Awaitable[None]],
        keep: Callable[[TurnRecord, str], Awaitable[None]],
    ) -> None:
        """``keep`` returns once the store has the turn that was answered for this session id. Both raise MailboxClosed,
        ``keep`` also StoreDown."""
        self._pages = pages
        self._around = around
        self._catch_up = catch_up
        self._keep = keep
        self._texts = trio.open_memory_channel[Text](MAX_WAITING_TEXTS)
        self._waiting: set[Answer[TurnAnswer]] = set()

    def __len__(self) -> int:
        """How many wait for their answer."""
        return len(self._waiting)

    async def answer(self, text: Text) -> TurnAnswer:
        """Returns once the answer is made and the turn is stored. Raises Busy, StoreDown, VendorError,
        trio.TooSlowError, MailboxClosed."""
        try:
            self._texts[0].send_nowait(text)
        except trio.WouldBlock:
            raise Busy from None
        self._waiting.add(text.answer)
        try:
            return await text.answer.wait()
        finally:
            self._waiting.discard(text.answer)

    def close(self) -> None:
        """Nobody answers them any more."""
        for answer in self._waiting:
            answer.fail(MailboxClosed("session"))

    async def run(self) -> None:
        """One after the other."""
        async for text in self._texts[1]:
            try:
                text.answer.give(await self._answered(text))
            except Exception as exc:  # noqa: BLE001 - the edge of what an agent does for one text
                text.answer.fail(self._as_known(exc))

    async def _answered(self, text: Text) -> TurnAnswer:
        number = self._pages.record.number
        try:
            await self._catch_up()
            if self._pages.is_gone:
                raise MailboxClosed("session")
            if text.at > self._pages.record.started_at or not await self._was_erased(number, text):
                return await self._answered_and_kept(text)
        except MailboxClosed:
            if not await self._was_erased(number, text):
                raise
        return await self._answered_and_forgotten(text)

    async def _was_erased(self, number: str, text: Text) -> bool:
        """The caller has been erased since he wrote: by another process, or we would know. Raises StoreDown."""
        return await self._around.vault.was_erased(number, text.at)

    async def _answered_and_forgotten(self, text: Text) -> TurnAnswer:
        """Without anything that was known, and kept nowhere."""
        at = self._around.now()
        nobody = SessionRecord(new_session_id(), "", Scope.CALL, at, at, self._pages.record.agent, text.modality)
        answering = Answering(self._around, nobody, (), text.modality, FactsKnown())
        answer, _ = await answering.answer(text.text, text.agent, text.line)
        return answer

    async def _answered_and_kept(self, text: Text) -> TurnAnswer:
        pages, record = self._pages, self._pages.record
        answering = Answering(self._around, record, tuple(pages.entries), text.modality, pages.facts)
        answer, turn = await answering.answer(text.text, text.agent, text.line)
        await self._keep(turn, record.session_id)
        return answer

    def _as_known(self, exc: Exception) -> Exception:
        """What is no error of a port is a bug in an agent, and the caller's text was not answered for it."""
        while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
            exc = exc.exceptions[0]
        if isinstance(exc, VendorError | StoreDown | trio.TooSlowError | MailboxClosed):
            return exc
        log.error("text_failed", session_id=self._pages.record.session_id, exc_info=exc)
        return ModelFailed("agent", type(exc).__name__)
