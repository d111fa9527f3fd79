"""Where recordings go, by the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from engine.ports.recordings import RecordingStore
from engine.settings import Settings


def has_recordings(settings: Settings) -> bool:
    """Calls are recorded, or may have been: what is kept of a caller is erased with them, whatever is set now."""
    recording = settings.recording
    return recording.enabled or bool(recording.bucket) or Path(recording.directory).is_dir()


def recording_store(settings: Settings, new_http_client: Callable[[], httpx.AsyncClient]) -> RecordingStore:
    recording, secrets = settings.recording, settings.secrets
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
