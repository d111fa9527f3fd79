"""A provider's half of calls that an engine makes: takes the order over REST, calls somebody, tells what becomes of
it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

import httpx
import trio

from engine.phone.call import PhoneCall
from engine.phone.phone import SIDES
from engine.phone.side import Back
from engine.settings import OutboundSettings, Settings
from tests.adapters.providers.rest_api import ApiRequest, RestApi, new_key, pem_of, rest_api
from tests.system.every_provider import callee_of, post, with_all_providers
from tests.system.rig import Rig, running_engine

OURS, THEIRS = "+12025550100", "+12025550143"
KEY = "a-key-of-many-characters"
ACCOUNT = "AC" + "0" * 32
PEM = pem_of(new_key())
ORDERS = ("/Calls.json", "/v1/calls", "/Calls", "/Call/")
"""How the path of an order ends."""
NEWS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "plivo": {
        "ringing": {"CallStatus": "ringing", "Event": "Ring"},
        "busy": {"CallStatus": "busy", "Event": "Hangup"},
        "completed": {"CallStatus": "completed", "Event": "Hangup"},
        "machine": {"Machine": "true", "Event": "MachineDetection"},
    },
    "vonage": {
        "ringing": {"status": "ringing"},
        "busy": {"status": "busy"},
        "completed": {"status": "completed"},
        "machine": {"status": "machine", "sub_state": "beep_start"},
    },
}
"""As they tell it; the others as Twilio."""
_TWILIOS: Mapping[str, Mapping[str, str]] = {
    "ringing": {"CallStatus": "ringing"},
    "busy": {"CallStatus": "busy"},
    "completed": {"CallStatus": "completed"},
    "machine": {"AnsweredBy": "machine_end_beep"},
}


def read_order(request: ApiRequest) -> dict[str, str]:
    """What was to be dialled, in Twilio's words."""
    if not request.headers["content-type"].startswith("application/json"):
        return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    fields = json.loads(request.body)
    if "answer_url" not in fields:
        return {name: str(value) for name, value in fields.items()}
    match fields:
        case {"to": [{"number": to}], "from": {"number": sender}, "answer_url": [url], "event_url": [status]}:
            pass
        case {"to": to, "from": sender, "answer_url": url, "ring_url": status}:
            pass
        case _:
            raise AssertionError(fields)
    return {"To": f"+{to}", "From": f"+{sender}", "Url": url, "StatusCallback": status}


@dataclass(eq=False)
class Dialler:
    rig: Rig
    api: RestApi
    client: httpx.AsyncClient
    provider: str = "twilio"
    refuses_with: int = 0
    stalls: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def orders(self) -> list[dict[str, str]]:
        """What was to be dialled."""
        return [read_order(request) for request in self.api.requests if request.path.endswith(ORDERS)]

    @property
    def updates(self) -> list[dict[str, str]]:
        """What was to become of calls."""
        asked = [request for request in self.api.requests if "/Calls/" in request.path]
        return [{name: values[0] for name, values in parse_qs(one.body.decode()).items()} for one in asked]

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str = KEY, **headers: str
    ) -> tuple[int, Any]:
        named = {"authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        reply = await self.client.request(method, f"{self.rig.engine.url}{path}", json=body, headers=named)
        return reply.status_code, reply.json()

    async def dial(self, **body: Any) -> dict[str, Any]:
        status, call = await self.ask("POST", "/calls", {"to": THEIRS, **body})
        assert status == 201, call
        return dict(call)

    async def state(self, call: Mapping[str, Any]) -> str:
        return str((await self.ask("GET", f"/calls/{call['id']}"))[1]["state"])

    def call_sid(self, number: int = -1) -> str:
        count = len(self.orders)
        return f"CA{number % count if count else 0:032d}"

    @asynccontextmanager
    async def answered(self, number: int = -1, **fields: str) -> AsyncIterator[PhoneCall]:
        """Somebody picks up."""
        order = self.orders[number]
        callee = replace(
            callee_of(self.rig, self.provider),
            caller=order["From"],
            dialled=order["To"],
            call_id=self.call_sid(number),
        )
        news = {"Direction": "outbound-api", "CallStatus": "in-progress", **fields}
        if self.provider == "vonage":
            digits = {"from": order["From"].removeprefix("+"), "to": order["To"].removeprefix("+")}
            news = {"uuid": callee.call_id, "status": "answered", **digits}
        elif self.provider == "plivo":
            news["Direction"] = "outbound"
        side = SIDES[self.provider](callee)
        async with self.rig.phone.call(side, again=True, back=Back(order["Url"], news)) as call:
            yield call

    async def tell(self, number: int = -1, **fields: str) -> None:
        """News of a call, as the provider posts it."""
        ids = {"CallSid": self.call_sid(number), "CallUUID": self.call_sid(number), "uuid": self.call_sid(number)}
        numbers = {"From": OURS, "To": THEIRS}
        url = self.orders[number]["StatusCallback"]
        reply = await post(self.rig, self.provider, url, ids | numbers | fields, self.client)
        assert reply.status_code in (200, 204), reply.content

    async def tell_that(self, what: str) -> None:
        """``ringing``, ``busy``, ``completed`` or ``machine``."""
        await self.tell(-1, **NEWS.get(self.provider, _TWILIOS)[what])


@asynccontextmanager
async def dialling(
    provider: str = "twilio",
    *,
    transfers: Mapping[str, str] | None = None,
    max_calls: int = 10,
    greeting: str = "Hello.",
    also: Callable[[Settings], Settings] = lambda settings: settings,
    **outbound: Any,
) -> AsyncIterator[Dialler]:
    """An engine that may call numbers of the United States, and the provider that it asks; ``also`` changes its
    settings."""
    made = 0
    dialler: Dialler | None = None

    def answer(request: ApiRequest) -> tuple[int, bytes]:
        nonlocal made
        if dialler is not None and dialler.refuses_with:
            return dialler.refuses_with, b'{"code":20003,"message":"no"}'
        if not request.path.endswith(ORDERS):
            return 200, json.dumps({"sid": request.path.rpartition("/")[2].removesuffix(".json")}).encode()
        made += 1
        ids = dict.fromkeys(("sid", "call_sid", "uuid", "request_uuid"), f"CA{made - 1:032d}")
        return 201, json.dumps(ids | {"status": "queued"}).encode()

    def configure(settings: Settings) -> Settings:
        allowed: dict[str, Any] = {"enabled": True, "numbers": {OURS: provider}, "allow": ("+1202",)}
        desk = settings.agents["desk"]
        at: dict[str, Any] = {"api_url": api.base}
        settings = with_all_providers(settings)
        settings = replace(
            settings,
            twilio=replace(settings.twilio, account_sid=ACCOUNT, **at),
            vonage=replace(settings.vonage, application_id="app", **at),
            telnyx=replace(settings.telnyx, account_sid="a1", application_id="t1", **at),
            plivo=replace(settings.plivo, **at),
            signalwire=replace(settings.signalwire, **at),
            outbound=OutboundSettings(**(allowed | outbound)),
            agents={
                "desk": replace(desk, transfers=dict(transfers or {})),
                "other": desk,
            },
            secrets=replace(
                settings.secrets,
                vonage_private_key=PEM,
                api_keys=f"boss:calls+admin+privacy:{KEY},guest:turn:{KEY}-of-a-guest",
            ),
        )
        return also(settings)

    async with (
        rest_api(answer) as api,
        running_engine(configure=configure, max_calls=max_calls, greeting=greeting) as rig,
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
    ):
        dialler = Dialler(rig, api, client, provider)
        yield dialler
        await trio.lowlevel.checkpoint()
