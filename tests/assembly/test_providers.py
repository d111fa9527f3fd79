"""Settings to providers: whose routes open, and what the others answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.assembly.providers import configured_providers, line_formats, providers_of
from engine.calls.outbound.dialing import Dialing
from engine.calls.outbound.dials import DialRefused, Wanted
from engine.calls.registry import Registry
from engine.errors import BadSignature, SettingsError
from engine.events import MULAW_8K, PCM16_8K
from engine.observe.labels import PROVIDERS, ROUTES
from engine.observe.metrics import Metrics
from engine.ports import Ability, WebhookRequest
from engine.runtime.network import Network
from engine.settings import Secrets, Settings, load_settings
from engine.settings.providers import DIALLING_KEYS, PROVIDER_KEYS
from tests.system.every_provider import PUBLIC_KEY

SECRET: dict[str, Any] = {
    name: PUBLIC_KEY if name == "telnyx" else "a-secret-of-more-than-thirty-two-bytes" for name in PROVIDER_KEYS
}


@pytest.mark.parametrize("name", PROVIDER_KEYS)
def test_the_key_of_a_provider_opens_its_routes_and_no_others(name: str) -> None:
    named: dict[str, Any] = {PROVIDER_KEYS[name].lower(): SECRET[name]}
    settings = Settings(secrets=Secrets(**named))
    are_open, closed = providers_of(settings, insecure=False)
    assert [provider.name for provider in are_open] == [name]
    assert {key for key, value in configured_providers(settings).items() if value} == {name}
    for other, variable in PROVIDER_KEYS.items():
        assert any(variable in why for why in closed.values()) is (other != name)
    assert not closed.keys() & {*are_open[0].webhooks, are_open[0].media_path}


def test_metrics_know_every_provider_and_every_route() -> None:
    are_open, closed = providers_of(Settings(), insecure=True)
    assert not closed
    assert [provider.name for provider in are_open] == list(PROVIDERS) == list(PROVIDER_KEYS)
    for provider in are_open:
        relayed = [provider.relay.media_path] if provider.relay else []
        assert {*provider.webhooks, provider.media_path, *relayed} <= {*ROUTES}


def test_a_closed_relay_says_what_is_missing_too() -> None:
    assert "TWILIO_AUTH_TOKEN" in providers_of(Settings(), insecure=False)[1]["/media/twilio-relay"]


def test_each_format_of_a_line_is_named_once() -> None:
    settings = replace(Settings(), vonage=replace(Settings().vonage, rate_hz=8000))
    assert line_formats(providers_of(settings, insecure=True)[0], settings) == [MULAW_8K, PCM16_8K]


def test_twilios_shared_keys_are_read_from_one_variable() -> None:
    settings = Settings(secrets=Secrets(twilio_shared_keys="k1:s1, k2:s:2"))
    (provider,) = providers_of(settings, insecure=False)[0]
    headers = {"x-twilio-signature": "x", "x-twilio-webhooks-signature-settings": "key=k2,algorithm=HMAC_SHA256"}
    with pytest.raises(BadSignature, match="mismatch"):
        provider.verify(WebhookRequest("POST", "https://h/voice", headers))
    for text in ("k1", ":s", "k1:", "k1:s1,x"):
        with pytest.raises(SettingsError, match="TWILIO_SHARED_KEYS"):
            providers_of(Settings(secrets=Secrets(twilio_shared_keys=text)), insecure=False)


def test_a_public_key_of_no_use_is_told_at_the_start() -> None:
    with pytest.raises(SettingsError, match="TELNYX_PUBLIC_KEY"):
        providers_of(Settings(secrets=Secrets(telnyx_public_key="nonsense")), insecure=False)


@pytest.mark.parametrize("name", DIALLING_KEYS)
async def test_whoever_cannot_be_called_is_told_which_variables_are_missing(name: str, tmp_path: Path) -> None:
    """Each of them is needed, and with all of them it can be done."""
    known = {"TELNYX_PUBLIC_KEY": PUBLIC_KEY, "OFFHOOK_SIGNALWIRE_API_URL": "https://desk.signalwire.com"}
    if name == "vonage":
        key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        known["VONAGE_PRIVATE_KEY"] = key.decode()
    variables = [PROVIDER_KEYS[name], *DIALLING_KEYS[name]]
    given = {variable: known.get(variable, str(SECRET[name])) for variable in variables}
    config = tmp_path / "offhook.toml"
    config.write_text(f'[outbound]\nenabled = true\nallow = ["+1202"]\nnumbers = {{ "+12025550100" = "{name}" }}\n')
    (provider,) = providers_of(load_settings(config, given), insecure=False)[0]
    assert Ability.DIAL in provider.control.abilities
    for missing in given:
        settings = load_settings(config, {key: value for key, value in given.items() if key != missing})
        are_open = {provider.name: provider for provider in providers_of(settings, insecure=False)[0]}
        metrics = Metrics()
        registry = Registry(capacity=1, metrics=metrics, token_s=1.0)
        dialing = Dialing(registry, are_open, settings, metrics, Network().client, base_url=str)
        with pytest.raises(DialRefused, match=rf"{name} cannot make calls: set {missing} in the environment"):
            await dialing.dial(Wanted("+12025550199"))
