"""FAULTS H 72-78: strangers at the webhooks and at the media sockets of a running engine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

import jwt
import orjson
import pytest
import trio
from trio.testing import MockClock

from tests.faults.bench import VICTIM_NUMBER, Bench, bench
from tests.faults.wires import PROVIDERS, as_json, new_call_id, start_of
from tests.system.rig import SECRET

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
providers = pytest.mark.parametrize("provider", PROVIDERS)

# --- requests as the providers write them -------------------------------------------------------------------

Headers = dict[str, str]
CALL_PATHS = {"twilio": "/voice", "vonage": "/vonage/answer"}
STATUS_PATHS = {"twilio": "/twilio/status", "vonage": "/vonage/event"}


def request(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def fields_of(provider: str, call_id: str, **more: Any) -> dict[str, Any]:
    if provider == "twilio":
        return {"CallSid": call_id, "From": VICTIM_NUMBER, "To": "+15005550001", "CallStatus": "ringing"} | more
    return {"uuid": call_id, "from": VICTIM_NUMBER[1:], "to": "15005550001"} | more


def twilio_signature(url: str, pairs: list[tuple[str, str]], secret: str = SECRET) -> str:
    text = url + "".join(name + value for name, value in sorted(set(pairs)))
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()


def vonage_token(body: bytes, secret: str = SECRET, **changes: Any) -> str:
    claims = {
        "iat": int(time.time()),
        "jti": new_call_id("vonage"),
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
    }
    kept = {name: value for name, value in (claims | changes).items() if value is not ...}
    return jwt.encode(kept, secret, algorithm="HS256")


def signed(b: Bench, provider: str, path: str, fields: Mapping[str, Any], **headers: str) -> bytes:
    """A request that is genuine; further ``headers`` are not covered by what is signed."""
    url = b.rig.engine.url
    host = {"Host": url.removeprefix("http://")}
    if provider == "twilio":
        body = urlencode(fields).encode()
        proof = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Twilio-Signature": twilio_signature(url + path, [(name, str(value)) for name, value in fields.items()]),
        }
    else:
        body = orjson.dumps(fields)
        proof = {"Content-Type": "application/json", "Authorization": f"Bearer {vonage_token(body)}"}
    return request("POST", path, host | proof | headers, body)


def token_in(provider: str, document: bytes) -> str:
    if provider == "twilio":
        parameter = ET.fromstring(document).find("Connect/Stream/Parameter")
        assert parameter is not None, document
        return parameter.attrib["value"]
    return str(orjson.loads(document)[0]["endpoint"][0]["headers"]["token"])


# --- H 72: signatures ---------------------------------------------------------------------------------------


def twilio_forgeries(url: str, path: str) -> dict[str, bytes]:
    pairs = [(name, str(value)) for name, value in fields_of("twilio", "CA" + "f" * 32).items()]
    good = twilio_signature(url + path, pairs)
    host = url.removeprefix("http://")

    def ask(
        signature: str | None, sent: list[tuple[str, str]] = pairs, more: Mapping[str, str] = MappingProxyType({})
    ) -> bytes:
        headers = {"Host": host, "Content-Type": "application/x-www-form-urlencoded", **more}
        if signature is not None:
            headers["X-Twilio-Signature"] = signature
        return request("POST", path, headers, urlencode(sent).encode())

    return {
        "absent": ask(None),
        "empty": ask(""),
        "wrong": ask("AAAA" + good[4:]),
        "cut short": ask(good[:-2]),
        "of another key": ask(twilio_signature(url + path, pairs, "another")),
        "of an empty key": ask(twilio_signature(url + path, pairs, "")),
        "of another URL": ask(twilio_signature("https://evil.example" + path, pairs)),
        "of another path": ask(twilio_signature(url + "/other", pairs)),
        "not ASCII": ask("grün" + good),
        "not even text": ask("\udcff\udcfe"),
        "a field changed": ask(good, [*pairs[:1], ("From", "+19005550000"), *pairs[2:]]),
        "a field more": ask(good, [*pairs, ("Digits", "1")]),
        "a field doubled": ask(good, [*pairs, ("CallSid", "CAx")]),
        "a field less": ask(good, pairs[:-1]),
        "as JSON": ask(good, more={"Content-Type": "application/json"}),
        "as nothing": ask(good, more={"Content-Type": ""}),
        "an unknown algorithm": ask(good, more={"X-Twilio-Webhooks-Signature-Settings": "algorithm=NONE"}),
        "an unknown key": ask(good, more={"X-Twilio-Webhooks-Signature-Settings": "algorithm=HMAC_SHA256,key=K1"}),
        "the forwarded URL of a stranger": ask(
            twilio_signature("https://evil.example" + path, pairs),
            more={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"},
        ),
    }


def vonage_forgeries(url: str, path: str) -> dict[str, bytes]:
    body = orjson.dumps(fields_of("vonage", new_call_id("vonage")))
    good = vonage_token(body)
    head, claims, mac = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    now = int(time.time())

    def ask(authorization: str | None, sent: bytes = body) -> bytes:
        headers = {"Host": url.removeprefix("http://"), "Content-Type": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        return request("POST", path, headers, sent)

    def bearer(**changes: Any) -> bytes:
        return ask("Bearer " + vonage_token(body, **changes))

    forgeries = {
        "absent": ask(None),
        "empty": ask(""),
        "no token": ask("Bearer "),
        "another scheme": ask(f"Basic {good}"),
        "alg none": ask(f"Bearer {none}.{claims}."),
        "alg none, signed": ask(f"Bearer {none}.{claims}.{mac}"),
        "no signature": ask(f"Bearer {head}.{claims}."),
        "two parts": ask(f"Bearer {head}.{claims}"),
        "a changed signature": ask(f"Bearer {head}.{claims}.{mac[:-4]}AAAA"),
        "changed claims": ask(f"Bearer {head}.{claims[:-4]}AAAA.{mac}"),
        "of another key": bearer(secret="another-secret-of-thirty-two-bytes"),
        "HS512": ask("Bearer " + jwt.encode({"iat": now}, SECRET * 2, algorithm="HS512")),
        "expired": bearer(exp=now - 1),
        "issued long ago": bearer(iat=now - 600),
        "issued in the future": bearer(iat=now + 600),
        "issued never": bearer(iat=...),
        "issued in words": bearer(iat="now"),
        "no jti": bearer(jti=...),
        "a jti of a list": bearer(jti=[]),
        "a wrong payload_hash": bearer(payload_hash=hashlib.sha256(b"x").hexdigest()),
        "no payload_hash": bearer(payload_hash=...),
        "a payload_hash of no ASCII": bearer(payload_hash="ä" * 64),
        "another body": ask(f"Bearer {good}", body + b" "),
        "not ASCII": ask(f"Bearer grün.{claims}.{mac}"),
        "not even text": ask("Bearer \udcff\udcfe.\udcff.\udcff"),
        "junk": ask("Bearer ....."),
        "64 lists": ask("Bearer " + base64.urlsafe_b64encode(b"[" * 3000).decode() + "." + claims + "." + mac),
    }
    if path.endswith("answer"):
        query = urlencode(fields_of("vonage", new_call_id("vonage")))
        forgeries["a GET without a token"] = request("GET", f"{path}?{query}", {"Host": "localhost"})
    return forgeries


@providers
@pytest.mark.parametrize("kind", ["call", "status"])
async def test_h72_a_forged_webhook_is_403_and_starts_nothing(
    provider: str, kind: str, autojump_clock: MockClock
) -> None:
    """H 72: every way in which a signature can be missing or wrong."""
    async with bench(provider) as b:
        path = (CALL_PATHS if kind == "call" else STATUS_PATHS)[provider]
        make = twilio_forgeries if provider == "twilio" else vonage_forgeries
        forgeries = make(b.rig.engine.url, path)
        for what, sent in forgeries.items():
            status, _, body = await b.http(sent)
            assert (status, orjson.loads(body)["error"]["code"]) == (403, "bad_signature"), what
            assert not b.rig.engine.registry.has_promises, what
        assert b.rig.total("signature_failures_total") == len(forgeries)
        rejected = b.rig.value("calls_rejected_total", provider=provider, reason="bad_signature")
        assert rejected == (len(forgeries) if kind == "call" else 0)
        assert b.rig.total("calls_started_total") == 1
        assert all(SECRET not in repr(event) for event in b.log)


# --- H 73: replays ------------------------------------------------------------------------------------------


@providers
async def test_h73_a_replayed_webhook_gets_the_same_answer_and_no_second_call(
    provider: str, autojump_clock: MockClock
) -> None:
    """H 73: before the token is used, while the call lives, after it, and after the token would have expired."""
    async with bench(provider, max_calls=4, token_s=6.0) as b:
        call_id = new_call_id(provider)
        sent = signed(b, provider, CALL_PATHS[provider], fields_of(provider, call_id))
        first = await b.http(sent)
        assert first[0] == 200
        token = token_in(provider, first[2])
        assert await b.http(sent) == first
        async with b.line(provider, call_id=call_id) as line:
            await line.start(token)
            await b.until(lambda: call_id in b.rig.engine.registry.live_calls())
            opened = b.opened()
            for _ in range(2):
                assert await b.http(sent) == first
                assert await knock(b, provider, call_id, token) == 1008
            assert not b.rig.engine.registry.has_promises
            assert b.opened() == opened
            await line.send(*line.side.stop())
            await line.peer.send(b"\x88\x82\0\0\0\0\x03\xe8")
            assert await b.ended(line) == "caller_hangup"
        await trio.sleep(8)
        assert await b.http(sent) == first
        assert not b.rig.engine.registry.has_promises
        assert await knock(b, provider, call_id, token) == 1008
        assert b.rig.total("calls_started_total") == 2


# --- H 74: media tokens -------------------------------------------------------------------------------------


async def knock(b: Bench, provider: str, call_id: str, token: object) -> int | None:
    """Start a media stream with this token; the code it is closed with."""
    async with b.line(provider, call_id=call_id) as line:
        await line.send(as_json(start_of(provider, call_id, token)))  # type: ignore[arg-type]  # any JSON
        with trio.fail_after(1.2):
            await line.over.wait()
        return line.code


@providers
async def test_h74_a_media_socket_without_its_token_opens_nothing(provider: str, autojump_clock: MockClock) -> None:
    """H 74: for every provider: none, guessed, changed, another call's, another provider's, used, expired."""
    other = PROVIDERS[1 - PROVIDERS.index(provider)]
    async with bench(provider, token_s=3.0) as b:
        opened, call_id = b.opened(), new_call_id(provider)
        token = await b.token(provider, call_id)
        strange = await b.token(provider, new_call_id(provider))
        foreign = await b.token(other, call_id)
        changed = token[:-1] + ("A" if token[-1] != "A" else "B")
        for guess in ("", "guess", changed, token[:-1], token + "x", token.swapcase(), strange, foreign, "x" * 500):
            assert await knock(b, provider, call_id, guess) == 1008, guess
        assert await knock(b, provider, new_call_id(provider), token) == 1008
        assert await knock(b, other, call_id, token) == 1008
        assert b.opened() == opened
        assert b.rig.value("handshake_failures_total", why="bad_token") == 11
        async with b.line(provider, call_id=call_id) as line:  # nothing of that has used it up
            await line.start(token)
            await b.until(lambda: call_id in b.rig.engine.registry.live_calls())
            assert await knock(b, provider, call_id, token) == 1008
            await line.send(*line.side.stop())
            await line.peer.send(b"\x88\x82\0\0\0\0\x03\xe8")
            assert await b.ended(line) == "caller_hangup"
        late = await b.token(provider, call_id)
        await trio.sleep(3.1)
        assert await knock(b, provider, call_id, late) == 1008
        assert b.rig.total("calls_started_total") == 2


# --- H 75 and H 76: headers and texts of strangers ----------------------------------------------------------


@providers
async def test_h75_forwarded_headers_of_a_stranger_change_nothing(provider: str, autojump_clock: MockClock) -> None:
    """H 75: the media address in the answer is ours, and so is the address whose signature is checked."""
    async with bench(provider) as b:
        lies = {
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "127.0.0.1",
            "Forwarded": "host=evil.example;proto=https",
            "X-Original-URL": "/api/health",
        }
        call_id = new_call_id(provider)
        status, _, body = await b.http(signed(b, provider, CALL_PATHS[provider], fields_of(provider, call_id), **lies))
        assert status == 200
        assert b"evil" not in body
        assert b.rig.engine.url.replace("http", "ws").encode() in body
        strange = signed(b, provider, CALL_PATHS[provider], fields_of(provider, new_call_id(provider)))
        host = b.rig.engine.url.removeprefix("http://").encode()
        status, _, body = await b.http(strange.replace(b"Host: " + host, b"Host: evil.example"))
        assert status == 400
        assert b"evil" not in body
        b.rig.engine.registry.withdraw(provider, call_id)


TEXTS = (
    "<Hangup/>",
    '"/><Dial>+19005550000</Dial><x a="',
    "</Parameter></Stream></Connect><Redirect>http://evil.example</Redirect>",
    "]]><!-- -->",
    "&lt;&amp;&#0;&#x1b;",
    "\r\nX-Injected: yes\r\n\r\n<html>",
    "\0\x01\x1b[31m\x7f",
    "\u202eevil\u200f\ufeff",
    '{"action":"talk"}","x":"',
    "{{7*7}} %s %n ${x}",
    "__proto__",
    "' OR 1=1; --",
    "😀" * 100,
    "x" * 5000,
)
ANSWER_HEADERS = {"content-type", "content-length"}


@providers
async def test_h76_no_text_of_a_stranger_changes_the_answer(provider: str, autojump_clock: MockClock) -> None:
    """H 76: the same elements always, no header more, and nothing of the text in it."""
    fields = ("From", "To", "CallerName", "Digits", "FromCity", "SpeechResult", "<x>")
    if provider == "vonage":
        fields = ("from", "to", "from_user", "dtmf", "region_url", "SipHeader_User-to-User", "<x>")
    async with bench(provider, max_calls=1000) as b:
        for field in fields:
            for text in TEXTS:
                call_id = new_call_id(provider)
                sent = signed(b, provider, CALL_PATHS[provider], fields_of(provider, call_id) | {field: text})
                status, headers, body = await b.http(sent)
                assert status in ((200, 400) if field.lower() in ("from", "to") else (200,)), (field, text)
                assert headers.keys() - {"date", "server"} <= ANSWER_HEADERS | {"connection"}, headers
                if status == 200:
                    check_document(provider, body)
                assert b.rig.engine.url.removeprefix("http").encode() in body or status == 400
                b.rig.engine.registry.withdraw(provider, call_id)
        assert b.rig.total("http_requests_total") > len(fields) * len(TEXTS)


def check_document(provider: str, body: bytes) -> None:
    if provider == "twilio":
        tags = [element.tag for element in ET.fromstring(body).iter()]
        assert tags == ["Response", "Connect", "Stream", "Parameter", "Redirect"]
    else:
        (action,) = orjson.loads(body)
        assert action.keys() <= {"action", "endpoint", "from", "randomFromNumber", "eventType", "eventUrl"}
        assert [endpoint.keys() for endpoint in action["endpoint"]] == [{"type", "uri", "content-type", "headers"}]
    assert token_in(provider, body)


@providers
async def test_h76_parameters_of_a_start_message_are_only_text(provider: str, autojump_clock: MockClock) -> None:
    """H 76: customParameters, or headers of the websocket, with markup and control characters in them."""
    async with bench(provider) as b:
        for text in TEXTS[:-1]:
            call_id = new_call_id(provider)
            start = start_of(provider, call_id, await b.token(provider, call_id))
            (start["start"]["customParameters"] if provider == "twilio" else start)[text[:400]] = text[:400]
            async with b.line(provider, call_id=call_id) as line, trio.open_nursery() as nursery:
                await line.send(as_json(start))
                nursery.start_soon(line.keep_talking)
                await b.until(partial(is_live, b, call_id))
                await line.send(*line.side.stop())
                await line.peer.send(b"\x88\x82\0\0\0\0\x03\xe8")
                assert await b.ended(line) == "caller_hangup"
                nursery.cancel_scope.cancel()


def is_live(b: Bench, call_id: str) -> bool:
    return call_id in b.rig.engine.registry.live_calls()


# --- H 77: ids and paths ------------------------------------------------------------------------------------

IDS = (
    "", "..", "../../etc/passwd", "..%2f..", "%2e%2e", "CA/../x", "CA x", "CA\n", "CA\0", "CA'--", "CA{{7*7}}", "CA%s",
    "__proto__.x", "ä" * 10, "x" * 65, "x" * 20_000, "\u202eCA", "-\r\nX-Injected: 1",
)  # fmt: skip


@providers
@pytest.mark.parametrize("kind", ["call", "status"])
async def test_h77_an_id_that_is_none_is_400(provider: str, kind: str, autojump_clock: MockClock) -> None:
    """H 77: signed by the provider, and refused all the same; the value is not repeated."""
    path = (CALL_PATHS if kind == "call" else STATUS_PATHS)[provider]
    async with bench(provider) as b:
        for value in IDS:
            fields = fields_of(provider, value, **({"status": "completed"} if provider == "vonage" else {}))
            status, headers, body = await b.http(signed(b, provider, path, fields))
            assert status == 400, value
            error = orjson.loads(body)["error"]
            assert error["message"] in ("CallSid", "uuid"), value
            assert "x-injected" not in headers
        odd_ids: tuple[Any, ...] = (None, 5, [], {}, True) if provider == "vonage" else ()
        for odd in odd_ids:
            fields = fields_of(provider, odd, status="completed")
            assert (await b.http(signed(b, provider, path, fields)))[0] == 400, odd
        assert not b.rig.engine.registry.has_promises


async def test_h77_a_path_that_is_none_is_404_or_400(autojump_clock: MockClock) -> None:
    """H 77: nothing but the routes, spelt as they are."""
    paths = (
        "/..", "/../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/voice/", "/voice/../voice/x",
        "/voice%00", "/VOICE", "//voice", "/media", "/media/", "/media/twilio/x", "/media/%2e%2e/voice", "/%", "/%zz",
        "/%ff%fe", "/api/health/%s", "/{{7*7}}", "/__proto__", "/metrics/../voice", "/" + "x" * 10_000, "/;/voice",
        "/api/health;x", "/" + "%2e" * 3000,
    )  # fmt: skip
    async with bench() as b:
        for path in paths:
            status, _, body = await b.http(request("GET", path, {"Host": "localhost"}))
            assert status == 404, path
            assert orjson.loads(body)["error"]["code"] == "not_found"
        for target in ("*", "http://evil.example/voice", "evil.example:443", "voice", "/a b", "/ä", "/\0", "/\r"):
            status, _, _ = await b.http(request("GET", target, {"Host": "localhost"}))
            assert status == 400, target
        status, _, _ = await b.http(request("GET", "/" + "x" * 100_000, {"Host": "localhost"}))
        assert status == 431
        status, _, _ = await b.http(request("GET", "/api/health?" + quote("../" * 100), {"Host": "localhost"}))
        assert status == 200


# --- H 78: bodies, fields, methods --------------------------------------------------------------------------

HOST = b"Host: localhost\r\n"
MIB = 1024 * 1024
BODIES: Mapping[str, tuple[bytes, frozenset[int]]] = {
    "50 MiB": (HOST + b"Content-Length: %d\r\n\r\n" % (50 * MIB) + b"x" * 2 * MIB, frozenset({413})),
    "50 MiB in chunks": (
        HOST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b"x" * MIB + b"\r\n") * 4,
        frozenset({413}),
    ),
    "a claimed EiB": (HOST + b"Content-Length: 1152921504606846976\r\n\r\n", frozenset({413})),
    "a length of 400 digits": (HOST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", frozenset({400, 413})),
    "a negative length": (HOST + b"Content-Length: -1\r\n\r\n", frozenset({400})),
    "two lengths": (HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", frozenset({400})),
    "CL and TE": (HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", frozenset({400})),
    "TE and CL": (HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", frozenset({400})),
    "TE twice": (HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", frozenset({400, 501})),
    "TE identity": (HOST + b"Transfer-Encoding: identity\r\n\r\n", frozenset({400, 501})),
    "TE in disguise": (HOST + b"Transfer-Encoding: xchunked\r\n\r\n", frozenset({400, 501})),
    "a header folded": (HOST + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n", frozenset({400, 403, 415})),
    "a chunk size that is none": (HOST + b"Transfer-Encoding: chunked\r\n\r\n0x10\r\n", frozenset({400})),
    "gzip": (HOST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\0", frozenset({415})),
    "brotli in capitals": (HOST + b"Content-Encoding: BR\r\nContent-Length: 1\r\n\r\nx", frozenset({415})),
    "no Host": (b"Content-Length: 0\r\n\r\n", frozenset({400})),
    "two Hosts": (HOST + HOST + b"Content-Length: 0\r\n\r\n", frozenset({400})),
    "100,000 headers": (HOST + b"a: b\r\n" * 100_000 + b"\r\n", frozenset({431, 400})),
    "a header of 100 kB": (HOST + b"a: " + b"b" * 100_000 + b"\r\n\r\n", frozenset({431, 400})),
    "NUL in a header": (HOST + b"a: \0\r\n\r\n", frozenset({400})),
    "a header with a space": (HOST + b"a : b\r\n\r\n", frozenset({400})),
    "a bare line feed": (HOST + b"a: b\nContent-Length: 1\r\n\r\nx", frozenset({400, 403})),
}


async def test_h78_a_body_that_cannot_be_is_refused_early(autojump_clock: MockClock) -> None:
    """H 78: sizes, lengths that contradict each other, encodings; on both providers' routes."""
    async with bench() as b:
        for path in (b"/voice", b"/vonage/answer", b"/api/health"):
            for what, (rest, allowed) in BODIES.items():
                began_s = trio.current_time()
                status, headers, body = await b.http(b"POST " + path + b" HTTP/1.1\r\n" + rest)
                assert status in allowed | ({405} if path == b"/api/health" else set()), (what, path, status)
                assert orjson.loads(body)["error"]["code"], what
                assert trio.current_time() - began_s < 0.5, what
                assert status in (403, 405) or headers.get("connection") == "close", what


@providers
async def test_h78_a_signed_body_can_be_a_bomb_all_the_same(provider: str, autojump_clock: MockClock) -> None:
    """H 78: 100,000 fields, or so many lists within lists."""
    path = CALL_PATHS[provider]
    async with bench(provider) as b:
        host = {"Host": b.rig.engine.url.removeprefix("http://")}
        bodies = {
            "100,000 fields": b"&".join(b"a%d=" % n for n in range(100_000)),
            "10,000 fields": b"&".join(b"a%d=" % n for n in range(9_000)),
            "10,000 times one field": b"&".join([b"a=1"] * 9_000),
            "only ampersands": b"&" * 60_000,
            "per cents": b"%" * 60_000,
            "bytes": bytes(range(256)) * 200,
        }
        if provider == "vonage":
            bodies = {
                "100,000 fields": orjson.dumps({str(n): 1 for n in range(100_000)}),
                "5,000 fields": orjson.dumps({str(n): 1 for n in range(5_000)}),
                "60,000 lists": b"[" * 60_000,
                "30,000 lists, closed": b"[" * 30_000 + b"]" * 30_000,
                "objects in objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
                "a number of 60,000 digits": b'{"uuid":' + b"9" * 60_000 + b"}",
                "bytes": bytes(range(256)) * 200,
                "a list": b"[]",
                "half": b'{"uuid":"x',
            }
        for what, body in bodies.items():
            if provider == "twilio":
                proof = {"Content-Type": "application/x-www-form-urlencoded", "X-Twilio-Signature": "A" * 28}
            else:
                proof = {"Authorization": f"Bearer {vonage_token(body)}"}
            status, _, _ = await b.http(request("POST", path, host | proof, body))
            expected = {413} if len(body) > 64 * 1024 else {400} if provider == "vonage" else {400, 403}
            assert status in expected, (what, status)
        assert not b.rig.engine.registry.has_promises


async def test_h78_unknown_methods_are_405_and_what_is_no_http_is_400(autojump_clock: MockClock) -> None:
    """H 78: on every route."""
    async with bench() as b:
        for path in (
            "/voice",
            "/twilio/status",
            "/vonage/answer",
            "/vonage/event",
            "/api/health",
            "/metrics",
            "/readyz",
        ):
            for method in ("DELETE", "PUT", "PATCH", "TRACE", "OPTIONS", "BREW", "get", "X" * 200, "CONNECT"):
                status, _, _ = await b.http(request(method, path, {"Host": "localhost"}))
                assert status == 405, (method, path)
        for junk in (
            b"\x16\x03\x01\x02\0\x01\0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\r\n\r\n",
            b"\0\r\n\r\n",
        ):
            status, _, _ = await b.http(junk)
            assert status in (400, 505), junk
