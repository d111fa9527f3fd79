"""What ``offhook demo`` shows of a call."""

from __future__ import annotations

from io import StringIO

import trio
from rich.console import Console

from engine.cli.demo import _Show
from engine.observe.timeline import Timeline, What


async def test_words_are_no_markup_and_what_was_closed_is_told_after_the_call(autojump_clock: object) -> None:
    out = StringIO()
    show = _Show(Console(file=out, width=200))
    show.begin()
    call = Timeline("c1", [show])
    call.note(What.HEARD, text="[bold]Hello")
    call.note(What.RESOURCE_CLOSED, kind="tts_client", vendor="hibari", how="clean", close_ms=0.1)
    await trio.sleep(1.0)
    call.note(What.SAID, text="[/]", interrupted=True)
    assert "closed" not in out.getvalue()
    show.closed()
    assert out.getvalue().splitlines() == [
        "  0.0 s  caller  [bold]Hello",
        "  1.0 s  agent   [/]  (interrupted)",
        "  closed tts_client (hibari): clean, 0.1 ms",
    ]
