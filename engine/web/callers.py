"""Callers by their numbers, over HTTP: what is known of them, and their control over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from engine.sessions.analytics import Analytics, analyse
from engine.storage.identity import e164
from engine.storage.record import Stored
from engine.web import shapes
from engine.web.answers import JSON, Denied, json
from engine.web.desk import Desk
from engine.web.gate import Gate
from engine.web.keys import Scope
from engine.web.operations import Asked, Guarded, Inputs, Operation
from engine.web.shapes import Nothing, PhonePath

NOTHING_KEPT = "Nothing is kept of this number."

OfPhone = Asked[PhonePath, Nothing, Nothing]


def caller_operations(desk: Desk, gate: Gate) -> list[Operation]:
    its = _Callers(desk)
    admin = Guarded(gate, Scope.ADMIN).operation
    privacy = Guarded(gate, Scope.PRIVACY).operation
    of_phone = Inputs(PhonePath, Nothing, Nothing)
    return [
        admin(
            "GET",
            "/admin/session/{phone}",
            "callerSessions",
            summary="The sessions of a caller",
            inputs=of_phone,
            answer=its.sessions,
            replies={JSON: shapes.CallerReply},
        ),
        admin(
            "GET",
            "/admin/customer/{phone}/analytics",
            "callerAnalytics",
            summary="How a caller uses calls and texts",
            inputs=of_phone,
            answer=its.analytics,
            replies={JSON: Analytics},
        ),
        admin(
            "GET",
            "/admin/audit",
            "audit",
            summary="Who did what to whose data",
            inputs=Inputs(Nothing, shapes.LimitQuery, Nothing),
            answer=its.audit,
            replies={JSON: shapes.AuditReply},
        ),
        privacy(
            "GET",
            "/privacy/export/{phone}",
            "privacyExport",
            summary="All that is kept of a caller",
            inputs=of_phone,
            answer=its.export,
            replies={JSON: dict[str, Any]},
        ),
        privacy(
            "DELETE",
            "/privacy/delete/{phone}",
            "privacyDelete",
            summary="Erase a caller",
            inputs=of_phone,
            answer=its.delete,
            replies={JSON: shapes.DeleteReply},
            description="Afterwards no byte of the caller is left. Erasing somebody of whom nothing is kept is fine.",
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Callers:
    desk: Desk

    async def sessions(self, asked: OfPhone) -> Response:
        number = self._number(asked)
        stored = await self._of_number(number)
        views = [shapes.SessionView.of(one, with_number=True) for one in reversed(stored)]
        return json(shapes.CallerReply(number, views))

    async def analytics(self, asked: OfPhone) -> Response:
        return json(analyse(await self._of_number(self._number(asked))))

    async def audit(self, asked: Asked[Nothing, shapes.LimitQuery, Nothing]) -> Response:
        events = await self.desk.privacy.audit(asked.query.limit)
        return json(shapes.AuditReply([shapes.AuditView.of(event) for event in events]))

    async def export(self, asked: OfPhone) -> Response:
        exported = await self.desk.privacy.export(self._number(asked), asked.by)
        if not exported["sessions"]:
            raise Denied(404, NOTHING_KEPT)
        return json(exported)

    async def delete(self, asked: OfPhone) -> Response:
        return json(shapes.DeleteReply(await self.desk.privacy.delete(self._number(asked), asked.by)))

    def _number(self, asked: OfPhone) -> str:
        """Raises Denied."""
        number = e164(asked.path.phone, self.desk.default_region)
        if not number:
            raise Denied(400, "phone: expected a phone number, such as +15550100000", field="phone")
        return number

    async def _of_number(self, number: str) -> list[Stored]:
        """Raises Denied."""
        stored = await self.desk.history.of_number(number)
        if not stored:
            raise Denied(404, NOTHING_KEPT)
        return stored
