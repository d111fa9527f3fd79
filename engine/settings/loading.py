"""Settings from file and environment.

Order: command-line flag, then environment, then file, then default. A key ``x`` in the table ``[limits]`` is
``OFFHOOK_LIMITS_X`` in the environment. Secrets come from the environment only, under the names that the providers'
own tools use, or from the file that ``NAME_FILE`` points to.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from engine.errors import SettingsError
from engine.settings.checks import check_all, check_ranges, hint, kind_in_words, structured
from engine.settings.tables import (
    Limits,
    LogSettings,
    OutboundSettings,
    PlivoSettings,
    RecordingSettings,
    RelaySettings,
    Secrets,
    Server,
    SessionSettings,
    Settings,
    SignalWireSettings,
    SpeechSettings,
    StoreSettings,
    TelnyxSettings,
    TwilioSettings,
    VonageSettings,
    WebhookSettings,
)
from engine.settings.tools import check_tools, variables_of
from engine.settings.vendors import check_vendors, used_vendors

DEFAULT_FILE = "offhook.toml"
PREFIX = "OFFHOOK_"
NOT_OURS = frozenset({"OFFHOOK_REQUIRE_SERVERS", "OFFHOOK_PROMETHEUS_URL", "OFFHOOK_DASHBOARDS"})
"""Variables of the tests and of the Grafana provisioning, which may share an environment with the engine."""


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from ``path``, else from ./offhook.toml if there is one, with the environment over them.

    Raises SettingsError naming the file or variable, the key and what was expected.
    """
    environ = os.environ if environ is None else environ
    raw = _read_file(path)
    if "secrets" in raw:
        raise SettingsError("secrets: keys come from the environment, never from the settings file")
    _overlay_environment(raw, environ)
    settings: Settings = structured(raw, Settings)
    settings = _with_secrets(settings, environ)
    check_all(settings)
    check_tools(settings)
    check_vendors(settings)
    return settings


def with_server(settings: Settings, *, host: str | None = None, port: int | None = None) -> Settings:
    """The settings with what flags say of ``[server]`` over them; None leaves a key as it is. Raises SettingsError."""
    was = settings.server
    server = replace(was, host=was.host if host is None else host, port=was.port if port is None else port)
    check_ranges(server, "server")
    return replace(settings, server=server)


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        path = Path(DEFAULT_FILE)
        if not path.exists():
            return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read ({exc.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not valid TOML: {exc}") from None


# --- environment --------------------------------------------------------------------------------------------

_TABLES: Mapping[str, type] = {
    "server": Server,
    "limits": Limits,
    "log": LogSettings,
    "speech": SpeechSettings,
    "twilio": TwilioSettings,
    "vonage": VonageSettings,
    "telnyx": TelnyxSettings,
    "plivo": PlivoSettings,
    "signalwire": SignalWireSettings,
    "relay": RelaySettings,
    "outbound": OutboundSettings,
    "recording": RecordingSettings,
    "sessions": SessionSettings,
    "store": StoreSettings,
    "webhooks": WebhookSettings,
}


_ACCOUNTS: Mapping[str, tuple[str, ...]] = {
    "twilio": ("account_sid",),
    "vonage": ("application_id",),
    "telnyx": ("account_sid", "application_id"),
    "plivo": ("auth_id",),
    "signalwire": ("project_id",),
}
"""Tables of providers, and what of them is read from a variable such as TWILIO_ACCOUNT_SID as well."""


def _overlay_environment(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name in NOT_OURS:
            continue
        table, _, key = name.removeprefix(PREFIX).lower().partition("_")
        if table not in _TABLES or not key:
            raise SettingsError(f"{name}: expected {PREFIX}TABLE_KEY with one of the tables {', '.join(_TABLES)}")
        types = get_type_hints(_TABLES[table])
        if key not in types:
            raise SettingsError(f"{name}: there is no setting {table}.{key}{hint(key, types)}")
        target = raw.setdefault(table, {})
        if not isinstance(target, dict):
            raise SettingsError(f"{table}: expected a table")
        target[key] = _from_text(name, text, types[key])


def _from_text(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        raise SettingsError(f"{name}: expected {kind_in_words(kind)}, got {text!r}") from None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise SettingsError(f"{name}: expected true or false, got {text!r}")
        return text.lower() == "true"
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _with_secrets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    values: dict[str, Any] = {
        item.name: _secret(item.name.upper(), environ) for item in fields(Secrets) if item.name != "vendor_keys"
    }
    variables = {table.key_variable for table in used_vendors(settings)} - {""}
    variables |= {name for table in settings.tools.values() for name in variables_of(table)}
    values["vendor_keys"] = {name: _secret(name, environ) for name in sorted(variables)}
    accounts = {table: _with_account(getattr(settings, table), table, environ) for table in _ACCOUNTS}
    parts = {item.name: getattr(settings, item.name) for item in fields(Settings)}
    return Settings(**parts | {"secrets": Secrets(**values), **accounts})


def _with_account(table: Any, name: str, environ: Mapping[str, str]) -> Any:
    """The table with what the providers' own tools read from the environment, where it says nothing itself."""
    named = {key: environ.get(f"{name}_{key}".upper(), "") for key in _ACCOUNTS[name]}
    return replace(table, **{key: value for key, value in named.items() if value and not getattr(table, key)})


def _secret(name: str, environ: Mapping[str, str]) -> str:
    if environ.get(name):
        return environ[name]
    path = environ.get(f"{name}_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{name}_FILE: the file it names cannot be read") from None
