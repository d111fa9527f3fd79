"""Twilio's half of calls that an engine makes: takes the order over REST, calls somebody, tells what becomes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import trio

from engine.phone.call import PhoneCall
from engine.phone.side import Callee
from engine.phone.twilio import TWILIO, TwilioSide, sign
from engine.settings import OutboundSettings, Settings
from tests.adapters.providers.rest_api import ApiRequest, RestApi, rest_api
from tests.system.rig import SECRET, Rig, running_engine

OURS, THEIRS = "+12025550100", "+12025550143"
KEY = "a-key-of-many-characters"
ACCOUNT = "AC" + "0" * 32


@dataclass(eq=False)
class Dialler:
    rig: Rig
    api: RestApi
    client: httpx.AsyncClient
    refuses_with: int = 0
    stalls: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def orders(self) -> list[dict[str, str]]:
        """What was to be dialled."""
        asked = [request for request in self.api.requests if request.path.endswith("/Calls.json")]
        return [{name: values[0] for name, values in parse_qs(one.body.decode()).items()} for one in asked]

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
        address = urlsplit(order["Url"])
        dialect = replace(TWILIO, voice_path=f"{address.path}?{address.query}")
        callee = Callee(
            self.rig.engine.url,
            caller=order["From"],
            dialled=order["To"],
            secret=SECRET,
            call_id=self.call_sid(number),
            extra={"Direction": "outbound-api", "CallStatus": "in-progress", **fields},
        )
        async with self.rig.phone.call(TwilioSide(callee, dialect)) as call:
            yield call

    async def tell(self, number: int = -1, **fields: str) -> None:
        """News of a call, as Twilio posts it."""
        url = self.orders[number]["StatusCallback"]
        form = {"CallSid": self.call_sid(number), "AccountSid": ACCOUNT, **fields}
        signature = sign(SECRET, url, form)
        reply = await self.client.post(url, data=form, headers={"X-Twilio-Signature": signature})
        assert reply.status_code == 200, reply.content


@asynccontextmanager
async def dialling(
    *, transfers: Mapping[str, str] | None = None, max_calls: int = 10, greeting: str = "Hello.", **outbound: Any
) -> AsyncIterator[Dialler]:
    """An engine that may call numbers of the United States, and the provider that it asks."""
    made = 0
    dialler: Dialler | None = None

    def answer(request: ApiRequest) -> tuple[int, bytes]:
        nonlocal made
        if dialler is not None and dialler.refuses_with:
            return dialler.refuses_with, b'{"code":20003,"message":"no"}'
        if not request.path.endswith("/Calls.json"):
            return 200, json.dumps({"sid": request.path.rpartition("/")[2].removesuffix(".json")}).encode()
        made += 1
        return 201, json.dumps({"sid": f"CA{made - 1:032d}", "status": "queued"}).encode()

    def configure(settings: Settings) -> Settings:
        allowed: dict[str, Any] = {"enabled": True, "numbers": {OURS: "twilio"}, "allow": ("+1202",)}
        desk = settings.agents["desk"]
        return replace(
            settings,
            twilio=replace(settings.twilio, account_sid=ACCOUNT, api_url=api.base),
            outbound=OutboundSettings(**(allowed | outbound)),
            agents={
                "desk": replace(desk, transfers=dict(transfers or {})),
                "other": desk,
            },
            secrets=replace(settings.secrets, api_keys=f"boss:calls+admin+privacy:{KEY},guest:turn:{KEY}-of-a-guest"),
        )

    async with (
        rest_api(answer) as api,
        running_engine(configure=configure, max_calls=max_calls, greeting=greeting) as rig,
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
    ):
        dialler = Dialler(rig, api, client)
        yield dialler
        await trio.lowlevel.checkpoint()
