"""``offhook call`` from its plan to its report, against the bare server and against servers that misbehave."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from engine.cli.call import Plan, call_command, place_calls
from engine.errors import SettingsError
from engine.events import MULAW_8K, PCM16_16K, AudioFormat
from engine.phone.conversation import Line, hold_conversation
from engine.phone.phone import place_call
from engine.phone.side import Callee
from engine.phone.wav import BadWav, read_wav, write_wav
from engine.runtime.sockets import Socket, accept_socket
from tests.fakes.hostile import read_head
from tests.fakes.plain_speech import noise, speak, words
from tests.load import bare
from tests.system.rig import running_engine

DELAYS = bare.Delays(onset_s=0.1, endpoint_s=0.1, answer_s=0.05, answer="I have heard you.")


class PlainVoice:
    async def render(self, text: str, line: AudioFormat, /) -> bytes:
        return speak(text, line)

    async def recognise(self, audio: bytes, line: AudioFormat, /) -> str:
        return words(audio, line)


@asynccontextmanager
async def plain_voice() -> AsyncIterator[PlainVoice]:
    yield PlainVoice()


@asynccontextmanager
async def no_voice() -> AsyncIterator[PlainVoice]:
    raise SettingsError("the extra `local` is not installed")
    yield PlainVoice()


def plan(url: str, *lines: Line, calls: int = 1, provider: str = "twilio", out: Path | None = None) -> Plan:
    return Plan(url, provider, lines, out, calls, "+1500", "+1501", "", "", 5.0)


@asynccontextmanager
async def engine(
    answer: str, content_type: str, talk: Callable[[Socket], Awaitable[None]], status: int = 200
) -> AsyncIterator[str]:
    """An engine that answers every webhook with ``answer`` (in which URL is its address) and then talks as told."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            head, rest = await read_head(stream)
            if b"pgrade: websocket" in head:
                async with accept_socket(stream, head=head, rest=rest) as socket:
                    await talk(socket)
                return
            port = stream.socket.getsockname()[1]
            body = answer.replace("URL", f"ws://127.0.0.1:{port}/media").encode()
            reply = f"HTTP/1.1 {status} Told\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            await stream.send_all(reply.encode() + b"Connection: close\r\n\r\n" + body)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


NCCO = (
    '[{"action":"connect","from":"1500","endpoint":[{"type":"websocket","uri":"URL",'
    '"content-type":"audio/l16;rate=16000","headers":{"token":"t1"}}]}]'
)
TWIML = '<Response><Connect><Stream url="URL"/></Connect></Response>'


async def hear_everything(socket: Socket) -> None:
    try:
        while True:
            await socket.receive()
    except trio.EndOfChannel:
        pass


async def test_a_line_without_a_sound_in_it_is_told_and_not_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    write_wav(empty, b"", MULAW_8K)
    told: list[str] = []
    async with trio.open_nursery() as nursery:
        port, _ = await nursery.start(bare.serve, 0, DELAYS)
        (result,) = await place_calls(plan(f"http://127.0.0.1:{port}", Line(wav=empty)), plain_voice, told.append)
        nursery.cancel_scope.cancel()
    assert result.problem == f"there is nothing to be heard in '({empty})'"


async def test_after_a_file_of_silence_it_is_the_engine_that_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    silence = tmp_path / "silence.wav"
    write_wav(silence, MULAW_8K.silence(2.0), MULAW_8K)
    async with running_engine() as rig, rig.call() as call:
        greeting, asked = await hold_conversation(call, [Line(wav=silence)], PlainVoice())
    assert (greeting.heard, asked.heard) == ("Hello.", "Are you still there?")
    assert asked.response_ms is not None
    assert asked.response_ms < 10_000, "since the end of the file"


async def test_two_callers_say_their_lines_and_hear_the_answers(tmp_path: Path) -> None:
    told: list[str] = []
    async with trio.open_nursery() as nursery:
        port, _ = await nursery.start(bare.serve, 0, DELAYS)
        out = tmp_path / "heard.wav"
        asked = plan(f"http://127.0.0.1:{port}", Line(text="Hello you"), calls=2, out=out)
        results = await place_calls(asked, plain_voice, told.append)
        nursery.cancel_scope.cancel()

    for result in results:
        assert result.ok, result.problem
        assert [turn.said for turn in result.turns] == ["", "Hello you"]
        assert [turn.heard for turn in result.turns] == [bare.GREETING, DELAYS.answer]
        assert result.turns[1].response_ms is not None
        assert result.turns[1].response_ms > 100
        assert result.end == "caller"
    assert any(line.startswith("[2] ") and "caller  Hello you" in line for line in told)
    assert words(read_wav(tmp_path / "heard-2.wav", MULAW_8K), MULAW_8K).startswith(bare.GREETING)


async def test_as_vonage_every_frame_has_its_size_and_notifies_come_back() -> None:
    echoes: list[str | bytes] = []

    async def talk(socket: Socket) -> None:
        first = await socket.receive()
        assert '"token":"t1"' in str(first)
        audio = speak("Hello there", PCM16_16K)
        await socket.send(*(audio[at : at + 640] for at in range(0, len(audio), 640)))
        await socket.send('{"action":"notify","payload":{"id":"u1"}}', b"\0" * 100)
        while not isinstance(message := await socket.receive(), str):
            assert len(message) == 640
        echoes.append(message)
        await hear_everything(socket)

    async with engine(NCCO, "application/json", talk) as url, place_call("vonage", Callee(url)) as call:
        assert words(await call.wait_for_reply(quiet_s=0.1), PCM16_16K) == "Hello there"

    assert echoes == ['{"event":"websocket:notify","payload":{"id":"u1"}}']
    assert dict(call.violations) == {"binary message of 100 bytes, expected 640": 1}


async def test_after_clear_all_pending_marks_come_back_and_nothing_more_is_heard() -> None:
    seen: list[str] = []

    async def talk(socket: Socket) -> None:
        import base64
        import json

        await socket.receive()
        sid = json.loads(await socket.receive())["streamSid"]
        payload = base64.b64encode(noise(5.0, MULAW_8K)).decode()
        await socket.send(json.dumps({"event": "media", "streamSid": sid, "media": {"payload": payload}}))
        for name in ("a", "b"):
            await socket.send(json.dumps({"event": "mark", "streamSid": sid, "mark": {"name": name}}))
        await trio.sleep(0.1)
        await socket.send(json.dumps({"event": "clear", "streamSid": sid}))
        while len(seen) < 2:
            message = json.loads(await socket.receive())
            if message["event"] == "mark":
                seen.append(message["mark"]["name"])
        await hear_everything(socket)

    async with engine(TWIML, "text/xml", talk) as url, place_call("twilio", Callee(url)) as call:
        await call.wait_for_reply(quiet_s=0.1)

    assert seen == ["a", "b"]
    assert 0.08 < len(call.heard_audio) / 8000 < 0.3
    assert not call.violations


async def test_a_refused_call_says_why_and_fails() -> None:
    refusal = "<Response><Say>We are full.</Say><Hangup/></Response>"
    async with engine(refusal, "text/xml", hear_everything) as url:
        [result] = await place_calls(plan(url), plain_voice, lambda _: None)

    assert (result.ok, result.problem) == (False, "refused: We are full.")


async def test_nobody_there_is_a_failed_call() -> None:
    [result] = await place_calls(plan("http://127.0.0.1:1"), plain_voice, lambda _: None)

    assert (result.ok, result.problem) == (False, "no engine answers at http://127.0.0.1:1 (ConnectError)")


async def test_nobody_there_is_found_out_before_the_voice_is_loaded() -> None:
    told: list[str] = []
    [result] = await place_calls(plan("http://127.0.0.1:1", Line(text="Hello")), no_voice, told.append)

    assert told == [result.problem]


@pytest.mark.parametrize(
    ("provider", "secret", "status", "body", "problem"),
    [
        (
            "twilio",
            "",
            503,
            '{"error": {"code": "not_configured", "message": "set TWILIO_AUTH_TOKEN"}}',
            (
                "/voice answered HTTP 503: set TWILIO_AUTH_TOKEN (where the engine runs; and the same key in"
                " TWILIO_AUTH_TOKEN here, to sign what this command sends)"
            ),
        ),
        (
            "vonage",
            "",
            403,
            '{"error": {"message": "Not signed."}}',
            (
                "/vonage/answer answered HTTP 403: Not signed. (VONAGE_SIGNATURE_SECRET is not set here: set it to the"
                " key that the engine has)"
            ),
        ),
        (
            "twilio",
            "wrong",
            403,
            "[]",
            (
                "/voice answered HTTP 403 (is TWILIO_AUTH_TOKEN here the key that the engine has, and --public-url its"
                " server.public_url?)"
            ),
        ),
        ("vonage", "short", 500, '{"error": {"message": "a\\u001bb"}}', "/vonage/answer answered HTTP 500: ab"),
        ("twilio", "", 404, '{"error": "no"}', "/voice answered HTTP 404"),
    ],
)
async def test_a_webhook_that_is_refused_tells_why_and_which_key_to_set(
    provider: str, secret: str, status: int, body: str, problem: str
) -> None:
    async with engine(body, "application/json", hear_everything, status=status) as url:
        asked = replace(plan(url, provider=provider), secret=secret)
        [result] = await place_calls(asked, plain_voice, lambda _: None)

    assert (result.ok, result.problem) == (False, problem)


async def test_an_engine_that_says_nothing_is_a_failed_call() -> None:
    async with engine(TWIML, "text/xml", hear_everything) as url:
        asked = Plan(url, "twilio", (), None, 1, "+1500", "+1501", "", "", 0.2)
        [result] = await place_calls(asked, plain_voice, lambda _: None)

    assert (result.ok, result.problem) == (False, "nothing was heard within 0.2 s")


async def test_an_engine_that_hangs_up_early_is_a_failed_call() -> None:
    async def talk(socket: Socket) -> None:
        await socket.receive()

    async with engine(TWIML, "text/xml", talk) as url:
        [result] = await place_calls(plan(url), plain_voice, lambda _: None)

    assert (result.ok, result.problem) == (False, "the call is over: engine 1000")


async def test_without_a_voice_a_file_can_be_played_but_nothing_said() -> None:
    refusal = "<Response><Say>We are full.</Say><Hangup/></Response>"
    async with engine(refusal, "text/xml", hear_everything) as url:
        with pytest.raises(SettingsError):
            await place_calls(plan(url, Line(text="Hello")), no_voice, lambda _: None)
        [result] = await place_calls(plan(url), no_voice, lambda _: None)
    assert result.problem == "refused: We are full."


def test_arguments_that_make_no_sense_are_told_before_any_call_and_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = call_command(plain_voice)
    no_wav = tmp_path / "no.wav"
    no_wav.write_bytes(b"no wav")

    asked = (
        (call("localhost:8080"), "expected the address of an engine"),
        (call("http://h:99999"), "expected the address of an engine"),
        (call("http://h", calls=0), "--calls: expected 1 to 1000"),
        (call("http://h", patience_s=float("nan")), "--patience-s: expected more than 0"),
        (call("http://h", dtmf="5x"), "--dtmf: expected keys"),
        (call("http://h", wav=(Path("/nowhere.wav"),)), "--wav: /nowhere.wav: No such file or directory"),
        (call("http://h", wav=(no_wav,)), "not a WAV file of PCM"),
        (call("http://h", out=tmp_path / "no" / "x.wav"), f"--out: there is no directory {tmp_path / 'no'}"),
        (call("http://h", out=tmp_path), "is a directory"),
    )
    assert {code for code, _ in asked} == {2}
    for line, (_, says) in zip(capsys.readouterr().err.splitlines(), asked, strict=True):
        assert says in line


def test_a_wav_of_another_rate_is_converted_and_a_wrong_one_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, b"\0\1" * 16000, PCM16_16K)
    assert MULAW_8K.duration_s(read_wav(path, MULAW_8K)) == pytest.approx(1.0, abs=0.01)
    with wave.open(str(path), "wb") as stereo:
        stereo.setnchannels(2)
        stereo.setsampwidth(2)
        stereo.setframerate(8000)
    with pytest.raises(BadWav, match="mono"):
        read_wav(path, MULAW_8K)
    with wave.open(str(path), "wb") as slow:
        slow.setnchannels(1)
        slow.setsampwidth(2)
        slow.setframerate(1)
    with pytest.raises(BadWav, match="expected 4000 to 192000 Hz, got 1"):
        read_wav(path, MULAW_8K)
    path.write_bytes(b"no wav")
    with pytest.raises(BadWav, match="not a WAV"):
        read_wav(path, MULAW_8K)
