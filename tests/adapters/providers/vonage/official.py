"""What the tests use of Vonage's packages. They take a second to import: a test imports this when it needs it."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the official package's own, on import
    from vonage import Auth, HttpClientOptions, Vonage  # type: ignore[import-untyped] # ships no types
    from vonage_http_client.errors import RateLimitedError  # type: ignore[import-untyped] # ships no types
    from vonage_jwt import verify_signature  # type: ignore[import-untyped] # ships no types
    from vonage_messages.models import Sms  # type: ignore[import-untyped] # ships no types
    from vonage_voice import CreateCallRequest, Phone, ToPhone  # type: ignore[import-untyped] # ships no types
    from vonage_voice.models.common import AdvancedMachineDetection  # type: ignore[import-untyped] # ships no types
    from vonage_voice.models.connect_endpoints import (  # type: ignore[import-untyped] # ships no types
        OnAnswer,
        PhoneEndpoint,
        SipEndpoint,
    )
    from vonage_voice.models.ncco import Connect, Talk  # type: ignore[import-untyped] # ships no types

__all__ = [
    "AdvancedMachineDetection",
    "Auth",
    "Connect",
    "CreateCallRequest",
    "HttpClientOptions",
    "OnAnswer",
    "Phone",
    "PhoneEndpoint",
    "RateLimitedError",
    "SipEndpoint",
    "Sms",
    "Talk",
    "ToPhone",
    "Vonage",
    "verify_signature",
]
