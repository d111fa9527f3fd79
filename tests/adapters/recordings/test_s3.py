"""Recordings in a bucket: in parts, signed, and nothing left of one that failed."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from adapters.recordings.s3 import PART_BYTES, S3Config, S3Recordings
from adapters.recordings.sigv4 import Credentials
from engine.ports.recordings import RecordingFailed
from engine.runtime.network import Network
from tests.fakes.clouds.s3 import FakeS3

AT = 1_700_000_000.0
MINUTE = bytes(range(256)) * 7500
"""60 s at 8 kHz."""


def bucket(fails: Callable[[str, int], int] = lambda *_: 0) -> tuple[FakeS3, S3Recordings]:
    fake = FakeS3(Credentials("id", "secret", "eu-central-1"), "calls bucket", lambda: AT, fails=fails)
    network = Network(transport=fake.transport)
    config = S3Config("calls bucket", "id", "secret", "eu-central-1", "https://s3.example.com", prefix="a b/")
    return fake, S3Recordings(config, network.client, now=lambda: AT)


def sound(content: bytes) -> bytes:
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        return bytes(file.readframes(file.getnframes()))


async def test_a_short_recording_is_one_request() -> None:
    fake, store = bucket()
    async with store.open("f1", "CA1", 8000) as sink:
        await sink.write(b"\1\0\2\0" * 100)
    assert fake.asked == ["PUT"]
    assert {key: sound(content) for key, content in fake.objects.items()} == {"a b/f1/CA1.wav": b"\1\0\2\0" * 100}
    assert fake.faults == []


async def test_a_long_one_goes_out_in_parts_while_it_is_written() -> None:
    fake, store = bucket()
    async with store.open("f1", "CA1", 8000) as sink:
        for _ in range(6):
            await sink.write(MINUTE)
        assert fake.asked.count("PUT partNumber uploadId") == 1, "all but the first, which has the header"
        assert not fake.objects
    assert sound(fake.objects["a b/f1/CA1.wav"]) == MINUTE * 6
    assert (fake.uploads, fake.faults) == ({}, [])
    assert fake.most_bytes <= PART_BYTES


@pytest.mark.parametrize("part", ["POST uploads", "PUT partNumber uploadId", "POST uploadId"])
async def test_nothing_is_left_of_one_that_the_store_refused(part: str) -> None:
    fake, store = bucket(lambda what, _: 403 if what == part else 0)

    async def record() -> None:
        async with store.open("f1", "CA1", 8000) as sink:
            for _ in range(6):
                await sink.write(MINUTE)

    with pytest.raises(RecordingFailed) as failure:
        await record()
    assert failure.value.why == "refused"
    assert (fake.objects, fake.uploads) == ({}, {})


async def test_a_store_that_stumbles_is_asked_again(autojump_clock: MockClock) -> None:
    fake, store = bucket(lambda _, number: 503 if number in (1, 3) else 0)
    async with store.open("f1", "CA1", 8000) as sink:
        for _ in range(6):
            await sink.write(MINUTE)
    assert sound(fake.objects["a b/f1/CA1.wav"]) == MINUTE * 6


async def test_one_that_is_cut_off_is_aborted() -> None:
    fake, store = bucket()
    with trio.CancelScope() as scope:
        async with store.open("f1", "CA1", 8000) as sink:
            for _ in range(6):
                await sink.write(MINUTE)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert (fake.objects, fake.uploads) == ({}, {})


async def test_all_of_a_folder_and_nothing_else_is_erased() -> None:
    fake, store = bucket()
    for folder, name in (("f1", "CA1"), ("f1", "CA2"), ("f1", "CA3"), ("f10", "CA4")):
        async with store.open(folder, name, 8000) as sink:
            await sink.write(bytes(4))
    assert await store.erase("f1") == 3
    assert list(fake.objects) == ["a b/f10/CA4.wav"]
    with pytest.raises(RecordingFailed):
        await store.erase("../other")
