"""The composition root: settings to adapters to a running engine. The only importer of adapters."""

from engine.assembly.agents import check_agents, load_speech, needs_speech
from engine.assembly.engine import Engine
from engine.assembly.memory import migrate_store, open_vault
from engine.assembly.providers import configured_providers
from engine.assembly.recordings import erase_recordings
from engine.assembly.tools import check_tools, used_tools, why_not_started
from engine.assembly.vendors import vendor_url
from engine.settings.providers import PROVIDER_KEYS

__all__ = [
    "PROVIDER_KEYS",
    "Engine",
    "check_agents",
    "check_tools",
    "configured_providers",
    "erase_recordings",
    "load_speech",
    "migrate_store",
    "needs_speech",
    "open_vault",
    "used_tools",
    "vendor_url",
    "why_not_started",
]
