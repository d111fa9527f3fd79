"""A request to an address that somebody has set reaches nobody inside, and costs no more than its deadline."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runtime.guarded_http import Answer, Forbidden, GuardedHttp, Reply, Unreachable, fault_of, is_public
from tests.adapters.providers.rest_api import ApiRequest, loopback_tls, rest_api

PUBLIC, NAME = "93.184.215.14", "hooks.example.com"


def ok(_: ApiRequest) -> tuple[int, bytes]:
    return 200, b"{}"


# --- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::6810:84e5", "64:ff9b::5db8:d70e", "::ffff:8.8.8.8"])
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "100::1",
        "3fff::1",
        "5f00::1",
        "no address",
        "",
    ],
)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@given(address=st.ip_addresses())
@settings(deadline=None)
def test_what_python_knows_to_be_inside_is_never_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    inside = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour):
        return
    assert not (is_public(str(address)) and inside)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://example.com/events?x=1", ""),
        ("https://example.com:8443", ""),
        ("https://93.184.215.14/", ""),
        ("https://[2606:4700::6810:84e5]/", ""),
        ("http://example.com/", "not https"),
        ("file:///etc/passwd", "not https"),
        ("gopher://example.com/", "not https"),
        ("//example.com/", "not https"),
        ("example.com", "not https"),
        ("", "not https"),
        ("https:///events", "no host"),
        ("https://example.com:0/", "no port"),
        ("https://example.com:99999/", "no port"),
        ("https://example.com:https/", "no address"),
        ("https://[::1/", "no address"),
        ("https://user@example.com/", "a name or password in the address"),
        ("https://user:word@127.0.0.1/", "a name or password in the address"),
        ("https://example.com\\@127.0.0.1/", "a name or password in the address"),
        ("https://example.com/#x", "a fragment in the address"),
        ("https://127.0.0.1/", "an address inside"),
        ("https://127.1/", "an address inside"),
        ("https://2130706433/", "an address inside"),
        ("https://0x7f000001/", "an address inside"),
        ("https://0177.0.0.1/", "no address"),
        ("https://0/", "an address inside"),
        ("https://[::1]/", "an address inside"),
        ("https://[::ffff:127.0.0.1]/", "an address inside"),
        ("https://[fe80::1%25eth0]/", "an address inside"),
        ("https://127\u30020\u30020\u30021/", "an address inside"),
        ("https://169.254.169.254/latest/meta-data", "an address inside"),
    ],
)
def test_a_wrong_address_is_known_before_its_name_is_asked_for(url: str, fault: str) -> None:
    assert fault_of(url) == fault


def test_private_networks_and_plain_http_can_be_allowed_and_nothing_else() -> None:
    assert fault_of("http://127.0.0.1:8080/events", allow_private=True) == ""
    assert fault_of("http://user@127.0.0.1/", allow_private=True)
    assert fault_of("file:///etc/passwd", allow_private=True)


# --- names ------------------------------------------------------------------------------------------------------


class Dns:
    """Answers with what it was told, each asking a step further; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Wire(httpcore.AsyncNetworkBackend):
    """The Internet: any address leads to one server on loopback; ``dead`` ones to nobody."""

    def __init__(self, base: str, dead: Sequence[str] = ()) -> None:
        self.port = int(base.rpartition(":")[2])
        self.dead = dead
        self.connected: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        if host in self.dead:
            raise httpcore.ConnectError
        return await httpcore.TrioBackend().connect_tcp("127.0.0.1", self.port, timeout)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side and the client's, for NAME."""
    server, authority = loopback_tls(Path(tmp_path_factory.mktemp("tls")), NAME)
    return server, ssl.create_default_context(cafile=str(authority))


Tls = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_the_name_is_asked_for_once_and_its_address_is_connected_to_with_the_name_kept(tls: Tls) -> None:
    dns = Dns([PUBLIC], ["127.0.0.1"])
    async with rest_api(ok, tls[0]) as api:
        wire = Wire(api.base)
        http = GuardedHttp(resolve=dns.resolve, ssl_context=tls[1], backend=wire)
        assert await http.post(f"https://{NAME}/events?a=b", {"x-one": "1"}, b"{}") == Reply(200)
        (request,) = api.requests
    assert (dns.asked, wire.connected) == ([NAME], [PUBLIC])
    assert (request.method, request.path, request.body) == ("POST", "/events?a=b", b"{}")
    assert request.headers["host"] == NAME
    assert request.headers["x-one"] == "1"


async def test_a_name_that_begins_to_lead_inside_is_not_followed(tls: Tls) -> None:
    dns = Dns([PUBLIC], ["169.254.169.254"])
    async with rest_api(ok, tls[0]) as api:
        wire = Wire(api.base)
        http = GuardedHttp(resolve=dns.resolve, ssl_context=tls[1], backend=wire)
        await http.post(f"https://{NAME}/", {}, b"{}")
        with pytest.raises(Forbidden):
            await http.post(f"https://{NAME}/", {}, b"{}")
    assert wire.connected == [PUBLIC]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::1"], ["fe80::1%eth0"], ["::ffff:7f00:1"]]
)
async def test_one_address_inside_forbids_a_name(addresses: list[str], tls: Tls) -> None:
    async with rest_api(ok, tls[0]) as api:
        wire = Wire(api.base)
        with pytest.raises(Forbidden):
            await GuardedHttp(resolve=Dns(addresses).resolve, backend=wire).post(f"https://{NAME}/", {}, b"{}")
    assert wire.connected == []


async def test_the_systems_own_name_for_itself_is_forbidden_and_can_be_allowed() -> None:
    async with rest_api(ok) as api:
        port = api.base.rpartition(":")[2]
        with pytest.raises(Forbidden):
            await GuardedHttp().post(f"https://localhost:{port}/", {}, b"{}")
        assert api.requests == []
        assert (await GuardedHttp(allow_private=True).post(f"http://localhost:{port}/", {}, b"{}")).status == 200


async def test_the_next_address_of_a_name_is_tried_when_one_is_dead(tls: Tls) -> None:
    async with rest_api(ok, tls[0]) as api:
        wire = Wire(api.base, dead=["8.8.8.8"])
        http = GuardedHttp(resolve=Dns(["8.8.8.8", PUBLIC]).resolve, ssl_context=tls[1], backend=wire)
        assert (await http.post(f"https://{NAME}/", {}, b"{}")).status == 200
    assert wire.connected == ["8.8.8.8", PUBLIC]


async def test_an_address_instead_of_a_name_is_asked_for_as_it_is_written() -> None:
    async with rest_api(ok) as api:
        wire = Wire(api.base)
        await GuardedHttp(allow_private=True, backend=wire).post("http://[2606:4700::1]:8080/", {}, b"{}")
        assert api.requests[0].headers["host"] == "[2606:4700::1]:8080"
    assert wire.connected == ["2606:4700::1"]


async def test_a_certificate_of_another_name_is_no_answer(tls: Tls) -> None:
    async with rest_api(ok, tls[0]) as api:
        http = GuardedHttp(resolve=Dns([PUBLIC]).resolve, ssl_context=tls[1], backend=Wire(api.base))
        with pytest.raises(Unreachable):
            await http.post("https://other.example.com/", {}, b"{}")


async def test_a_name_that_is_none_is_no_answer() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    for resolve in (nowhere, Dns([]).resolve):
        with pytest.raises(Unreachable):
            await GuardedHttp(resolve=resolve).post(f"https://{NAME}/", {}, b"{}")
    with pytest.raises(Unreachable):
        await GuardedHttp().post(f"https://{'x' * 70}.invalid/", {}, b"{}")


# --- hostile receivers ------------------------------------------------------------------------------------------


@asynccontextmanager
async def receiver(handle: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """A server of any manners on loopback; its address."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await handle(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


inside = GuardedHttp(allow_private=True)
hasty = GuardedHttp(allow_private=True, deadline_s=0.3)


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async def redirect(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        seen.append(1)
        await stream.send_all(b"HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")

    seen: list[int] = []
    async with receiver(redirect) as url:
        assert await inside.post(url, {}, b"{}") == Reply(307, "7")
    assert seen == [1]


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with rest_api(ok) as api:
        assert (await GuardedHttp(allow_private=True).post(api.base, {}, b"{}")).status == 200


async def test_a_receiver_that_says_nothing_is_given_up_and_let_go_of() -> None:
    closed = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        closed.set()

    async with receiver(silent) as url:
        with pytest.raises(Unreachable, match="within"), trio.fail_after(5):
            await hasty.post(url, {}, b"{}")
        with trio.fail_after(5):
            await closed.wait()


async def test_a_head_that_drips_is_given_up() -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X: y\r\n")
            await trio.sleep(0.02)

    async with receiver(drip) as url:
        with pytest.raises(Unreachable):
            await hasty.post(url, {}, b"{}")


async def test_an_endless_head_is_no_answer() -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X: " + b"y" * 8192 + b"\r\n")

    async with receiver(endless) as url:
        with pytest.raises(Unreachable):
            await inside.post(url, {}, b"{}")


async def test_of_an_endless_answer_64_kib_are_read() -> None:
    closed = trio.Event()
    sent_bytes = 0

    async def endless(stream: trio.SocketStream) -> None:
        nonlocal sent_bytes
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await stream.send_all(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                sent_bytes += 4096
        finally:
            closed.set()

    async with receiver(endless) as url:
        assert (await inside.post(url, {}, b"{}")).status == 200
        with trio.fail_after(5):
            await closed.wait()
    assert sent_bytes < 16 * 1024 * 1024  # what the system's buffers take


async def test_an_answer_whose_end_is_never_sent_is_an_answer() -> None:
    async def unfinished(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while await stream.receive_some():
            pass

    async with receiver(unfinished) as url:
        assert (await GuardedHttp(allow_private=True, deadline_s=1.0).post(url, {}, b"{}")).status == 200


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/9.9 banana\r\n\r\n", b"\0" * 1000])
async def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    async def other(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with receiver(other) as url:
        with pytest.raises(Unreachable):
            await inside.post(url, {}, b"{}")


async def test_an_answer_that_breaks_off_after_its_head_is_an_answer() -> None:
    async def breaks_off(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n" * 2)

    async def short(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")

    for handle, status in ((breaks_off, 204), (short, 200)):
        async with receiver(handle) as url:
            assert (await inside.post(url, {}, b"{}")).status == status


async def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(Unreachable):
        await inside.post("http://127.0.0.1:1/", {}, b"{}")


async def test_a_wrong_address_is_never_asked_for() -> None:
    with pytest.raises(Forbidden):
        await GuardedHttp().post("http://example.com/", {}, b"{}")


# --- what was answered ------------------------------------------------------------------------------------------


async def test_a_request_brings_its_method_and_the_whole_answer() -> None:
    def answer(request: ApiRequest) -> tuple[int, bytes]:
        return 404, f"{request.method} {request.path}".encode()

    async with rest_api(answer) as api:
        found = await inside.request("GET", f"{api.base}/slots?day=monday", {"x-a": "b"})
        assert api.requests[0].headers["x-a"] == "b"
    assert (found.status, found.body, found.is_whole) == (404, b"GET /slots?day=monday", True)


async def test_of_an_answer_that_is_too_long_the_beginning_is_there() -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 4096)

    async with receiver(endless) as url:
        found = await inside.request("POST", url, {}, b"{}")
    assert found == Answer(200, "text/plain", b"x" * len(found.body), is_whole=False)
    assert 60_000 < len(found.body) <= 64 * 1024


@pytest.mark.parametrize("then", ["hangs", "breaks off"])
async def test_half_an_answer_is_none(then: str) -> None:
    async def half(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
        if then == "hangs":
            await trio.sleep_forever()

    async with receiver(half) as url:
        with pytest.raises(Unreachable):
            await hasty.request("POST", url, {}, b"{}")
