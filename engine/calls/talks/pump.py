"""From the provider to whoever hears: it waits for nothing, so that a hang-up is seen at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from engine.calls.talks.pace import Pace
from engine.calls.talks.pulse import Pulse
from engine.errors import BadMessage, CallEnd, Cause, ProtocolError, SlowPeer
from engine.events import FRAME_S, ProviderEvent
from engine.ports import ProviderLink


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
    ``signal``. ``on_gap`` is told the seconds by which audio came late, if that is a frame or more."""
    bytes_per_s, pace = link.format.bytes_per_s, Pace(link.format)

    def take(event: ProviderEvent) -> None:
        if type(event) is not bytes:
            signal(event)
            return
        now, seconds = trio.current_time(), len(event) / bytes_per_s
        # Where frames are looked for now and then, one of them may be found by the next look only.
        late_s = now - pulse.last_media_s - seconds - (FRAME_S if pace.every_s else 0.0)
        if late_s >= FRAME_S:
            on_gap(late_s)
        pulse.last_media_s = now
        pulse.audio_in_s += seconds
        send(event)
        if pace.heard(event):
            link.pace(pace.every_s)

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
