"""Whether a server's program starts, as ``offhook doctor`` asks."""

from __future__ import annotations

import sys

import pytest

from adapters.tools.mcp_start import why_not_started


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("read line; echo {}", ""),
        ("exit 0", "ended at its start with exit code 0"),
        ("echo no file >&2; exit 7", "ended at its start with exit code 7: no file"),
        ("echo busy >&2; exec sleep 60", "has not answered within 0.3 s; it says: busy"),
        ("exec >&-; exec sleep 60", "ended at its start with exit code -9"),
    ],
)
async def test_a_program_that_does_not_answer_is_told_of_and_ended(does: str, why: str) -> None:
    assert await why_not_started(("/bin/sh", "-c", does), {}, within_s=0.3 if "busy" in does else 10.0) == why


async def test_a_program_that_cannot_be_run_is_told_of_and_one_that_can_gets_its_variables() -> None:
    assert await why_not_started(("/nowhere/at/all",), {}) == "cannot be run (No such file or directory)"
    shows = "import os, sys; sys.exit(os.environ['SHOP'] + ' ' + str('OFFHOOK' in os.environ))"
    assert (await why_not_started((sys.executable, "-c", shows), {"SHOP": "pens"})).endswith("code 1: pens False")
