"""Where recordings go, by the settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import structlog

from engine.calls.recording import Recordings
from engine.errors import SettingsError
from engine.observe.metrics import Metrics
from engine.ports.recordings import RecordingStore
from engine.settings import RecordingSettings, Settings
from engine.storage.identity import e164

log = structlog.get_logger()


def has_recordings(settings: Settings) -> bool:
    """Calls are recorded, or may have been: what is kept of a caller is erased with them, whatever is set now."""
    recording = settings.recording
    return recording.enabled or bool(recording.bucket) or Path(recording.directory).is_dir()


def recordings_of(
    settings: Settings,
    new_http_client: Callable[[], httpx.AsyncClient],
    metrics: Metrics,
    fingerprint: Callable[[str], str],
) -> Recordings | None:
    """What records calls and erases recordings; None where there is nothing to do. ``fingerprint``: a number in E.164
    to its folder's name. Raises SettingsError."""
    if settings.recording.enabled and not settings.recording.bucket:
        check_directory(settings.recording)
    if not has_recordings(settings):
        return None
    return Recordings(
        settings.recording,
        recording_store(settings, new_http_client),
        metrics,
        fingerprint=fingerprint,
        number=lambda number: e164(number, settings.sessions.default_region),
    )


def check_directory(recording: RecordingSettings) -> None:
    """It is made with the first recording: what is asked is whether it could be. Raises SettingsError."""
    there = Path(recording.directory).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(f"recording.directory: {recording.directory} cannot be written: see {there}")


def recording_store(settings: Settings, new_http_client: Callable[[], httpx.AsyncClient]) -> RecordingStore:
    recording, secrets = settings.recording, settings.secrets
    if recording.enabled and settings.store.kind == "memory":
        # The key of the folders' names goes with the process.
        log.warning("recordings_not_erasable_after_this_run", setting="store.kind", is_now="memory")
    # Each is imported by its users alone.
    if not recording.bucket:
        from adapters.recordings.directory import DirectoryRecordings  # noqa: PLC0415

        return DirectoryRecordings(Path(recording.directory))
    from adapters.recordings.s3 import S3Config, S3Recordings  # noqa: PLC0415

    config = S3Config(
        recording.bucket,
        secrets.aws_access_key_id,
        secrets.aws_secret_access_key,
        recording.region,
        recording.endpoint,
        secrets.aws_session_token,
        recording.prefix,
    )
    return S3Recordings(config, new_http_client)


async def erase_recordings(settings: Settings, folder: str) -> int:
    """Everything that these settings lead to in the folder, if anything may be there; how many there were. For tools
    beside the engine: what it is writing just now, it goes on with. Raises RecordingFailed."""
    if not has_recordings(settings):
        return 0
    return await recording_store(settings, lambda: httpx.AsyncClient(trust_env=False)).erase(folder)
