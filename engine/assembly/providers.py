"""The telephony providers whose keys are set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapters.providers.plivo.provider import PlivoConfig, PlivoProvider
from adapters.providers.signalwire.provider import SignalWireConfig, SignalWireProvider
from adapters.providers.telnyx.provider import TelnyxConfig, TelnyxProvider
from adapters.providers.twilio.provider import TwilioConfig, TwilioProvider
from adapters.providers.twilio.relay import RelayConfig
from adapters.providers.vonage.provider import VonageConfig, VonageProvider
from engine.errors import SettingsError
from engine.events import MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat
from engine.ports import Provider
from engine.settings import Settings
from engine.settings.providers import PROVIDER_KEYS


def providers_of(settings: Settings, *, insecure: bool) -> tuple[list[Provider], dict[str, str]]:
    """The providers whose keys are set; and for every path of the others the sentence that says what is missing.

    Raises SettingsError for a key of no use.
    """
    is_configured = configured_providers(settings)
    are_open: list[Provider] = []
    closed: dict[str, str] = {}
    for provider in _candidates(settings, insecure=insecure):
        if is_configured[provider.name] or insecure:
            are_open.append(provider)
        else:
            variable = PROVIDER_KEYS[provider.name]
            why = f"{provider.name} is not configured: set {variable} in the environment and start again."
            paths = [*provider.webhooks, provider.media_path]
            if provider.relay is not None:
                paths.append(provider.relay.media_path)
            closed |= dict.fromkeys(paths, why)
    return are_open, closed


def configured_providers(settings: Settings) -> Mapping[str, bool]:
    """Provider to whether its routes would open."""
    secrets = settings.secrets
    return {
        "twilio": bool(secrets.twilio_auth_token or secrets.twilio_shared_keys),
        "vonage": bool(secrets.vonage_signature_secret),
        "telnyx": bool(secrets.telnyx_public_key),
        "plivo": bool(secrets.plivo_auth_token),
        "signalwire": bool(secrets.signalwire_signing_key),
    }


def line_formats(providers: Sequence[Provider], settings: Settings) -> list[AudioFormat]:
    """What the lines of these providers carry, each once."""
    of_vonage = {8000: PCM16_8K, 16000: PCM16_16K, 24000: PCM16_24K}[settings.vonage.rate_hz]
    return list(dict.fromkeys(of_vonage if provider.name == "vonage" else MULAW_8K for provider in providers))


def _candidates(settings: Settings, *, insecure: bool) -> Iterator[Provider]:
    secrets, public_url = settings.secrets, settings.server.public_url.rstrip("/")
    relay = settings.relay
    yield TwilioProvider(
        TwilioConfig(
            auth_token=secrets.twilio_auth_token,
            account_sid=settings.twilio.account_sid,
            api_base=settings.twilio.api_url,
            shared_keys=_shared_keys(secrets.twilio_shared_keys),
            relay=RelayConfig(
                language=relay.language,
                voice=relay.voice,
                tts_provider=relay.tts_provider,
                transcription_provider=relay.transcription_provider,
                speech_model=relay.speech_model,
                interruptible=relay.interruptible,
                interrupt_sensitivity=relay.interrupt_sensitivity,
                hints=relay.hints,
                options=relay.options,
            ),
        ),
        insecure=insecure,
    )
    yield VonageProvider(
        VonageConfig(
            signature_secret=secrets.vonage_signature_secret,
            application_id=settings.vonage.application_id,
            private_key=secrets.vonage_private_key,
            api_base=settings.vonage.api_url,
            rate_hz=settings.vonage.rate_hz,
        ),
        insecure=insecure,
    )
    yield TelnyxProvider(
        TelnyxConfig(
            public_key=secrets.telnyx_public_key,
            api_key=secrets.telnyx_api_key,
            account_sid=settings.telnyx.account_sid,
            application_id=settings.telnyx.application_id,
            api_base=settings.telnyx.api_url,
        ),
        insecure=insecure,
    )
    yield PlivoProvider(
        PlivoConfig(
            auth_token=secrets.plivo_auth_token,
            auth_id=settings.plivo.auth_id,
            api_base=settings.plivo.api_url,
            transfer_url=f"{public_url}/plivo/status" if public_url else "",
        ),
        insecure=insecure,
    )
    yield SignalWireProvider(
        SignalWireConfig(
            signing_key=secrets.signalwire_signing_key,
            api_token=secrets.signalwire_api_token,
            project_id=settings.signalwire.project_id,
            api_base=settings.signalwire.api_url,
        ),
        insecure=insecure,
    )


def _shared_keys(text: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    for part in text.replace(",", " ").split():
        key_id, _, secret = part.partition(":")
        if not key_id or not secret:
            raise SettingsError("TWILIO_SHARED_KEYS: expected id:secret, separated by commas or spaces")
        keys[key_id] = secret
    return keys
