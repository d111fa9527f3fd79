"""Sessions of the program as its users run it: a process on SQLite, killed with SIGKILL again and again."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from engine.phone import twilio
from engine.phone.phone import SIDES, Phone, open_phone
from engine.phone.side import Callee
from tests.fakes.echo_agent import GREETING, OVER, RETURNING, canaries
from tests.fakes.forks import Offhook
from tests.system.haystacks import files_in, found, needles
from tests.system.session_rig import ALL_KEY, API_KEYS, BRIEF_LINE, LINE, SECRET, Talk
from tests.system.test_process import serving

CALLER, WRITER = "+15005550123", "+15005550124"
SETTINGS = f"""
[agents.desk]
factory = "tests.fakes.echo_agent:make_agent"
scope = "caller"
[agents.appointments]
factory = "tests.converse.agents:make_agent"
options.script = "appointment_desk"
scope = "caller"
[lines]
"{BRIEF_LINE}" = "appointments"
[limits]
finished_turn_s = 0.1
unfinished_turn_s = 0.1
silence_s = 60
reply_s = 60
"""


class Process:
    """One life of the program, from its start to its kill."""

    def __init__(self, process: Offhook, url: str, phone: Phone, http: httpx.AsyncClient) -> None:
        self._process = process
        self._url = url
        self._phone = phone
        self._http = http

    def kill(self) -> None:
        self._process.kill()

    @asynccontextmanager
    async def call(self, caller: str) -> AsyncIterator[Talk]:
        callee = Callee(self._url, caller=caller, dialled=LINE, secret=SECRET, attestation="A")
        async with self._phone.call(SIDES["twilio"](callee)) as call:
            talk = Talk(call)
            talk.greeting = await talk.hear()
            yield talk

    async def text(self, caller: str, text: str, *, dialled: str = LINE) -> str:
        callee = Callee(self._url, caller=caller, dialled=dialled, secret=SECRET)
        return " ".join(await twilio.post_text(callee, text, self._http)).removesuffix(OVER).strip()

    async def ask(self, method: str, path: str) -> Any:
        answer = await self._http.request(method, self._url + path, headers={"authorization": f"Bearer {ALL_KEY}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def stored(self, caller: str, messages: int) -> str:
        """Until so many messages of this caller are in the store; the session's id. A call is not told when it is."""
        with trio.fail_after(20):
            while True:
                (session,) = (await self.ask("GET", f"/admin/session/{caller}"))["sessions"]
                if session["message_count"] >= messages:
                    return str(session["session_id"])
                await trio.sleep(0.1)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Process]:
    """Ends with a SIGKILL, if none came before."""
    async with (
        serving(folder, SETTINGS, API_KEYS=API_KEYS) as (process, url),
        open_phone() as phone,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        life = Process(process, url, phone, http)
        yield life
        life.kill()


@pytest.mark.heavy
async def test_killed_between_calls_and_texts_a_session_goes_on_and_an_erased_one_does_not(tmp_path: Path) -> None:
    erased, word, late = f"+1555{2_000_000 + secrets.randbelow(8_000_000)}", "canaryerased", "canarylate"
    wanted = needles(erased, [word, late])

    async with running(tmp_path) as life, life.call(CALLER) as talk:
        assert f"{talk.greeting} {OVER}" == GREETING
        answer = await talk.say("My word is canaryteal.")
        assert answer == "Turn 1. You said My word is canaryteal. I know canaryteal."
        session_id = await life.stored(CALLER, 3)
        life.kill()
        await talk.call.wait_until_over(within_s=5)

    async with running(tmp_path) as life:
        async with life.call(CALLER) as talk:
            assert f"{talk.greeting} {OVER}" == RETURNING
            assert await talk.say("What is it?") == "Turn 2. You said What is it. I know canaryteal."
        assert await life.stored(CALLER, 6) == session_id
        assert await life.text(erased, f"My word is {word}, my number {erased}.")
        assert await life.text(WRITER, "What are your opening hours?", dialled=BRIEF_LINE)
        assert found(b"".join(files_in(tmp_path)), wanted) >= {word, erased[2:]}
        async with life.call(erased) as talk:
            assert word in await talk.say("What was it?")
            assert await life.ask("DELETE", f"/privacy/delete/{erased}") == {"sessions": 1}
            talk.start_saying(f"And {late}.")
            life.kill()
        assert not found(b"".join(files_in(tmp_path)), wanted)

    async with running(tmp_path) as life:
        answer = await life.text(CALLER, "Do you still know it?")
        assert canaries(answer) == {"canaryteal"}
        assert await life.stored(CALLER, 8) == session_id
        assert await life.text(erased, "What was it?") == "Turn 1. You said What was it."
        assert not found(b"".join(files_in(tmp_path)), [word.encode(), late.encode()])
        assert "from nine in the morning" in await life.text(WRITER, "Try again", dialled=BRIEF_LINE)
        assert "What are your opening hours?" in await life.text(WRITER, "Show me my history", dialled=BRIEF_LINE)
