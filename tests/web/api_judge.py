"""The HTTP API by its own document: openapi-spec-validator reads it, schemathesis drives what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import openapi_spec_validator
import trio

ROOT = Path(__file__).parent.parent.parent
LINES = ("00", "01", "02", "03", "04")
SPELLINGS = ("+155501000{}", "+1 (555) 010-00{}", "00155501000{}", "(555) 010-00{}", "+44 20 7946 00{}")
"""How the judge writes phone numbers, for a default region of US."""
NUMBERS = tuple(f"{start}{line}" for start in ("+155501000", "+4420794600") for line in LINES)
"""The same in E.164: callers to be known beforehand, so that their routes have something to show."""
MAX_EXAMPLES = 3
"""Of each operation, at most."""
SEED = 1
WITHIN_S = 150.0
"""For everything, on a machine that is busy with other things, too."""


async def check_api(url: str, key: str, *, max_examples: int = MAX_EXAMPLES) -> str:
    """Judge the API of a running engine at this address on loopback. ``key`` needs all scopes, and a limit of requests
    that leaves room for a few thousand. Returns schemathesis' report. Raises AssertionError with what is wrong."""
    async with httpx.AsyncClient(trust_env=False) as client:
        document = (await client.get(f"{url}/openapi.json")).raise_for_status().json()
    await trio.to_thread.run_sync(openapi_spec_validator.validate, document)
    with tempfile.TemporaryDirectory() as folder:
        command = _command(url, key, max_examples, Path(folder))
        with trio.fail_after(WITHIN_S):
            done = await trio.run_process(
                command, cwd=folder, env=_environment(), capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
    report = done.stdout.decode(errors="replace").replace(key, "KEY")
    assert done.returncode == 0, report
    assert "Rate limited" not in report, f"the limits of requests left most of it untested\n{report}"
    return report


def _command(url: str, key: str, max_examples: int, folder: Path) -> list[str]:
    """The key lies in a file, not on the command line."""
    config = folder / "schemathesis.toml"
    config.write_text(f'headers = {{ Authorization = "Bearer {key}" }}\n')
    options = ["--max-examples", str(max_examples), "--seed", str(SEED), "--no-color", "--checks", "all"]
    options += ["--generation-database", "none", "--suppress-health-check", "all", "--workers", "1"]
    options += ["--phases", "coverage,fuzzing,stateful"]  # coverage takes the examples of the document, too
    executable = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    return [*executable, "run", f"{url}/openapi.json", *options]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.web.api_hooks", "NO_PROXY": "*"}
