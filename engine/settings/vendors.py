"""Which vendors the settings use, of what kind each is, and where its key is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import SettingsError
from engine.settings.checks import hint
from engine.settings.tables import AgentSettings, Settings

EMBEDDED = "embedded"
SCRIPT = "script"

_OWN: Mapping[str, str] = {"transcriber": EMBEDDED, "synthesizer": EMBEDDED, "model": SCRIPT, "realtime": ""}
"""What there is for each role without any vendor."""

KEY_VARIABLES: Mapping[str, str] = {
    "speechmatics": "SPEECHMATICS_API_KEY",
    "speechmatics_speech": "SPEECHMATICS_API_KEY",
    "deepgram": "DEEPGRAM_API_KEY",
    "deepgram_flux": "DEEPGRAM_API_KEY",
    "deepgram_aura": "DEEPGRAM_API_KEY",
    "scribe": "ELEVENLABS_API_KEY",
    "elevenlabs": "ELEVENLABS_API_KEY",
    "elevenlabs_agents": "ELEVENLABS_API_KEY",
    "elevenlabs_agents_http": "ELEVENLABS_API_KEY",
    "assemblyai": "ASSEMBLYAI_API_KEY",
    "cartesia": "CARTESIA_API_KEY",
    "openai_transcription": "OPENAI_API_KEY",
    "openai_speech": "OPENAI_API_KEY",
    "openai": "OPENAI_API_KEY",
    "openai_responses": "OPENAI_API_KEY",
    "openai_realtime": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "compatible": "",
    "program": "",
}
"""Kind of vendor to the environment variable that its own tools read; empty: it needs no key."""


@dataclass(frozen=True, slots=True)
class VendorTable:
    """One vendor as the settings have it."""

    name: str
    """Of the table; also the kind, if the table names no other."""
    kind: str
    key_variable: str
    options: Mapping[str, Any]
    """What the kind takes."""


def vendor_table(settings: Settings, name: str) -> VendorTable:
    """Raises SettingsError naming a vendor that there is not."""
    raw = dict(settings.vendors.get(name, {}))
    kind = raw.pop("kind", name)
    if kind not in KEY_VARIABLES:
        if name in settings.vendors:
            raise SettingsError(f"vendors.{name}.kind: there is no kind {kind!r}{hint(str(kind), KEY_VARIABLES)}")
        raise SettingsError(
            f"vendor {name!r}: expected a table [vendors.{name}] or one of the kinds {', '.join(KEY_VARIABLES)}"
        )
    variable = raw.pop("key_variable", KEY_VARIABLES[kind])
    if not isinstance(variable, str):
        raise SettingsError(f"vendors.{name}.key_variable: expected the name of an environment variable")
    if "key" in raw:
        raise SettingsError(f"vendors.{name}.key: keys come from the environment ({variable or 'set key_variable'})")
    return VendorTable(name, kind, variable, raw)


def vendors_of(agent: AgentSettings) -> Iterator[str]:
    """Names of all vendors of one agent."""
    named = (*agent.transcriber, *agent.synthesizer, *agent.model, *agent.realtime)
    yield from dict.fromkeys(name for name in named if name not in (EMBEDDED, SCRIPT))


def check_vendors(settings: Settings) -> None:
    """Raises SettingsError naming the agent's key at fault, or the table of a vendor that nobody uses and is of no
    kind: most likely the name of one that somebody does use, misspelt."""
    for name, agent in settings.agents.items():
        for role, own in _OWN.items():
            named: tuple[str, ...] = getattr(agent, role)
            here = f"agents.{name}.{role}"
            if not named and role != "realtime":
                raise SettingsError(f"{here}: expected at least one, such as {own!r}")
            if len(set(named)) < len(named):
                raise SettingsError(f"{here}: expected each once")
            for other in {EMBEDDED, SCRIPT} - {own}:
                if other in named:
                    raise SettingsError(f"{here}: {other!r} cannot be a {role}")
        if agent.realtime and agent.relay:
            raise SettingsError(f"agents.{name}.relay: either this or realtime, not both")
    used_vendors(settings)
    for name in settings.vendors:
        vendor_table(settings, name)


def used_vendors(settings: Settings) -> list[VendorTable]:
    """Each once. Raises SettingsError naming the agent whose vendor there is not."""
    tables: dict[str, VendorTable] = {}
    for name, agent in settings.agents.items():
        for vendor in vendors_of(agent):
            try:
                tables[vendor] = vendor_table(settings, vendor)
            except SettingsError as exc:
                raise SettingsError(f"agents.{name}: {exc}") from None
    return list(tables.values())
