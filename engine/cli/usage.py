"""How a command can have been called wrongly."""

from __future__ import annotations

from urllib.parse import urlsplit

from engine.errors import OffhookError


class NotThere(OffhookError):
    """What the command was given is not there, or is nothing of the kind. The message says what was expected."""


def check_engine_url(url: str) -> None:
    """Raises NotThere for what is no address of an engine."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is none
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise NotThere(f"{url!r}: expected the address of an engine, such as http://127.0.0.1:8080")
