"""From the provider to whoever hears: it waits for nothing, so that a hang-up is seen at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from engine.calls.talks.pace import Pace
from engine.calls.talks.pulse import Pulse
from engine.errors import BadMessage, CallEnd, Cause, ProtocolError, SlowPeer
from engine.events import FRAME_S, ProviderEvent
from engine.ports import ProviderLink

LATE_S = 2 * FRAME_S
"""With so much time between two frames of the caller, the pace apart, one is late by a whole frame."""


async def pump(
    link: ProviderLink,
    pulse: Pulse,
    early: Iterable[ProviderEvent],
    *,
    send: Callable[[bytes], None],
    signal: Callable[[ProviderEvent], None],
    on_gap: Callable[[float], None],
) -> None:
    """Until the media socket ends, and the conversation with it. Audio goes to ``send``, all else but the end to
    ``signal``."""
    frame_s, pace, late_s = 1.0 / link.format.bytes_per_s, Pace(link.format), LATE_S

    def take(event: ProviderEvent) -> None:
        nonlocal late_s
        if type(event) is not bytes:
            signal(event)
            return
        now = trio.current_time()
        if now - pulse.last_media_s >= late_s:
            on_gap(now - pulse.last_media_s - FRAME_S - pace.every_s)
        pulse.last_media_s = now
        pulse.audio_in_s += len(event) * frame_s
        send(event)
        if pace.heard(event):
            link.pace(pace.every_s)
            late_s = LATE_S + pace.every_s

    for event in early:
        if isinstance(event, bytes):
            send(event)
        else:
            signal(event)
    try:
        await link.deliver(take)
        pulse.end(CallEnd(Cause.CALLER_HANGUP))
    except trio.EndOfChannel:
        pulse.end(CallEnd(Cause.PROVIDER_LOST, "the media socket went away"))
    except SlowPeer:
        pulse.end(CallEnd(Cause.SLOW_PEER, "the provider stopped reading"))
    except (ProtocolError, BadMessage) as exc:
        pulse.end(CallEnd(Cause.PROTOCOL_ERROR, str(exc)))
