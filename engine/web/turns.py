"""Written turns over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET
from starlette.responses import Response

from engine.errors import Busy, RateLimited, StoreDown
from engine.events import Modality
from engine.observe.labels import TextOutcome
from engine.observe.metrics import Metrics
from engine.sessions.answers import TurnAnswer
from engine.web.answers import JSON, Denied, json, retry_after
from engine.web.desk import Sessions
from engine.web.gate import Gate
from engine.web.keys import Scope
from engine.web.operations import Asked, Guarded, Inputs, Operation
from engine.web.shapes import Nothing, ResetBody, ResetReply, TurnBody, TurnReply

STARTING_S = 5.0
TURN_S = 32.0
"""For a written turn. A little more than the sessions' own limit, which ends it in a way that is told."""


def turn_operations(sessions: Sessions, gate: Gate, metrics: Metrics, *, turn_s: float = TURN_S) -> list[Operation]:
    turns = _Turns(sessions, metrics)
    guarded = Guarded(gate, Scope.TURN)
    return [
        guarded.operation(
            "POST",
            "/turn",
            "turn",
            summary="Say something to an agent, and get the answer",
            inputs=Inputs(Nothing, Nothing, TurnBody),
            answer=turns.turn,
            replies={JSON: TurnReply},
            refusals=frozenset({404, 502}),
            within_s=turn_s,
            description="One written turn on the conversation of `stream_sid`; it has all turns before it in mind.",
        ),
        guarded.operation(
            "POST",
            "/session/reset",
            "reset",
            summary="End and clear a conversation",
            inputs=Inputs(Nothing, Nothing, ResetBody, body_is_required=False),
            answer=turns.reset,
            replies={JSON: ResetReply},
        ),
    ]


def check_agent(sessions: Sessions, agent: str) -> None:
    """Raises Denied."""
    if agent not in sessions.agents:
        known = ", ".join(sorted(sessions.agents))
        raise Denied(404, f"agent: there is no such agent; there are: {known}", field="agent")


@dataclass(frozen=True, slots=True)
class _Turns:
    sessions: Sessions
    metrics: Metrics

    async def turn(self, asked: Asked[Nothing, Nothing, TurnBody]) -> Response:
        body = asked.body
        if not self.sessions.agents:
            raise Denied(503, "The agents are not ready yet.", "starting", headers=retry_after(STARTING_S))
        agent = "" if body.agent is UNSET else body.agent
        if body.agent is not UNSET:
            check_agent(self.sessions, agent)
        answer = await self._counted(body.text, body.stream_sid, agent)
        return json(TurnReply(answer.session_id, answer.turn_id, answer.text, answer.agent, answer.is_over))

    async def reset(self, asked: Asked[Nothing, Nothing, ResetBody]) -> Response:
        stream_id = asked.body.stream_sid
        return json(ResetReply(stream_id, await self.sessions.reset(stream_id)))

    async def _counted(self, text: str, stream_id: str, agent: str) -> TurnAnswer:
        outcome = TextOutcome.FAILED
        try:
            answer = await self.sessions.turn(text, stream_id=stream_id, agent=agent)
            outcome = TextOutcome.ANSWERED
        except StoreDown:
            outcome = TextOutcome.STORE_DOWN
            raise
        except (Busy, RateLimited):
            outcome = TextOutcome.RATE_LIMIT
            raise
        finally:
            self.metrics.texts_total.labels(modality=Modality.TEXT, outcome=outcome).inc()
        return answer
