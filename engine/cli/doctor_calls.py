"""What `offhook doctor` looks at beside answering: whether calls can be recorded, and whether they can be made."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import trio

from engine.assembly.providers import providers_of
from engine.assembly.recordings import check_directory, recording_store
from engine.cli.findings import Finding, Verdict
from engine.errors import SettingsError
from engine.ports import Ability
from engine.ports.recordings import RecordingFailed
from engine.settings import RecordingSettings, Settings
from engine.settings.providers import lacking_to_dial

STORE_S = 5.0
"""For a bucket to answer."""
NOBODYS_FOLDER = "offhook-doctor"
"""Of which a bucket is asked what is in it: nothing."""


async def recording_findings(settings: Settings) -> list[Finding]:
    """Where recordings go, and whose calls are not recorded whatever the settings say."""
    recording = settings.recording
    if not recording.enabled:
        return []
    found = [await _bucket(settings) if recording.bucket else _directory(recording)]
    recorded = {name: settings.agents[name] for name in recording.agents or settings.agents}
    relayed = [name for name, agent in recorded.items() if agent.relay]
    if relayed:
        detail = f"calls of {', '.join(relayed)} are not recorded: over relay nobody hears them here"
        found.append(Finding("recording", Verdict.WARNING, detail))
    return found


def _directory(recording: RecordingSettings) -> Finding:
    try:
        check_directory(recording)
    except SettingsError as exc:
        return Finding("recording", Verdict.FAILED, str(exc))
    return Finding("recording", Verdict.OK, f"in the directory {recording.directory}")


async def _bucket(settings: Settings) -> Finding:
    name = settings.recording.bucket
    store = recording_store(settings, lambda: httpx.AsyncClient(trust_env=False, timeout=STORE_S))
    try:
        with trio.fail_after(STORE_S):
            await store.erase(NOBODYS_FOLDER)
    except (RecordingFailed, trio.TooSlowError) as exc:
        why = str(exc) or "no answer in time"
        detail = f"recording.bucket {name!r} cannot be listed, so nobody can be erased from it: {why}"
        return Finding("recording", Verdict.FAILED, detail)
    return Finding(
        "recording", Verdict.OK, f"in the bucket {name!r}, which answers; whether it can be written is seen then"
    )


def outbound_findings(settings: Settings) -> Iterator[Finding]:
    """Whether calls can be made from each of our numbers."""
    outbound = settings.outbound
    if not outbound.enabled:
        return
    if not outbound.allow:
        yield Finding("outbound", Verdict.WARNING, "outbound.allow is empty: no number may be called")
    try:
        providers = {provider.name: provider for provider in providers_of(settings, insecure=False)[0]}
    except SettingsError as exc:
        yield Finding("outbound", Verdict.FAILED, str(exc))
        return
    for number, name in outbound.numbers.items():
        check = f"outbound {number}"
        if name not in providers:
            lacking = lacking_to_dial(settings, name)
            yield Finding(check, Verdict.FAILED, f"{name} is not configured; set {' and '.join(lacking)}")
        elif Ability.DIAL not in providers[name].control.abilities:
            lacking = lacking_to_dial(settings, name)
            yield Finding(check, Verdict.FAILED, f"{name} cannot make calls; set {' and '.join(lacking)}")
        else:
            yield Finding(check, Verdict.OK, f"calls over {name}")
