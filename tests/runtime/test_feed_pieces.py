"""Audio goes to a vendor in pieces: at least so long, and with all that has come by then."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine.runtime.feed import Feeding
from engine.runtime.network import Network
from tests.fakes.clouds.loopback import Cloud, Peer, Request, dialled, serving

FRAME = b"\xff" * 160
Clock = trio.testing.MockClock


class Listener(Cloud):
    def __init__(self) -> None:
        super().__init__()
        self.frames: list[int] = []
        """Of each message."""

    async def websocket(self, request: Request, socket: Peer) -> None:
        while True:
            self.frames.append(len(await socket.get_message()) // len(FRAME))


@pytest.mark.parametrize(
    ("at_once", "frames"),
    [([1, 1, 1, 1], [2, 2]), ([3, 3], [3, 3]), ([1, 3], [4]), ([5], [5]), ([4, 1, 1], [4, 2])],
    ids=str,
)
async def test_what_came_at_once_is_one_message(at_once: list[int], frames: list[int], autojump_clock: Clock) -> None:
    """Of at least a piece, which is two frames here."""
    cloud = Listener()
    async with trio.open_nursery() as nursery:
        feeding = Feeding(bytes_per_s=8000.0, piece_s=0.04)
        async with dialled(cloud, nursery).feed("ws://cloud/listen", {}, feeding) as feed:
            for count in at_once:
                feed.put_audio(FRAME * count)
                await trio.sleep(0.02)
            assert cloud.frames == frames
            feed.put("over")
            await feed.drain()
            assert feed.waiting_s == 0


async def test_a_piece_is_on_its_way_before_anything_else_happens() -> None:
    """On TCP, while nothing else is written; a task that woke up for each piece would cost more than the piece."""
    cloud = Listener()
    async with serving(cloud) as served:
        feeding = Feeding(bytes_per_s=8000.0, piece_s=0.04)
        async with Network().feed(f"{served.ws}/listen", {}, feeding) as feed:
            await feed.drain()
            for _ in range(3):
                feed.put_audio(FRAME * 2)
                assert feed.waiting_s == 0
            while sum(cloud.frames) < 6:  # noqa: ASYNC110 - seen from outside
                await trio.sleep(0.001)
            assert cloud.frames == [2, 2, 2]
