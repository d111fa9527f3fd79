"""Notes on a conversation by the agent's own model, on a fake that answers what it is told to."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from adapters.models.openai_chat import OpenAiChatConfig, OpenAiChatModelVendor
from adapters.models.recollecting import recollect_by_model, recollection_in
from engine.dialogue.recollection import recollect
from engine.errors import ModelFailed, Why
from engine.events import MemoryItem, MemoryKind, Message, Recollection, Role
from tests.contract.model_benches import SESSION, Book
from tests.fakes.clouds.loopback import Response, dialled
from tests.fakes.clouds.openai_chat import OpenAiChat
from tests.fakes.clouds.thinking import KEY, Manner

SAID = (
    Message(Role.CALLER, "My name is Ann Lee and my order is SKU-4471."),
    Message(Role.AGENT, "Thank you, it comes on 3 May."),
)
BEFORE = Recollection(
    "Caller: asked for help.", {"city": "Ulm"}, (MemoryItem(MemoryKind.FACT, "Has a dog"),), ("dogs",)
)
NOTES = """{"summary": "Ann Lee asks after SKU-4471.", "entities": {"name": "Ann Lee", "day": "3 May"},
 "items": [{"kind": "preference", "content": "Likes the morning", "confidence": 0.5}, "has a dog"],
 "topics": ["order"]}"""


def rig(nursery: trio.Nursery, answer: str) -> tuple[OpenAiChat, OpenAiChatModelVendor]:
    cloud = OpenAiChat(Manner(says=[answer]))
    config = OpenAiChatConfig(key=KEY, model="m", url="http://cloud/v1")
    return cloud, OpenAiChatModelVendor(config, dialled(cloud, nursery))


async def test_the_model_writes_the_notes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud, vendor = rig(nursery, f"Sure, here you are:\n```json\n{NOTES}\n```")
    book = Book()
    made = await recollect_by_model(vendor, SAID, BEFORE, SESSION, book)
    assert made.summary == "Ann Lee asks after SKU-4471."
    assert made.entities == {"city": "Ulm", "name": "Ann Lee", "day": "3 May"}
    assert [(item.kind, item.content, item.confidence) for item in made.items] == [
        (MemoryKind.FACT, "has a dog", 1.0),
        (MemoryKind.PREFERENCE, "Likes the morning", 0.5),
    ]
    assert made.topics == ("dogs", "order")
    assert (book.open, book.leaks) == (0, 0)
    shown = str(cloud.bodies[-1]["messages"])
    assert all(word in shown for word in ("SKU-4471", "3 May", "asked for help", "Ulm", "Has a dog"))


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "{", '{"summary": ""}', '{"summary": 7}', "[1]", "{}"])
async def test_an_answer_of_no_use_is_made_up_for_from_the_words(
    answer: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    _, vendor = rig(nursery, answer)
    autojump_clock.autojump_threshold = float("inf")  # a thread works on it
    autojump_clock.rate = 1.0
    made = await recollect_by_model(vendor, SAID, BEFORE, SESSION)
    assert made == recollect(SAID, BEFORE)
    assert "SKU-4471" in made.summary


async def test_a_model_that_fails_is_told(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud, vendor = rig(nursery, NOTES)
    cloud.manner.refusal = Response(503)
    with pytest.raises(ModelFailed) as failure:
        await recollect_by_model(vendor, SAID, BEFORE, SESSION)
    assert failure.value.why is Why.UNREACHABLE


async def test_nothing_new_is_nothing_asked(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud, vendor = rig(nursery, NOTES)
    assert await recollect_by_model(vendor, (), BEFORE, SESSION) is BEFORE
    assert cloud.requests == []


async def test_an_endless_answer_is_cut(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    cloud, vendor = rig(nursery, NOTES)
    cloud.manner = Manner(gap_s=0.0, says=[NOTES + " x" * 200, "y" * 40_000, *["z" * 20_000] * 9])
    made = await recollect_by_model(vendor, SAID, BEFORE, SESSION)
    assert made.summary == "Ann Lee asks after SKU-4471."


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["summary", "entities", "items", "topics", "content", "kind"]), inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_a_model_answers_is_notes_or_nothing(value: object) -> None:
    made = recollection_in(f"Well: {json.dumps(value)} }}", BEFORE)
    assert made is None or made.summary
