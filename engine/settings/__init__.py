"""offhook.toml and the environment, as frozen, typed values."""

from engine.settings.loading import load_settings, with_server
from engine.settings.tables import (
    AgentSettings,
    Limits,
    LogSettings,
    OutboundSettings,
    RecordingSettings,
    Secrets,
    Server,
    SessionSettings,
    Settings,
    SpeechSettings,
    StoreSettings,
    TwilioSettings,
    VonageSettings,
    WebhookSettings,
)

__all__ = [
    "AgentSettings",
    "Limits",
    "LogSettings",
    "OutboundSettings",
    "RecordingSettings",
    "Secrets",
    "Server",
    "SessionSettings",
    "Settings",
    "SpeechSettings",
    "StoreSettings",
    "TwilioSettings",
    "VonageSettings",
    "WebhookSettings",
    "load_settings",
    "with_server",
]
