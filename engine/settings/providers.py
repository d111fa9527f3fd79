"""What the providers' keys are called in the environment, and which of them are missing."""

from __future__ import annotations

from collections.abc import Mapping

from engine.settings.tables import Settings

PROVIDER_KEYS: Mapping[str, str] = {
    "twilio": "TWILIO_AUTH_TOKEN",
    "vonage": "VONAGE_SIGNATURE_SECRET",
    "telnyx": "TELNYX_PUBLIC_KEY",
    "plivo": "PLIVO_AUTH_TOKEN",
    "signalwire": "SIGNALWIRE_SIGNING_KEY",
}
"""Provider to the variable that opens its routes: it checks its webhooks."""
REST_KEYS: Mapping[str, tuple[str, ...]] = {
    "twilio": ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
    "vonage": ("VONAGE_APPLICATION_ID", "VONAGE_PRIVATE_KEY"),
    "telnyx": ("TELNYX_API_KEY",),
    "plivo": ("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN"),
    "signalwire": ("SIGNALWIRE_PROJECT_ID", "SIGNALWIRE_API_TOKEN", "OFFHOOK_SIGNALWIRE_API_URL"),
}
"""The same for what its REST API does with a live call."""
DIALLING_KEYS: Mapping[str, tuple[str, ...]] = {
    **REST_KEYS,
    "telnyx": (*REST_KEYS["telnyx"], "TELNYX_ACCOUNT_SID", "TELNYX_APPLICATION_ID"),
}
"""The same for calls of our own, which its REST API makes."""


def lacking_to_dial(settings: Settings, provider: str) -> list[str]:
    """Variables that are to be set before calls can be made over this provider: its routes are closed without the
    first, its REST API without the others."""
    opens = PROVIDER_KEYS[provider]
    is_closed = not _value(settings, provider, opens)
    if provider == "twilio" and settings.secrets.twilio_shared_keys:
        is_closed = False
    wanted = [*([opens] if is_closed else []), *DIALLING_KEYS[provider]]
    return [name for name in dict.fromkeys(wanted) if not _value(settings, provider, name)]


def lacking_to_transfer(settings: Settings, provider: str) -> list[str]:
    """Variables that are to be set before callers over this provider can be connected to somebody else."""
    lacking = [name for name in REST_KEYS[provider] if not _value(settings, provider, name)]
    if provider == "plivo" and not settings.server.public_url:
        lacking.append("OFFHOOK_SERVER_PUBLIC_URL")  # where it asks for the document that does it
    return lacking


def _value(settings: Settings, provider: str, variable: str) -> str:
    """Of a secret, or of what the provider's table has besides."""
    name, table = variable.lower().removeprefix("offhook_"), getattr(settings, provider)
    return str(getattr(settings.secrets, name, "") or getattr(table, name.removeprefix(f"{provider}_"), ""))
