"""Keys of every provider, the engine's half of them and the phone's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

import httpx

from adapters.providers.plivo.signature import sign as sign_plivo
from engine.phone import telnyx, twilio, vonage
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


async def post(
    rig: Rig, provider: str, url: str, fields: Mapping[str, str], client: httpx.AsyncClient
) -> httpx.Response:
    """News of the provider, signed as it signs."""
    form = dict(fields)
    match provider:
        case "vonage":
            body = json.dumps(form).encode()
            headers = {"content-type": "application/json"} | vonage.signed(callee_of(rig, provider), body)
            return await client.post(url, content=body, headers=headers)
        case "telnyx":
            body = urlencode(form).encode()
            headers = {"content-type": "application/x-www-form-urlencoded"}
            headers |= telnyx.signed(callee_of(rig, provider), body)
            return await client.post(url, content=body, headers=headers)
        case "plivo":
            lists = {name: [value] for name, value in form.items()}
            signature = sign_plivo("POST", url, lists, "n1", SECRET)
            headers = {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": "n1"}
        case _:
            dialect = twilio.TWILIO if provider == "twilio" else twilio.SIGNALWIRE
            headers = {dialect.header: twilio.sign(SECRET, url, form)}
    return await client.post(url, data=form, headers=headers)
