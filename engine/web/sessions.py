"""The history of sessions over HTTP: read, search, edit, branch, hand over, export, trace, validate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec import UNSET
from starlette.responses import Response

from engine.web import shapes
from engine.web.answers import JSON, Denied, json
from engine.web.desk import Desk, Report
from engine.web.gate import Gate
from engine.web.keys import Scope
from engine.web.operations import Asked, Guarded, Inputs, Operation
from engine.web.shapes import MessagePath, Nothing, SessionPath
from engine.web.turns import check_agent

T = TypeVar("T")

MARKDOWN = "text/markdown"
PATH = "/api/sessions/{session_id}"
ALL = 100

OfSession = Asked[SessionPath, Nothing, Nothing]


def session_operations(desk: Desk, gate: Gate) -> list[Operation]:
    its = _Sessions(desk)
    op = Guarded(gate, Scope.HISTORY).operation
    plain = Inputs(SessionPath, Nothing, Nothing)
    return [
        op(
            "GET",
            "/api/search",
            "search",
            summary="Search in what was said",
            inputs=Inputs(Nothing, shapes.SearchQuery, Nothing),
            answer=its.search,
            replies={JSON: shapes.SearchReply},
        ),
        op(
            "GET",
            PATH,
            "session",
            summary="A session with its last messages",
            inputs=plain,
            answer=its.session,
            replies={JSON: shapes.SessionView},
        ),
        op(
            "GET",
            f"{PATH}/messages",
            "messages",
            summary="The messages of a session, or those with these words",
            inputs=Inputs(SessionPath, shapes.MessagesQuery, Nothing),
            answer=its.messages,
            replies={JSON: shapes.MessagesReply},
        ),
        op(
            "PATCH",
            f"{PATH}/messages/{{message_id}}",
            "edit",
            summary="Edit a message; the original is kept beside it",
            inputs=Inputs(MessagePath, Nothing, shapes.EditBody),
            answer=its.edit,
            replies={JSON: shapes.MessageView},
        ),
        op(
            "POST",
            f"{PATH}/branch",
            "branch",
            summary="Begin a new session that goes on after a message",
            inputs=Inputs(SessionPath, Nothing, shapes.BranchBody),
            answer=its.branch,
            replies={JSON: shapes.BranchReply},
            status=201,
        ),
        op(
            "POST",
            f"{PATH}/handover",
            "handover",
            summary="Let another agent go on with a session",
            inputs=Inputs(SessionPath, Nothing, shapes.HandoverBody),
            answer=its.hand_over,
            replies={JSON: shapes.HandoverReply},
        ),
        op(
            "GET",
            f"{PATH}/export",
            "export",
            summary="A session as a document",
            inputs=Inputs(SessionPath, shapes.ExportQuery, Nothing),
            answer=its.export,
            replies={JSON: dict[str, Any], MARKDOWN: str},
        ),
        op(
            "GET",
            f"{PATH}/trace",
            "trace",
            summary="What happened in a session, vendor requests included",
            inputs=plain,
            answer=its.trace,
            replies={JSON: shapes.TraceReply},
        ),
        op(
            "GET",
            f"{PATH}/validation",
            "validation",
            summary="Whether what the model was shown was complete and well formed",
            inputs=plain,
            answer=its.validate,
            replies={JSON: shapes.ValidationReply},
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Sessions:
    desk: Desk

    async def search(self, asked: Asked[Nothing, shapes.SearchQuery, Nothing]) -> Response:
        query = asked.query
        session_id = "" if query.session_id is UNSET else query.session_id
        return json(await self._search(query.q, session_id, query.limit))

    async def session(self, asked: OfSession) -> Response:
        return json(shapes.SessionView.of(_found(await self.desk.history.session(asked.path.session_id))))

    async def messages(self, asked: Asked[SessionPath, shapes.MessagesQuery, Nothing]) -> Response:
        session_id, words = asked.path.session_id, asked.query.q
        stored = _found(await self.desk.history.session(session_id))
        messages = [shapes.MessageView.of(entry) for entry in stored.entries]
        if words is not UNSET:
            hits = (await self._search(words, session_id, ALL)).hits
            wanted = {hit.message.message_id for hit in hits}
            messages = [message for message in messages if message.message_id in wanted]
        return json(shapes.MessagesReply(session_id, messages))

    async def _search(self, words: str, session_id: str, limit: int) -> shapes.SearchReply:
        found = await self.desk.history.search(words, session_id=session_id, limit=limit)
        hits = [shapes.Hit(hit.session_id, shapes.MessageView.of(hit.entry)) for hit in found.hits]
        return shapes.SearchReply(hits, found.is_complete)

    async def edit(self, asked: Asked[MessagePath, Nothing, shapes.EditBody]) -> Response:
        path = asked.path
        entry = await self.desk.history.edit(path.session_id, path.message_id, asked.body.text, asked.by)
        return json(shapes.MessageView.of(_found(entry)))

    async def branch(self, asked: Asked[SessionPath, Nothing, shapes.BranchBody]) -> Response:
        record = _found(await self.desk.history.branch(asked.path.session_id, asked.body.message_id, asked.by))
        return json(shapes.BranchReply(record.session_id, record.parent), 201)

    async def hand_over(self, asked: Asked[SessionPath, Nothing, shapes.HandoverBody]) -> Response:
        session_id, agent = asked.path.session_id, asked.body.agent
        check_agent(self.desk.sessions, agent)
        if not await self.desk.sessions.hand_over(session_id, agent):
            _found(None)
        return json(shapes.HandoverReply(session_id, agent))

    async def export(self, asked: Asked[SessionPath, shapes.ExportQuery, Nothing]) -> Response:
        wanted = asked.query.format
        text = _found(await self.desk.history.export(asked.path.session_id, wanted))
        return Response(text.encode("utf-8", "replace"), media_type=JSON if wanted == "json" else MARKDOWN)

    async def trace(self, asked: OfSession) -> Response:
        session_id = asked.path.session_id
        events = _found(await self.desk.history.trace(session_id))
        moments = [shapes.TraceMoment(event.at, event.what, event.fields) for event in events]
        return json(shapes.TraceReply(session_id, moments))

    async def validate(self, asked: OfSession) -> Response:
        session_id = asked.path.session_id
        return json(_as_reply(session_id, _found(await self.desk.history.validate(session_id))))


def _found(value: T | None) -> T:
    """Raises Denied."""
    if value is None:
        raise Denied(404, "There is no such session, or no such message in it.")
    return value


def _as_reply(session_id: str, report: Report) -> shapes.ValidationReply:
    problems = [shapes.ProblemView(problem.turn_id, problem.rule, problem.detail) for problem in report.problems]
    return shapes.ValidationReply(session_id, not problems, report.turns, problems)
