"""A speech-to-speech call goes to another agent: the next one opens while this one still has the line."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from engine.calls.talks.conversing import Conversing, Succession
from engine.calls.talks.errands import Errands, Minded
from engine.calls.talks.player import Player
from engine.calls.talks.pulse import Ground
from engine.calls.talks.scribe import Scribe
from engine.errors import VendorError

log = structlog.get_logger()

WORDS_S = 1.5
"""For the words of the caller that are still to come, before the next agent is shown what was said."""
LOOK_S = 0.05
QUIET_S = 10.0
"""For both sides to fall silent, once the next agent is ready; then it takes over in any case."""


class Handing:
    """One at a time. While it ``is_under_way``, nothing that this talk's model begins is heard any more."""

    def __init__(
        self, ground: Ground, player: Player, scribe: Scribe, errands: Errands, *, is_caller_quiet: Callable[[], bool]
    ) -> None:
        self.heir: Conversing | None = None
        """Who goes on with the call, once this talk has left it."""
        self.is_under_way = False
        self._ground = ground
        self._player = player
        self._scribe = scribe
        self._errands = errands
        self._is_caller_quiet = is_caller_quiet
        self._words: list[str] = []
        self._is_shown = False
        """The next agent has been shown what was said."""

    def heard(self, text: str) -> None:
        """The caller has said this. The next agent answers it, if it could not be shown it."""
        if self._is_shown:
            self._words.append(text)

    async def to(self, name: str, *, is_owed: bool) -> bool:
        """Hand over to this agent, which ends the talk. ``is_owed``: the caller waits for an answer. False: it could
        not be done, and this talk goes on."""
        if self.is_under_way:
            return False
        self.is_under_way = True
        heir = await self._prepared(name)
        if heir is not None and await self._pass_on(heir, is_owed=is_owed):
            return True
        self.is_under_way = self._is_shown = False
        self._words.clear()
        return False

    async def _prepared(self, name: str) -> Conversing | None:
        await _until(lambda: not self._scribe.awaits_words, WORDS_S)
        self._player.be_patient()
        self._is_shown = True
        try:
            heir = await self._errands.hand_over(name, self._on_the_line())
        except VendorError as exc:
            log.warning("hand_over_failed", call_id=self._ground.call.call_id, agent=name, detail=str(exc))
            return None
        return None if isinstance(heir, Minded) else heir  # a mind alone can neither hear nor speak

    async def _pass_on(self, heir: Conversing, *, is_owed: bool) -> bool:
        """As soon as both sides are silent."""
        is_owed = is_owed or any(reply.is_awaited and reply.is_owed for reply in self._player.replies)
        self._player.cut(lambda reply: reply.is_awaited)
        await _until(lambda: self._player.is_idle and self._is_caller_quiet(), QUIET_S)
        if not self._ground.pulse.pass_on():
            return False
        heir.take_over(Succession(is_owed=is_owed or bool(self._words), words=" ".join(self._words)))
        self.heir = heir
        return True

    def _on_the_line(self) -> str:
        """What this agent is saying, and the session does not know yet."""
        return " ".join(reply.spoken.text.strip() for reply in self._player.replies if reply.has_sound)


async def _until(condition: Callable[[], bool], within_s: float) -> None:
    with trio.move_on_after(within_s):
        while not condition():  # noqa: ASYNC110 - it also comes true by the clock, which sets no event
            await trio.sleep(LOOK_S)
