"""A provider's REST API on loopback, with or without TLS, that our client and the official one talk to alike."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h11
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class ApiRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RestApi:
    """Answers every request by ``answer`` (status and a body, JSON or XML) and remembers it."""

    base: str
    answer: Callable[[ApiRequest], tuple[int, bytes]]
    requests: list[ApiRequest] = field(default_factory=list)


@asynccontextmanager
async def rest_api(
    answer: Callable[[ApiRequest], tuple[int, bytes]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[RestApi]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        api = RestApi(f"{'https' if tls else 'http'}://127.0.0.1:{port}", answer)
        nursery.start_soon(partial(trio.serve_listeners, partial(_serve, api, tls), listeners))
        yield api
        nursery.cancel_scope.cancel()


async def _serve(api: RestApi, tls: ssl.SSLContext | None, tcp: trio.SocketStream) -> None:
    stream: trio.abc.Stream = trio.SSLStream(tcp, tls, server_side=True, https_compatible=True) if tls else tcp
    async with stream:
        connection = h11.Connection(h11.SERVER)
        head, body = None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        request = ApiRequest(head.method.decode(), head.target.decode(), headers, body)
        api.requests.append(request)
        status, content = api.answer(request)
        reply_headers = [("connection", "close"), ("content-length", str(len(content)))]
        if content:
            kind = "text/xml" if content.startswith(b"<") else "application/json"
            reply_headers.append(("content-type", kind))
        reply: list[h11.Event] = [h11.Response(status_code=status, headers=reply_headers)]
        if content:
            reply.append(h11.Data(data=content))
        for part in (*reply, h11.EndOfMessage()):
            await stream.send_all(connection.send(part) or b"")


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem_of(key: rsa.RSAPrivateKey) -> str:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


def loopback_tls(folder: Path, host: str = "localhost") -> tuple[ssl.SSLContext, Path]:
    """A server's context for 127.0.0.1 and ``host``, and the file of the authority to trust for it: itself."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(host)]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = folder / "ca.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = folder / "key.pem"
    key_file.write_text(pem_of(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key_file)
    return context, authority
