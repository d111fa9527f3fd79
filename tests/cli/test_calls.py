"""``offhook dial`` and ``offhook calls`` beside a running engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio

from engine.cli.calls import hangup, ls, say, transfer
from engine.cli.dial import dial
from engine.cli.usage import NotThere
from engine.converse.api import ApiFailed
from tests.fakes.plain_speech import words
from tests.system.dialler import KEY, THEIRS, dialling


@pytest.fixture(autouse=True)
def _with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", KEY)


async def told(command: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and what was printed. Commands have an event loop of their own, and so need a thread."""
    code = await trio.to_thread.run_sync(command)
    lines = capsys.readouterr().out.splitlines(keepends=True)
    return code, "".join(line for line in lines if not line.startswith("20"))  # the engine's log goes there, too


async def test_a_number_is_called_and_the_call_listed_spoken_into_and_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with dialling() as on:
        code, shown = await told(partial(dial, THEIRS, url=on.rig.engine.url, key="k1"), capsys)
        assert (code, "queued (outbound)" in shown, THEIRS in shown) == (0, True, False)
        await told(partial(dial, THEIRS, url=on.rig.engine.url, key="k1"), capsys)
        assert len(on.orders) == 1
        url = on.rig.engine.url
        async with on.answered() as phone:
            await phone.wait_until_heard()
            code, shown = await told(partial(ls, url=url), capsys)
            call_id = shown.splitlines()[1].split()[0]
            assert (code, call_id[:2], "***0143" in shown) == (0, "d_", True)
            assert await told(partial(say, call_id, "one moment", url=url), capsys) == (0, f"{call_id}: said\n")
            code, shown = await told(partial(hangup, call_id, say="goodbye now", url=url), capsys)
            assert (code, shown) == (0, f"{call_id}: ending\n")
            await phone.wait_until_over(within_s=10)
            assert words(phone.heard_audio, phone.format).endswith("goodbye now")
        await on.rig.quiet()
        assert await told(partial(ls, url=url), capsys) == (0, "no live calls\n")


async def test_what_the_engine_refuses_is_said_in_its_words() -> None:
    async with dialling() as on:
        with pytest.raises(ApiFailed, match=r"not in outbound\.allow"):
            await trio.to_thread.run_sync(partial(dial, "+442079460001", url=on.rig.engine.url))
        with pytest.raises(ApiFailed, match="There is no such call now"):
            await trio.to_thread.run_sync(partial(transfer, "CA1", "reception", url=on.rig.engine.url))


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://127.0.0.1", "http://127.0.0.1:port", "http://"])
def test_what_is_no_address_of_an_engine_is_said(url: str) -> None:
    with pytest.raises(NotThere, match="expected the address of an engine"):
        ls(url=url)
