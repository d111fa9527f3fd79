"""The fakes keep the rules of the ports they stand in for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import pytest
import trio

from engine.errors import ModelFailed, SpeechFailed
from engine.events import (
    MULAW_8K,
    PCM16_16K,
    AudioFormat,
    CallInfo,
    Context,
    HangUp,
    Heard,
    Message,
    Modality,
    Role,
    SessionInfo,
    SpeechStarted,
    SpeechStopped,
)
from engine.ports import NO_CONTROL, Agent, ResourceKind
from tests.fakes.agents import MemoryAgent, VendorAgent, connector
from tests.fakes.plain_speech import Reader, noise, speak, words
from tests.fakes.vendors import Behaviour, Recogniser, Vendors, answer_to

T = TypeVar("T")
QUICK = Behaviour(onset_s=0.1, endpoint_s=0.1, final_s=0.04)


class NoLedger:
    def own(
        self, kind: ResourceKind, vendor: str, opening: AbstractAsyncContextManager[T], **_: object
    ) -> AbstractAsyncContextManager[T]:
        return opening


def call(form: AudioFormat = MULAW_8K) -> CallInfo:
    return CallInfo("twilio", "CA1", "MZ1", form, "desk")


def session() -> SessionInfo:
    return SessionInfo("s_1", "desk", Modality.VOICE)


def asked(text: str) -> Context:
    return Context((Message(Role.CALLER, text),))


@asynccontextmanager
async def an_agent(kind: str) -> AsyncIterator[tuple[Agent, Vendors]]:
    vendors = Vendors(QUICK)
    async with trio.open_nursery() as nursery:
        if kind == "memory":
            yield MemoryAgent(behaviour=QUICK), vendors
        elif kind == "streams":
            yield VendorAgent("desk", "http://vendors", connect=connector(vendors, nursery)), vendors
        else:
            port = await nursery.start(vendors.listen)
            yield VendorAgent("desk", f"http://127.0.0.1:{port}"), vendors
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("form", [MULAW_8K, PCM16_16K])
def test_plain_speech_reads_back_to_the_character(form: AudioFormat) -> None:
    audio = speak("Grüß Gott, is this the desk?", form) + form.silence(0.3) + speak("Yes", form)

    assert words(audio, form) == "Grüß Gott, is this the desk? Yes"
    reader = Reader(form)
    reader.feed(audio[: 20 * form.frame_bytes])
    assert reader.text == "Grüß Gott,"
    assert not reader.utterances[0].is_whole


@pytest.mark.parametrize("form", [MULAW_8K, PCM16_16K])
def test_the_recogniser_hears_onset_end_and_words(form: AudioFormat) -> None:
    recogniser = Recogniser(form, QUICK)
    audio = form.silence(0.5) + speak("Hello you there", form) + form.silence(0.5)

    events = [event for at in range(0, len(audio), 500) for event in recogniser.feed(audio[at : at + 500])]

    assert events == [
        {"type": "speech_started", "at_s": 0.5},
        {"type": "speech_stopped", "at_s": 1.1},
        {"type": "final", "text": "Hello you there"},
    ]


def test_a_word_shorter_than_the_onset_is_heard_all_the_same() -> None:
    events = Recogniser(MULAW_8K, Behaviour()).feed(speak("Yes", MULAW_8K) + MULAW_8K.silence(1))

    assert [event["type"] for event in events] == ["speech_started", "speech_stopped", "final"]


def test_a_cough_has_an_onset_and_no_words_and_a_click_is_nothing() -> None:
    recogniser = Recogniser(MULAW_8K, QUICK)

    assert recogniser.feed(noise(0.04, MULAW_8K) + MULAW_8K.silence(1)) == []
    assert recogniser.feed(noise(0.4, MULAW_8K) + MULAW_8K.silence(1))[-1] == {"type": "final", "text": ""}


def test_the_model_answers_from_what_it_is_shown_alone() -> None:
    pieces = answer_to([("user", "It is canary7."), ("assistant", "I see"), ("user", "And now?")])

    assert "".join(pieces) == "Turn 2. You said And now. I know canary7. "


@pytest.mark.parametrize("kind", ["memory", "streams", "tcp"])
async def test_an_agent_listens_thinks_and_speaks(kind: str) -> None:
    async with an_agent(kind) as (agent, vendors):
        owner = NoLedger()
        async with (
            agent.open_transcriber(call(), owner) as transcriber,
            agent.open_synthesizer(call(), owner) as synthesizer,
            agent.open_model(session(), owner, NO_CONTROL) as model,
        ):
            audio = speak("Hello you", MULAW_8K) + MULAW_8K.silence(0.5)
            for at in range(0, len(audio), 160):
                transcriber.send(audio[at : at + 160])
            events = [await transcriber.receive() for _ in range(3)]
            async with model.open_reply(asked("say goodbye")) as parts:
                reply = [part async for part in parts]
            async with synthesizer.open_speech("At your service.") as pieces:
                said = b"".join([piece async for piece in pieces])

        assert [type(event) for event in events] == [SpeechStarted, SpeechStopped, Heard]
        assert events[2] == Heard("Hello you")
        assert reply == ["Turn 1. ", "You said say goodbye. ", HangUp()]
        assert words(said, MULAW_8K) == "At your service."
        with trio.fail_after(2):
            while vendors.open.total():  # noqa: ASYNC110 - the other end has no event to wait for
                await trio.sleep(0.001)


async def test_a_cancelled_reply_leaves_nothing_of_itself_to_the_next() -> None:
    async with an_agent("tcp") as (agent, _), agent.open_model(session(), NoLedger(), NO_CONTROL) as model:
        async with model.open_reply(asked("one")) as parts:
            assert await parts.receive() == "Turn 1. "
        async with model.open_reply(asked("never answered")) as parts:
            with trio.move_on_after(0.02):
                await parts.receive()
        async with model.open_reply(asked("two")) as parts:
            assert "".join([str(part) async for part in parts]) == "Turn 1. You said two. "


async def test_vendors_that_refuse_or_never_answer_the_close(autojump_clock: object) -> None:
    async with an_agent("streams") as (agent, vendors):
        vendors.refuses |= {"recogniser", "model", "speech"}
        with pytest.raises(SpeechFailed):
            async with agent.open_transcriber(call(), NoLedger()):
                pass
        with pytest.raises(ModelFailed):
            async with agent.open_model(session(), NoLedger(), NO_CONTROL):
                pass
        vendors.refuses.clear()
        started_s = trio.current_time()
        async with agent.open_transcriber(call(), NoLedger()):
            vendors.is_deaf = True
        assert trio.current_time() - started_s >= 1.0
        await trio.testing.wait_all_tasks_blocked()
        assert vendors.open.total() == 0
