"""A stream to a host, over TLS if it is wanted, and why there is none."""

from __future__ import annotations

import ssl

import trio

from engine.runtime.wire import close_stream


class NotConnected(Exception):
    """The words name the host and what went wrong, nothing else of the address."""


async def connect(host: str, port: int, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    """Without a context there is no TLS. Raises NotConnected; cancelled, nothing is left open. The caller sets the
    deadline."""
    try:
        tcp = await trio.open_tcp_stream(host, port)
        if ssl_context is None:
            return tcp
        # https_compatible: do not wait for the peer's end of TLS on closing.
        tls = trio.SSLStream(tcp, ssl_context, server_hostname=host, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException:
            close_stream(tcp)
            raise
    except (OSError, trio.BrokenResourceError) as exc:
        raise NotConnected(f"{host}: {_why(exc)}") from exc
    return tls


def _why(exc: Exception) -> str:
    """OpenSSL's own word where it was TLS: CERTIFICATE_VERIFY_FAILED, WRONG_VERSION_NUMBER, ..."""
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason}"
    return type(cause if isinstance(cause, OSError) else exc).__name__
