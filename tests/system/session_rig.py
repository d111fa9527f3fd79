"""The whole program on one of the stores, with telephones, texts and holders of keys in front of it.

An agent echoes what it was shown (``tests.fakes.echo_agent``). Tests on real stores await threads and servers, so their
clock must not jump; with ``quick_clock`` it runs faster than the real one, and what bounds a store is set far off.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from engine.assembly import Engine
from engine.assembly.memory import Remembering
from engine.phone import twilio
from engine.phone.call import PhoneCall
from engine.phone.phone import SIDES, Phone, open_phone
from engine.phone.side import Callee
from engine.phone.texts import Inbox, send_text
from engine.settings import (
    AgentSettings,
    Limits,
    Secrets,
    Server,
    SessionSettings,
    Settings,
    StoreSettings,
    TwilioSettings,
    VonageSettings,
)
from tests.fakes.echo_agent import CHARS_PER_S, OVER
from tests.fakes.plain_speech import speak, words
from tests.fakes.servers import PostgresqlServer, RedisServer

STORES = ("memory", "sqlite", "postgresql", "redis")
SECRET = "a-secret-of-more-than-thirty-two-bytes"
ALL_KEY, WATCHER_KEY, TURN_KEY = "all-" + "k" * 20, "watcher-" + "k" * 20, "turn-" + "k" * 20
API_KEYS = f"all:turn+history+admin+privacy:{ALL_KEY},watcher:admin+history:{WATCHER_KEY},robot:turn:{TURN_KEY}"
LINE = "+15005550001"
"""Answered by the agent ``desk``, of the scope ``caller``."""
BRIEF_LINE = "+15005550002"
"""Answered by the agent ``brief``, of the scope ``call``."""
TRUSTED_LINE = "+15005550003"
"""As the first; its carrier vouches for callers."""
RATE = 4
"""Of the quick clock: so many of its seconds to a real one."""
FAR_OFF_S = 1000.0
LONG_S = 60.0
"""For anything in a test, on its clock."""


def store_settings(kind: str, folder: Path, request: pytest.FixtureRequest) -> StoreSettings:
    """A new and empty store of this kind; a server is started if it is one's."""
    there = StoreSettings(
        kind=kind,
        path=str(folder / "offhook.db"),
        journal=str(folder / "offhook.journal"),
        operation_s=FAR_OFF_S,
        load_s=FAR_OFF_S,
    )
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        assert isinstance(server, PostgresqlServer)
        return replace(there, url=server.new_database())
    if kind == "redis":
        redis = request.getfixturevalue("redis_server")
        assert isinstance(redis, RedisServer)
        return replace(there, port=redis.port)
    return there


def settings_on(
    store: StoreSettings, *, inbox: Inbox | None = None, encryption_keys: str = "", patience_s: float = LONG_S
) -> Settings:
    """``patience_s``: of the engine, with what it waits for in a call; the machine may be busy, and the clock quick."""
    agent = AgentSettings(factory="tests.fakes.echo_agent:make_agent")
    api_url = inbox.url if inbox else "http://127.0.0.1:1"
    return Settings(
        server=Server(port=0, api_requests_per_minute=100_000),
        limits=replace(
            Limits(),
            max_calls=50,
            calls_per_minute_per_caller=100_000,
            finished_turn_s=0.1,
            unfinished_turn_s=0.1,
            start_s=patience_s,
            open_s=patience_s,
            silence_s=patience_s,
            filler_s=patience_s,
            reply_s=patience_s,
            no_progress_s=10 * patience_s,
            media_timeout_s=patience_s,
            token_s=patience_s,
        ),
        sessions=SessionSettings(
            trusted_lines=(TRUSTED_LINE,), texts_per_minute_per_caller=100_000, text_answer_s=patience_s
        ),
        store=store,
        agents={"desk": replace(agent, scope="caller"), "brief": replace(agent, scope="call")},
        lines={BRIEF_LINE: "brief"},
        twilio=TwilioSettings(account_sid="AC" + "1" * 32, api_url=api_url),
        vonage=VonageSettings(application_id="11111111-2222-3333-4444-555555555555", api_url=api_url),
        secrets=Secrets(
            twilio_auth_token=SECRET,
            vonage_signature_secret=SECRET,
            vonage_private_key=_private_key() if inbox else "",
            api_keys=API_KEYS,
            encryption_keys=encryption_keys,
        ),
    )


class Talk:
    """A call in which both know when the other has finished."""

    def __init__(self, call: PhoneCall) -> None:
        self.call = call
        self.greeting = ""
        self._heard = 0

    async def say(self, text: str, ending: str = OVER) -> str:
        """One turn: the answer in words, as the caller's ear has it, up to this ending of it."""
        await self.call.say(speak(text, self.call.format, chars_per_s=CHARS_PER_S))
        return await self.hear(ending)

    def start_saying(self, text: str) -> None:
        self.call.start_saying(speak(text, self.call.format, chars_per_s=CHARS_PER_S))

    async def hear(self, ending: str = OVER) -> str:
        """The next thing that the agent says."""
        with trio.move_on_after(FAR_OFF_S):
            while ending not in (said := self._all_heard()[self._heard :]):  # noqa: ASYNC110 - the ear does not tell
                await trio.sleep(0.02)
            await trio.sleep(0.06)  # the engine hears that it was heard
            end = said.index(ending) + len(ending)
            self._heard += end
            return said[:end].removesuffix(OVER).strip()
        raise AssertionError(f"expected {ending!r}, heard {self._all_heard()[self._heard :]!r}")

    def _all_heard(self) -> str:
        return words(self.call.heard_audio, self.call.format)


class Program:
    """The program, that can be started again; what stands outside of it, telephones and texts, stays."""

    def __init__(
        self, settings: Settings, nursery: trio.Nursery, phone: Phone, http: httpx.AsyncClient, inbox: Inbox | None
    ) -> None:
        self.settings = settings
        self.engine: Engine
        self._nursery = nursery
        self._phone = phone
        self._http = http
        self._inbox = inbox
        self._ended = trio.Event()

    @property
    def memory(self) -> Remembering:
        assert self.engine.memory is not None
        return self.engine.memory

    # --- its life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.engine, self._ended = Engine(self.settings), trio.Event()
        await self._nursery.start(self._run)
        # As a load balancer would ask; for calls that come although there are no keys this is soon enough.
        while self.engine.supervisor.ready not in ((True, ""), (False, "store_keys")):  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)

    async def stop(self) -> None:
        self.engine.stop()
        await self._ended.wait()  # no deadline: it waits for threads and servers

    async def restart(self) -> None:
        """As a process ends and the next one begins; but what its memory holds is gone only with a store of its own."""
        await self.settled()
        await self.stop()
        await self.start()

    async def settled(self) -> None:
        """Until what was said so far is in the store or in the journal."""
        await self.memory.sessions.settle()
        await self.memory.writer.flush()

    async def _run(self, *, task_status: trio.TaskStatus[str]) -> None:
        try:
            await self.engine.run(task_status=task_status)
        finally:
            self._ended.set()

    # --- callers --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def call(
        self,
        caller: str,
        provider: str = "twilio",
        *,
        dialled: str = LINE,
        attestation: str = "A",
        greeted_with: str = OVER,
    ) -> AsyncIterator[Talk]:
        """A call, greeted with what ends so. Leaving the block hangs up, and waits until the engine has let go of the
        call."""
        vouched = attestation if provider == "twilio" else ""
        callee = Callee(self.engine.url, caller=caller, dialled=dialled, secret=SECRET, attestation=vouched)
        async with self._phone.call(SIDES[provider](callee)) as call:
            talk = Talk(call)
            talk.greeting = await talk.hear(greeted_with)
            yield talk
        assert not call.violations, call.violations
        await self.released(call.call_id)

    async def released(self, call_id: str) -> None:
        """Until the engine holds nothing of the call any more, and its session is where it is kept."""
        with trio.fail_after(FAR_OFF_S):
            while any(slot.call_id == call_id for slot in self.engine.registry.live_slots()):  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.01)
        await self.settled()

    async def text(self, caller: str, text: str, provider: str = "twilio", *, dialled: str = LINE) -> str:
        """An SMS and its answer: over Twilio in the signed webhook, over Vonage by REST."""
        callee = Callee(self.engine.url, caller=caller, dialled=dialled, secret=SECRET)
        if provider == "twilio":
            answer = " ".join(await twilio.post_text(callee, text, self._http))
        else:
            answer = await send_text(provider, callee, text, inbox=self._inbox, within_s=FAR_OFF_S)
        return answer.removesuffix(OVER).strip()

    async def turn(self, text: str, stream_id: str) -> str:
        body = {"text": text, "stream_sid": stream_id}
        return str((await self.ask("POST", "/turn", json=body))["text"]).removesuffix(OVER).strip()

    # --- holders of keys ------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, *, key: str = ALL_KEY, status: int = 200, **more: Any) -> Any:
        """The HTTP API: the answer as JSON."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = await self._http.request(method, self.engine.url + path, headers=headers, **more)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json()

    async def session_of(self, number: str) -> dict[str, Any]:
        """As the admin sees it; the only one."""
        (session,) = await self.sessions_of(number)
        return session

    async def sessions_of(self, number: str) -> list[dict[str, Any]]:
        """As the admin sees them, the latest first."""
        return list((await self.ask("GET", f"/admin/session/{number}"))["sessions"])

    async def shown(self, session_id: str) -> list[str]:
        """What the model was shown for the last turn of a session, message by message."""
        events = (await self.ask("GET", f"/api/sessions/{session_id}/trace"))["events"]
        last = [event for event in events if event["what"] == "model_asked"][-1]
        return [str(text) for _, text in last["fields"]["shown"]]

    def total(self, name: str, **labels: str) -> float:
        """Of a metric, over all labels but these."""
        return sum(
            sample.value
            for family in self.engine.metrics.registry.restricted_registry([f"offhook_{name}"]).collect()
            for sample in family.samples
            if labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def program(settings: Settings, inbox: Inbox | None = None) -> AsyncIterator[Program]:
    """A running program, to the end of its drain. What the block raises comes out as it is."""
    failure: Exception | None = None
    async with (
        trio.open_nursery() as nursery,
        open_phone() as phone,
        httpx.AsyncClient(verify=_tls_context(), trust_env=False, timeout=None) as http,
    ):
        running = Program(settings, nursery, phone, http, inbox)
        await running.start()
        try:
            yield running
            await running.settled()
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery that would group it
            failure = exc
        await running.stop()
    if failure is not None:
        raise failure


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _private_key() -> str:
    """Of Vonage's application; making one takes a moment."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
