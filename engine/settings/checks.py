"""What settings must be, and what is said when they are not: always the key, and what was expected."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import Field, fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import cattrs
import phonenumbers
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError

from engine.errors import SettingsError
from engine.settings.tables import (
    PlivoSettings,
    Settings,
    TelnyxSettings,
    TwilioSettings,
    VonageSettings,
    digits_of,
)

T = TypeVar("T")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")
_TABLE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def check_all(settings: Settings) -> None:
    """What no single value shows. Raises SettingsError."""
    _check_references(settings)
    _check_lines(settings.lines)
    _check_addresses(settings)
    _check_sessions(settings)
    _check_outbound(settings)
    _check_recording(settings)


def structured(raw: dict[str, Any], kind: type[T], path: str = "") -> T:
    """``raw`` as values of this kind. Raises SettingsError naming each key at fault, below ``path``."""
    try:
        settings = _converter().structure(raw, kind)
    except ClassValidationError as group:
        raise SettingsError("; ".join(_explain(group, kind, path))) from None
    except (TypeError, AttributeError):
        raise SettingsError("the settings must be a table of tables") from None
    check_ranges(settings, path)
    return settings


@cache
def _converter() -> cattrs.Converter:
    """It compiles a function for each table that it meets, so there is one: settings are read in parts."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain in (int, float, str, bool):
        converter.register_structure_hook(plain, _strictly)
    converter.register_structure_hook_func(lambda t: t is Any, lambda value, _: value)
    converter.register_structure_hook_func(lambda t: t == tuple[str, ...], _words)
    return converter


def _words(value: Any, _: Any) -> tuple[str, ...]:
    """A list of words; one alone may stand for itself."""
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        raise ValueError(f"expected a list of texts, got {value!r:.60}")
    return tuple(_strictly(word, str) for word in words)


def _strictly(value: Any, kind: type) -> Any:
    """No silent conversion: "8080" is no port, true is no number."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {kind_in_words(kind)}, got {value!r:.60}")
    return value


def _explain(error: BaseException, kind: Any, path: str) -> list[str]:
    """Every leaf of a validation error as ``key: what was expected``."""
    lines: list[str] = []
    for exc in getattr(error, "exceptions", ()):
        notes = [note for note in getattr(exc, "__notes__", ()) if hasattr(note, "name") or hasattr(note, "index")]
        step = str(getattr(notes[0], "name", getattr(notes[0], "index", ""))) if notes else ""
        here = f"{path}.{step}" if path and step else path or step
        inner = _kind_at(kind, step)
        if hasattr(exc, "exceptions"):
            lines += _explain(exc, inner, here)
        elif isinstance(exc, ForbiddenExtraKeysError):
            known = [item.name for item in fields(exc.cl)]
            prefix = f"{here}." if here else ""
            lines += [f"{prefix}{key}: there is no such setting{hint(key, known)}" for key in sorted(exc.extra_fields)]
        elif isinstance(exc, ValueError) and (not notes or str(exc).startswith("expected")):
            lines.append(f"{here}: {exc}")  # in words of ours; without a note it is what a table says of itself
        else:
            lines.append(f"{here}: expected {kind_in_words(inner)}")
    return lines


def _kind_at(kind: Any, step: str) -> Any:
    if get_origin(kind) is not None:
        return get_args(kind)[-1]
    hints = get_type_hints(kind) if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__") else {}
    return hints.get(step, kind)


def check_ranges(settings: Any, path: str) -> None:
    for item in fields(settings):
        value = getattr(settings, item.name)
        here = f"{path}.{item.name}" if path else item.name
        if hasattr(value, "__dataclass_fields__"):
            check_ranges(value, here)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if hasattr(inner, "__dataclass_fields__"):
                    check_ranges(inner, f"{here}.{name}")
        else:
            _check_range(item, value, here)


def _check_range(item: Field[Any], value: Any, here: str) -> None:
    minimum, maximum, choices = (item.metadata.get(key) for key in ("minimum", "maximum", "choices"))
    if choices is not None and value not in choices:
        there_are = ", ".join(str(choice) if choice != "" else '""' for choice in choices)
        raise SettingsError(f"{here}: expected one of {there_are}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{here}: expected a number, got {value!r}")
    if minimum is not None and not value >= minimum:
        raise SettingsError(f"{here}: expected at least {minimum}, got {value!r}")
    if maximum is not None and value > maximum:
        raise SettingsError(f"{here}: expected at most {maximum}, got {value!r}")


def _check_references(settings: Settings) -> None:
    if not settings.agents:
        raise SettingsError("agents: expected at least one agent, such as [agents.desk]")
    known = ", ".join(settings.agents)
    if settings.default_agent and settings.default_agent not in settings.agents:
        raise SettingsError(f"default_agent: there is no agent {settings.default_agent!r}; there are: {known}")
    for number, agent in settings.lines.items():
        if agent not in settings.agents:
            raise SettingsError(f"lines.{number}: there is no agent {agent!r}; there are: {known}")


def _check_sessions(settings: Settings) -> None:
    sessions = settings.sessions
    if sessions.default_region not in phonenumbers.SUPPORTED_REGIONS:
        raise SettingsError(
            f"sessions.default_region: expected a country such as US or GB, got {sessions.default_region!r}"
        )
    for number in sessions.trusted_lines:
        if not digits_of(number).isdigit():
            raise SettingsError(f"sessions.trusted_lines: expected phone numbers, got {number!r}")
    if not _TABLE_NAME.fullmatch(settings.store.table):
        raise SettingsError(
            f"store.table: expected lower-case letters, digits and _, at most 40, got {settings.store.table!r}"
        )


def _check_outbound(settings: Settings) -> None:
    outbound = settings.outbound
    providers = ("twilio", "vonage", "telnyx", "plivo", "signalwire")
    for number, provider in outbound.numbers.items():
        if not _E164.fullmatch(number):
            raise SettingsError(f"outbound.numbers: expected numbers such as +15550100000, got {number!r}")
        if provider not in providers:
            raise SettingsError(f"outbound.numbers.{number}: expected one of {', '.join(providers)}, got {provider!r}")
    for key in ("allow", "deny"):
        for prefix in getattr(outbound, key):
            if not _PREFIX.fullmatch(prefix):
                raise SettingsError(f"outbound.{key}: expected beginnings of numbers such as +4930, got {prefix!r}")
    if outbound.enabled and not outbound.numbers:
        raise SettingsError('outbound.numbers: expected a number to call from, such as "+15550100000" = "twilio"')


def _check_recording(settings: Settings) -> None:
    recording, secrets = settings.recording, settings.secrets
    for agent in recording.agents:
        if agent not in settings.agents:
            known = ", ".join(settings.agents)
            raise SettingsError(f"recording.agents: there is no agent {agent!r}; there are: {known}")
    if recording.endpoint and not _is_address(recording.endpoint):
        raise SettingsError(
            f"recording.endpoint: expected an address such as https://minio.example.com, got {recording.endpoint!r}"
        )
    if recording.enabled and recording.bucket and not (secrets.aws_access_key_id and secrets.aws_secret_access_key):
        raise SettingsError("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: expected, because recording.bucket is set")


def _check_lines(lines: Mapping[str, str]) -> None:
    spelt: dict[str, str] = {}
    for number in lines:
        digits = digits_of(number)
        if not digits.isdigit():
            raise SettingsError(f"lines.{number}: expected a phone number, such as +15550100000")
        if digits in spelt:
            raise SettingsError(f"lines.{number}: expected each number once, it is {spelt[digits]} too")
        spelt[digits] = number


def _check_addresses(settings: Settings) -> None:
    examples = {"server.public_url": "https://calls.example.com"} if settings.server.public_url else {}
    examples |= {
        "twilio.api_url": TwilioSettings().api_url,
        "vonage.api_url": VonageSettings().api_url,
        "telnyx.api_url": TelnyxSettings().api_url,
        "plivo.api_url": PlivoSettings().api_url,
    }
    if settings.signalwire.api_url:
        examples["signalwire.api_url"] = "https://example.signalwire.com"
    for key, example in examples.items():
        table, _, name = key.partition(".")
        url = getattr(getattr(settings, table), name)
        if not _is_address(url):
            raise SettingsError(f"{key}: expected an address such as {example}, got {url!r}")
    for proxy in settings.server.trusted_proxies:
        try:
            ipaddress.ip_address(proxy)
        except ValueError:
            raise SettingsError(f"server.trusted_proxies: expected IP addresses, got {proxy!r}") from None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is none
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname) and not parts.query and not parts.fragment


def hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known)}"


def kind_in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return " or ".join(kind_in_words(part) for part in get_args(kind))
    if origin is tuple:
        return "a list of strings"
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    return names.get(kind, "a table")
