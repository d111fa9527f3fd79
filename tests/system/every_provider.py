"""Keys of every provider, the engine's half of them and the phone's."""

from __future__ import annotations

from dataclasses import replace

from engine.phone.side import Callee
from engine.phone.telnyx import new_keys
from engine.phone.texts import Inbox
from engine.settings import Settings
from tests.system.rig import SECRET, Rig

SIGNING_KEY, PUBLIC_KEY = new_keys()
"""Telnyx'."""


def with_all_providers(settings: Settings, inbox: Inbox | None = None) -> Settings:
    """The settings with the keys of all providers, and their REST APIs behind the inbox."""
    url = {"api_url": inbox.url} if inbox else {}
    return replace(
        settings,
        telnyx=replace(settings.telnyx, **url),
        plivo=replace(settings.plivo, auth_id="MA00", **url),
        signalwire=replace(settings.signalwire, project_id="6f7e", **url),
        secrets=replace(
            settings.secrets,
            telnyx_public_key=PUBLIC_KEY,
            telnyx_api_key="KEY",
            plivo_auth_token=SECRET,
            signalwire_signing_key=SECRET,
            signalwire_api_token="PT",
        ),
    )


def callee_of(rig: Rig, provider: str, secret: str | None = None) -> Callee:
    """Signed as the provider signs, or with ``secret``."""
    key = SIGNING_KEY if provider == "telnyx" else SECRET
    return Callee(rig.engine.url, secret=key if secret is None else secret)
