"""The telephony providers whose keys are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.providers.twilio import TwilioConfig, TwilioProvider
from adapters.providers.vonage import VonageConfig, VonageProvider
from engine.events import MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat
from engine.ports import Provider
from engine.settings import Settings


def providers_of(settings: Settings, *, insecure: bool) -> tuple[list[Provider], dict[str, str]]:
    """The providers whose keys are set; and for every path of the others the sentence that says what is missing."""
    secrets, public_url = settings.secrets, settings.server.public_url.rstrip("/")
    candidates: list[tuple[Provider, str, str]] = [
        (
            TwilioProvider(
                TwilioConfig(
                    auth_token=secrets.twilio_auth_token,
                    account_sid=settings.twilio.account_sid,
                    api_base=settings.twilio.api_url,
                ),
                insecure=insecure,
            ),
            secrets.twilio_auth_token,
            "TWILIO_AUTH_TOKEN",
        ),
        (
            VonageProvider(
                VonageConfig(
                    signature_secret=secrets.vonage_signature_secret,
                    application_id=settings.vonage.application_id,
                    private_key=secrets.vonage_private_key,
                    api_base=settings.vonage.api_url,
                    rate_hz=settings.vonage.rate_hz,
                    event_url=f"{public_url}/vonage/event" if public_url else "",
                ),
                insecure=insecure,
            ),
            secrets.vonage_signature_secret,
            "VONAGE_SIGNATURE_SECRET",
        ),
    ]
    are_open: list[Provider] = []
    closed: dict[str, str] = {}
    for provider, key, variable in candidates:
        if key or insecure:
            are_open.append(provider)
        else:
            why = f"{provider.name} is not configured: set {variable} in the environment and start again."
            closed |= dict.fromkeys((*provider.webhooks, provider.media_path), why)
    return are_open, closed


def configured_providers(settings: Settings) -> Mapping[str, bool]:
    """Provider to whether its routes would open."""
    return {
        "twilio": bool(settings.secrets.twilio_auth_token),
        "vonage": bool(settings.secrets.vonage_signature_secret),
    }


def line_formats(providers: Sequence[Provider], settings: Settings) -> list[AudioFormat]:
    """What the lines of these providers carry."""
    formats = {
        "twilio": MULAW_8K,
        "vonage": {8000: PCM16_8K, 16000: PCM16_16K, 24000: PCM16_24K}[settings.vonage.rate_hz],
    }
    return [formats[provider.name] for provider in providers]
