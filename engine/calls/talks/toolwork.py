"""The tools that a speech-to-speech model calls in a call: each at work in a task of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from engine.calls.talks.player import Player
from engine.calls.talks.pulse import Ground
from engine.calls.talks.replies import Reply, reply_to
from engine.calls.talks.scribe import Scribe
from engine.events import HandOver, HangUp, Noted, ToolCall, ToolResult, Transfer
from engine.ports import Action, Agent, CallTools, RealtimeModel

TOOL_S = 15.0
"""A tool has a deadline of its own; this one is for a tool that has lost it."""
MAX_TOOLS = 16
"""At work at once; a model that calls more is told so."""

HandTo = Callable[[str], Awaitable[bool]]
"""To the agent of this name. False: that cannot be done, and the model goes on."""


class ToolWork:
    """``count`` is how many are at work."""

    def __init__(  # noqa: PLR0917 - of one talk, made in one place
        self, ground: Ground, agent: Agent, tools: CallTools, player: Player, scribe: Scribe, hand_over: HandTo
    ) -> None:
        self.count = 0
        self._session = ground.session
        self._agent = agent
        self._tools = tools
        self._player = player
        self._scribe = scribe
        self._hand_over = hand_over

    def begin_turn(self) -> None:
        self._tools.begin_turn()

    def begin(self, call: ToolCall, model: RealtimeModel, nursery: trio.Nursery) -> None:
        if self.count >= MAX_TOOLS:
            model.tool_results([ToolResult(call.call_id, "Too many tools are at work.", is_error=True)])
            return
        self.count += 1
        replies = self._player.replies
        nursery.start_soon(self._do, call, model, replies.newest or replies.awaited or self._player.last_heard)

    async def _do(self, call: ToolCall, model: RealtimeModel, calling: Reply | None) -> None:
        """``calling`` is the reply that it was called in, after or instead of."""
        self._player.be_patient()
        result = ToolResult(call.call_id, "The tool did not answer in time.", is_error=True)
        actions: Sequence[Action] = ()
        with trio.move_on_after(TOOL_S):
            done = await self._tools.run([call], self._session.recalled(self._agent))
            (result,), actions = done.results, done.actions
        for action in actions:
            match action:
                case Noted():
                    self._scribe.noted(action, calling.say if calling else None)
                case HandOver(agent):
                    if await self._hand_over(agent):
                        return  # still at work: nobody waits for this model any more
                    result = ToolResult(call.call_id, f"{agent} cannot be reached.", is_error=True)
                case HangUp() | Transfer():
                    self._player.after = action
        self.count -= 1
        model.tool_results([result])
        self._player.be_patient()
        if calling is None or calling.utterance.was_interrupted:
            return
        if self._player.after is not None and calling.has_sound:  # these are the last words that go with it
            if calling.is_past:
                await self._player.leave()
        elif not self.count and self._player.replies.awaited is None:
            reply = reply_to(None)
            reply.is_owed = not calling.has_sound
            self._player.expect(reply)
