"""Where recordings go, by the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import structlog

from engine.ports.recordings import RecordingStore
from engine.settings import Settings

log = structlog.get_logger()


def has_recordings(settings: Settings) -> bool:
    """Calls are recorded, or may have been: what is kept of a caller is erased with them, whatever is set now."""
    recording = settings.recording
    return recording.enabled or bool(recording.bucket) or Path(recording.directory).is_dir()


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
