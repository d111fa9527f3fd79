"""The part of the language models with I/O: its connections."""

from __future__ import annotations

import gc

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from adapters.models.openai_chat import OpenAiChatConfig, OpenAiChatModelVendor, OpenAiChatWire
from engine.errors import ModelFailed, SettingsError, Why
from engine.runtime.network import Network
from tests.contract.model_benches import SESSION, Book, asked, text_of
from tests.fakes.clouds.loopback import dialled, serving
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.thinking import KEY, Manner


def vendor_at(url: str) -> OpenAiChatModelVendor:
    return OpenAiChatModelVendor(OpenAiChatConfig(key=KEY, model="m", url=f"{url}/v1"), Network())


async def test_nobody_there_is_named_so() -> None:
    async with vendor_at("http://127.0.0.1:9").open(SESSION, Book()) as model:
        with pytest.raises(ModelFailed) as failure:
            async with model.open_reply(asked("hello")) as parts:
                await parts.receive()
    assert failure.value.why is Why.UNREACHABLE


@pytest.mark.parametrize(
    ("settings", "at_fault"),
    [
        ({"url": "127.0.0.1:11434/v1"}, "url"),
        ({"url": "ws://127.0.0.1/v1"}, "url"),
        ({"key": "a\nb"}, "key"),
        ({"key": "schlüssel"}, "key"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_word_of_the_key(
    settings: dict[str, str], at_fault: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        OpenAiChatModelVendor(OpenAiChatConfig(model="m", **settings), Network())  # type: ignore[arg-type]  # by name
    assert str(refusal.value).startswith(f"vendors.openai.{at_fault}: ")
    assert settings.get("key", "none") not in str(refusal.value)


def test_the_line_end_behind_a_key_is_not_part_of_it() -> None:
    assert OpenAiChatWire(OpenAiChatConfig(model="m", key="k\n")).headers() == {"authorization": "Bearer k"}


async def test_one_connection_serves_a_whole_call(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    opened = 0

    def counted() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        nonlocal opened
        opened += 1
        return memory_stream_pair()

    config = OpenAiChatConfig(key=KEY, model="m", url="http://cloud/v1")
    vendor = OpenAiChatModelVendor(config, dialled(OpenAiChat(), nursery, counted))
    async with vendor.open(SESSION, Book()) as model:
        for number in range(3):
            async with model.open_reply(asked(f"{number}")) as parts:
                assert f"You said {number}" in text_of([part async for part in parts])
    assert opened == 1


async def test_cut_short_again_and_again_it_leaves_nothing_to_the_collector() -> None:
    """Warnings of generators that were left lying are errors here."""
    cloud = OpenAiChat(Manner(first_s=0.0, gap_s=0.0005))
    async with serving(cloud) as served, vendor_at(served.http).open(SESSION, Book()) as model:
        for number in range(40):
            with trio.move_on_after(number * 0.0005):
                async with model.open_reply(asked("and a story please")) as parts:
                    async for _ in parts:
                        pass
        async with model.open_reply(asked("again")) as parts:
            assert "You said again" in text_of([part async for part in parts])
        with trio.fail_after(5):
            while cloud.requests_open:  # noqa: ASYNC110 - seen from the other end
                await trio.sleep(0.01)
    assert model.is_closed
    gc.collect()
