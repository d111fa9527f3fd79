"""One call, from its admitted media socket to the proof that nothing of it is left.

This file is how a call lives: ``Call.run`` opens what the call owns through its ledger, talks, closes side by side
within one deadline, and leaves one verdict. Nothing but Cancelled leaves it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import structlog
import trio

from engine.calls.control import LiveControl
from engine.calls.meters import CallMeters
from engine.calls.parts import AnyEvent, AnyLink, Line, Parts, Words
from engine.calls.recording import RecordedLink, Recordings, recorded
from engine.calls.requests import Requests
from engine.calls.rest import RING_S, CallRest
from engine.calls.returning import RETURN_S, RETURNS, Left, Resumption
from engine.calls.slots import Over, Slot
from engine.calls.talks.conversing import Conversing
from engine.calls.text_link import TextLink, open_text_link
from engine.calls.verdicts import APOLOGISES, HANGS_UP, close_code, outcome_of, verdict_of
from engine.errors import CallEnd, Cause, ProtocolError, SlowPeer
from engine.events import AudioFormat, CallInfo, Stopped, Transfer
from engine.observe.labels import WebhookEvent
from engine.observe.logs import mask_number
from engine.observe.metrics import Metrics
from engine.observe.timeline import Timeline, Watcher, What
from engine.ports import Codec, Mode, ProviderLink, ResourceKind
from engine.runtime.book import Book
from engine.runtime.holdings import Holdings
from engine.runtime.ledger import Ledger
from engine.runtime.sockets import Socket
from engine.sessions.call_session import CallSession, open_lone_session
from engine.settings import Limits

log = structlog.get_logger()

EARLY_EVENTS = 100
"""What is kept of the line while the vendors open: the last two seconds."""
APOLOGY_S = 6.0
SILENT_GRACE_S = 3.0
"""A call that the caller gives up sooner is not counted as one that the agent was silent in."""
HANG_UP_SHARE = 0.9
"""Of the time for closing, what the provider's REST API has for a hang-up: its client closes within it, too."""


class OpenLink(Protocol):
    """Makes a media socket that has started into a link. Leaving the block stops sending; the socket stays."""

    def __call__(
        self,
        socket: Socket,
        codec: Codec,
        form: AudioFormat,
        *,
        on_bad: Callable[[str], None],
        on_late: Callable[[float], None],
        on_dry: Callable[[float], None],
        on_drop: Callable[[str, float], None],
    ) -> AbstractAsyncContextManager[ProviderLink]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process gives to every call; it keeps nothing of any."""

    limits: Limits
    metrics: Metrics
    open_link: OpenLink
    new_http_client: Callable[[], httpx.AsyncClient]
    watchers: list[Watcher] = field(default_factory=list)
    open_session: Callable[[CallInfo, Metrics], AbstractAsyncContextManager[CallSession]] = open_lone_session
    store: str = ""
    """Whose sessions they are: the vendor in the ledger. Empty: they are kept nowhere, and nothing is owned."""
    recordings: Recordings | None = None
    """Who records calls, if somebody does."""
    webhooks: Callable[[], str] = lambda: ""
    """The public address that our webhooks are below, without a slash at its end."""
    tell: Callable[[WebhookEvent, str, str, Mapping[str, object]], None] = lambda *_: None
    """An event for the world outside: which, session id, caller, fields. Never waits."""


class Call:
    """``run`` it once, in the task that holds its slot. The verdict ends up in ``slot.end``."""

    def __init__(self, line: Line, slot: Slot, around: Surroundings) -> None:
        self._line = line
        self._info = line.info
        self._slot = slot
        self._around = around
        self._meters = CallMeters(around.metrics, line.info, line.agent)
        self._timeline = Timeline(line.info.call_id, around.watchers)
        self._log = log.bind(call_id=line.info.call_id, provider=line.info.provider)
        self._ledger = Ledger(line.info.call_id, Book(around.metrics, self._timeline))
        self._session: CallSession | None = None
        control = LiveControl(
            line.provider,
            line.info,
            self._ledger,
            self._meters,
            new_http_client=around.new_http_client,
            number=lambda: self._session.number if self._session else "",
        )
        self._rest = CallRest(
            line.provider.control,
            line.info,
            self._ledger,
            self._meters,
            new_http_client=around.new_http_client,
            webhooks=around.webhooks,
        )
        transfer = self._rest.transfer
        self._parts = Parts(line, around.limits, self._meters, self._timeline, self._ledger, control, transfer)
        self._verdict: CallEnd | None = None
        self._talking = trio.CancelScope()
        self._apologising = trio.CancelScope()
        self._said_s = 0.0
        """Beside the talk."""
        self._talk: Conversing | None = None
        self._owed = ""
        """An apology that nothing of ours could say: the provider does, when it asks what becomes of the caller."""
        self._is_in_other_hands = False
        """Somebody else took the caller when we failed: the call goes on without us."""
        self._started_at_s = self._ended_at_s = trio.current_time()
        slot.on_request, slot.on_drain = self._requested, self._drain
        self._requests = Requests(slot, self._rest)

    async def run(self) -> None:
        """Never raises but Cancelled, and is gone within ``limits.close_s`` of its end, and a little."""
        self._log.info("call_started", agent=self._info.agent, caller=mask_number(self._info.caller))
        self._timeline.note(What.CALL_STARTED, provider=self._info.provider, agent=self._info.agent)
        try:
            with trio.CancelScope() as owning:
                async with Holdings(on_lost=self._lost, on_cut=self._ledger.abort_all) as holdings:
                    try:
                        await self._live(holdings)
                    except Exception as exc:  # noqa: BLE001 - the edge of the call: only Cancelled may pass
                        self._failed(exc)
                    finally:
                        self._ended_at_s = trio.current_time()
                    # From here on only closing is left, all of it side by side: politely until the deadline, then
                    # at once.
                    if (keep_s := self._keeps_s()) == 0:
                        self._slot.over = Over(self._owed, is_news=self._is_to_be_asked)
                    elif self._session is not None:
                        self._session.returns_within_s = keep_s
                    owning.deadline = self._ended_at_s + self._around.limits.close_s
                    holdings.let_go()
                    await self._hang_up()
        except* Exception as group:  # noqa: BLE001 - the edge again: from tasks that were being cut
            self._failed(group)
        finally:
            self._released()

    # --- its life -------------------------------------------------------------------------------------------

    async def _live(self, holdings: Holdings) -> None:
        socket = self._line.socket
        link = await holdings.open(
            self._ledger.own(
                ResourceKind.PROVIDER_SOCKET,
                self._info.provider,
                self._connected(),
                is_closed=lambda _: socket.closed,
                abort=lambda _: socket.abort(),
            )
        )
        link = await self._recorded(holdings, link)
        if self._slot.requested is not None:
            self._requested(self._slot.requested)
        with self._talking:
            try:
                await self._converse(holdings, link)
            except Exception as exc:  # noqa: BLE001 - becomes the verdict; what is left to say needs no vendor
                self._failed(exc)
        if self._end_so_far.cause in APOLOGISES:
            with self._apologising:
                is_told = await self._apologise(link)
                if self._line.rescue:
                    self._is_in_other_hands = await self._rest.transfer(Transfer(self._line.rescue))
                if not is_told and not self._is_in_other_hands:
                    self._owed = self._line.agent.phrases.apology
                    self._log.info("apology_left_to_provider")

    async def _converse(self, holdings: Holdings, link: AnyLink) -> None:
        early: deque[AnyEvent] = deque(maxlen=EARLY_EVENTS)
        with trio.move_on_after(self._around.limits.open_s) as opening:
            async with self._noticing_hang_up(link, early) as nursery:
                nursery.start_soon(self._fill_the_wait, link)
                await self._announce_recording(link)
                session = await self._joined(holdings)
                talk = await self._parts.open(holdings, link, session)
        if opening.cancelled_caught:
            self._end(CallEnd(Cause.SPEECH_FAILED, "a vendor did not open in time"))
        if self._verdict is not None:
            return
        await self._talk_until_over(talk, early)

    async def _talk_until_over(self, talk: Conversing, early: Iterable[AnyEvent]) -> None:
        """One talk after the other, as agents hand the caller over that hear, think and speak in another way."""
        while True:
            self._talk = talk
            end_or_heir = await talk.run(self._requests.beside, early)
            if isinstance(end_or_heir, CallEnd):
                self._end(end_or_heir)
                return
            talk, early = end_or_heir, ()

    async def _recorded(self, holdings: Holdings, link: AnyLink) -> AnyLink:
        """The link with a recorder at it, if the call is to be recorded."""
        recordings = self._around.recordings
        if recordings is None or isinstance(link, TextLink) or not recordings.wants(self._info):
            return link
        text = self._announcement
        if text and self._line.agent.clip(text, self._info.format) is None:
            recordings.skip(self._info, "it cannot be announced")
            return link
        opening = recordings.open(self._info)
        recorder = await holdings.open(
            self._ledger.own(
                ResourceKind.RECORDER, recordings.vendor, opening, is_closed=lambda recorder: recorder.is_closed
            )
        )
        return recorded(link, recorder)

    async def _announce_recording(self, link: AnyLink) -> None:
        if isinstance(link, RecordedLink) and self._announcement and self._line.goes_on is None:
            await self._say_fixed(link, self._announcement)

    @property
    def _announcement(self) -> str:
        """Of the recording, by us: a speech-to-speech model has no words of its own, so the provider has said it."""
        recordings = self._around.recordings
        return recordings.announcement if recordings and self._line.agent.mode is not Mode.REALTIME else ""

    async def _joined(self, holdings: Holdings) -> CallSession:
        """The call's seat at its session: what was said before decides how it begins."""
        opening, store = self._around.open_session(self._info, self._around.metrics), self._around.store
        if store:
            opening = self._ledger.own(
                ResourceKind.STORE_SESSION, store, opening, is_closed=lambda session: session.is_closed
            )
        self._session = session = await holdings.open(opening)
        self._slot.answers = lambda: session.agent
        self._log = self._log.bind(session_id=session.session_id)
        self._log.info("session_joined", is_returning=session.is_returning)
        return session

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AnyLink]:
        """The link over the call's socket; the socket closes with it."""
        socket = self._line.socket
        try:
            async with self._opening_link() as link:
                yield link
                if isinstance(link, TextLink) and self._end_so_far.cause in HANGS_UP:
                    link.hang_up()
        except BaseException:
            socket.abort()
            raise
        code, reason = close_code(self._end_so_far)
        await socket.aclose(code, reason)

    def _opening_link(self) -> AbstractAsyncContextManager[AnyLink]:
        line, meters = self._line, self._meters
        if isinstance(line.codec, Words):
            return open_text_link(line.socket, line.codec.codec, on_bad=meters.on_bad)
        return self._around.open_link(
            line.socket,
            line.codec,
            self._info.format,
            on_bad=meters.on_bad,
            on_late=meters.on_late,
            on_dry=meters.on_dry,
            on_drop=meters.on_drop,
        )

    @asynccontextmanager
    async def _noticing_hang_up(
        self, link: AnyLink, early: deque[AnyEvent] | None = None
    ) -> AsyncIterator[trio.Nursery]:
        """While the block waits for something else: a hang-up cancels it. What else came is kept in ``early``. Tasks in
        the nursery end with the block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_until_hang_up, link, early, nursery.cancel_scope)
            yield nursery
            nursery.cancel_scope.cancel()

    async def _read_until_hang_up(
        self, link: AnyLink, early: deque[AnyEvent] | None, waiting: trio.CancelScope
    ) -> None:
        try:
            while not isinstance(event := await link.receive(), Stopped):
                if early is not None:
                    if len(early) == EARLY_EVENTS:
                        self._meters.early_frame_dropped()
                    early.append(event)
            self._end(CallEnd(Cause.CALLER_HANGUP))
        except trio.EndOfChannel:
            self._end(CallEnd(Cause.PROVIDER_LOST, "the media socket went away"))
        except (SlowPeer, ProtocolError) as exc:
            self._end(verdict_of(exc))
        waiting.cancel()

    async def _fill_the_wait(self, link: AnyLink) -> None:
        """Vendors that take long to open do not leave the caller in silence."""
        await trio.sleep(self._around.limits.filler_s)
        if await self._say_fixed(link, self._line.agent.phrases.filler):
            self._timeline.note(What.FILLER)

    # --- its end --------------------------------------------------------------------------------------------

    @property
    def _end_so_far(self) -> CallEnd:
        return self._verdict or self._slot.requested or self._slot.end

    def _end(self, verdict: CallEnd) -> None:
        """End the conversation, if it still goes on. The first verdict counts."""
        self._verdict = self._verdict or verdict
        if self._talk is not None:
            self._talk.ground.pulse.end(verdict)
        else:
            self._talking.cancel()

    def _requested(self, verdict: CallEnd) -> None:
        """Somebody outside wants the call to end: nothing is said any more."""
        self._end(verdict)
        self._apologising.cancel()

    def _drain(self) -> None:
        if self._talk is not None:
            self._talk.say(self._talk.phrases.drain, then=CallEnd(Cause.DRAIN))
        else:
            self._end(CallEnd(Cause.DRAIN))

    def _lost(self, exc: Exception) -> None:
        """A resource failed on its own while it was held."""
        self._failed(exc)
        self._end(verdict_of(exc))

    def _failed(self, exc: Exception) -> None:
        verdict = verdict_of(exc)
        is_bug = verdict.cause is Cause.INTERNAL_ERROR
        # The traceback of a bug is worth a look; a vendor's failure explains itself.
        self._log.warning(
            "call_failed", cause=str(verdict.cause), detail=verdict.detail, exc_info=exc if is_bug else None
        )
        # What breaks while the talk is being let go of does not change how the call went.
        self._verdict = self._verdict or (self._talk.ground.pulse.verdict if self._talk else None) or verdict

    async def _apologise(self, link: AnyLink) -> bool:
        """No caller is left in silence: words that need no vendor, as long as somebody listens. False: there were none
        to be said."""
        if not isinstance(link, TextLink):
            link.clear()
        is_said = True
        with trio.move_on_after(APOLOGY_S):
            async with self._noticing_hang_up(link):
                is_said = await self._say_fixed(link, self._line.agent.phrases.apology)
                if is_said:
                    await trio.sleep(link.remaining_s())
        return is_said

    async def _say_fixed(self, link: AnyLink, text: str) -> bool:
        """A phrase for which there is a clip, or a provider that speaks. False: there is neither."""
        if isinstance(link, TextLink):
            link.say(text)
            link.end_utterance()
            self._said_s += link.seconds_of(text)
            return True
        clip = self._line.agent.clip(text, self._info.format)
        if clip is not None:
            self._said_s += self._info.format.duration_s(clip)
            await link.play(clip)
        return clip is not None

    async def _hang_up(self) -> None:
        """Tell the provider that the call is over, where that is our decision; its socket closes in any case. One that
        speaks itself has been told over the socket, behind our last words."""
        is_told = isinstance(self._line.codec, Words) or self._is_in_other_hands or bool(self._owed)
        if self._end_so_far.cause in HANGS_UP and not is_told:
            await self._rest.hang_up(self._around.limits.close_s * HANG_UP_SHARE)

    @property
    def _is_to_be_asked(self) -> bool:
        """The caller is there still, and the provider knows no better than to ask us."""
        is_ours = self._end_so_far.cause in HANGS_UP and not self._is_in_other_hands
        return is_ours and (bool(self._owed) or not self._rest.hangs_up)

    def _released(self) -> None:
        """Everything has closed, or is counted as leaked. One line, one set of figures."""
        self._ledger.settle()
        end = self._slot.end = self._end_so_far
        if self._keeps_s():
            self._slot.left = self._left()
        now = trio.current_time()
        teardown_s, talk = now - self._ended_at_s, self._talk
        audio_in_s, audio_out_s = (talk.ground.pulse.audio_in_s, talk.voice.audio_out_s) if talk else (0.0, 0.0)
        audio_out_s += self._said_s
        metrics, provider = self._around.metrics, self._info.provider
        metrics.call_duration_seconds.labels(provider=provider).observe(now - self._started_at_s)
        metrics.call_teardown_seconds.labels(outcome=outcome_of(end)).observe(teardown_s)
        self._meters.audio(in_s=audio_in_s, out_s=audio_out_s, spoken_s=talk.voice.spoken_s if talk else 0.0)
        self._meters.released()
        if audio_out_s == 0 and self._ended_at_s - self._started_at_s > SILENT_GRACE_S:
            metrics.silent_calls_total.labels(provider=provider).inc()
        released_ms = round(teardown_s * 1000, 1)
        self._log.info("call_released", resources=self._ledger.opened, left=self._ledger.leaks, released_ms=released_ms)
        self._log.info(
            "call_ended",
            end_reason=str(end.reason),
            cause=str(end.cause),
            detail=end.detail,
            seconds=round(self._ended_at_s - self._started_at_s, 3),
            turns=talk.ground.pulse.turns_taken if talk else 0,
            teardown_ms=released_ms,
            audio_in_ms=round(audio_in_s * 1000),
            audio_out_ms=round(audio_out_s * 1000),
        )
        self._timeline.note(What.CALL_ENDED, reason=str(end.reason), cause=str(end.cause))
        self._tell_ended(end, talk.ground.pulse.turns_taken if talk else 0)
        self._timeline.note(
            What.CALL_RELEASED, opened=self._ledger.opened, left=self._ledger.leaks, released_ms=released_ms
        )

    def _left(self) -> Left:
        """For the next stream of this call, should it come."""
        before, talk = self._slot.goes_on, self._talk
        unfinished = talk.unfinished if talk else self._line.goes_on
        if self._end_so_far.cause is Cause.TRANSFERRED:
            unfinished = Resumption((self._line.agent.phrases.not_connected,))
        times = before.times + 1 if before else 1
        began_at_s, agent = self._line.began_at_s, self._slot.answers()
        return Left(self._info.stream_id, agent, began_at_s, unfinished, times, self._keeps_s(), self._rest.introduced)

    def _keeps_s(self) -> float:
        """How long place and session wait for the caller to be back; 0: the call has ended for good."""
        cause = self._end_so_far.cause
        if cause is Cause.TRANSFERRED and self._rest.introduced:
            return RING_S + RETURN_S
        return RETURN_S if cause in RETURNS else 0.0

    def _tell_ended(self, end: CallEnd, turns: int) -> None:
        session, info = self._session, self._info
        fields = {
            "call_id": info.call_id,
            "provider": info.provider,
            "reason": str(end.reason),
            "seconds": round(self._ended_at_s - self._started_at_s, 3),
            "turns": turns,
            "may_return": self._slot.may_return,
        }
        # Of a caller who has been erased in the meantime the session knows no number any more.
        number = session.number if session else ""
        self._around.tell(WebhookEvent.CALL_ENDED, session.session_id if session else "", number, fields)
