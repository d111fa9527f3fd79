"""The embedded profile, spoken to: the commands of the README, one over each wire, with no key and no network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.system.test_process import CLEAN, OFFHOOK, SECRET, serving

pytestmark = pytest.mark.heavy
pytest.importorskip("onnxruntime", reason="the embedded speech is an extra: pip install 'offhook[local]'")


def test_the_demo_answers_a_spoken_question_and_try_again_and_leaves_nothing() -> None:
    done = subprocess.run(
        [*OFFHOOK, "demo", "--json", "--say", "What are your opening hours?", "--say", "Try again."],
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    proof = json.loads(done.stdout)
    assert proof["problems"] == []
    assert done.returncode == 0
    assert proof["answered"] is True
    assert "opening hours" in proof["turns"][0]["heard"].lower()
    assert "nine in the morning" in proof["turns"][0]["said"]
    assert "try again" in proof["turns"][1]["heard"].lower()
    assert proof["turns"][1]["said"] == proof["turns"][0]["said"]
    assert proof["resources_left"] == 0
    assert proof["released_ms"] < 1000


async def test_offhook_call_speaks_to_a_running_engine_and_writes_what_it_heard(tmp_path: Path) -> None:
    import trio

    async with serving(tmp_path, "", VONAGE_SIGNATURE_SECRET=SECRET) as (_, url):
        out = tmp_path / "heard.wav"
        asks = ("--say", "Where are you located?")
        done = await trio.run_process(
            [*OFFHOOK, "call", url, *asks, "--as", "vonage", "--calls", "2", "--out", str(out), "--json"],
            env=CLEAN | {"VONAGE_SIGNATURE_SECRET": SECRET},
            capture_stdout=True,
            check=False,
        )
    result = json.loads(done.stdout)
    assert result["ok"] is True, result
    assert done.returncode == 0
    for call in result["calls"]:
        assert "mill street" in call["turns"][-1]["heard"].lower()
        assert call["violations"] == {}
    assert (tmp_path / "heard-1.wav").stat().st_size > 16_000
    assert (tmp_path / "heard-2.wav").stat().st_size > 16_000
