"""What can be done with stored history: search, export, edit, branch, trace, validate (E6, D5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
import trio
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.errors import Busy, StoreDown
from engine.events import Memory, Message, Modality, ReplyPart, Role
from engine.observe.metrics import Metrics
from engine.ports import Lost
from engine.sessions.history import MAX_HITS, MAX_TEXT_CHARS, MAX_WORDS_CHARS, History
from engine.sessions.tracing import as_text
from engine.storage.keyring import KeyRing
from engine.storage.record import Save, Saved, Scope, SessionRecord, Stored
from engine.storage.vault import Vault
from tests.fakes.puppet import PuppetAgent
from tests.sessions.rig import house

ADA = "+15550100001"
AT = 1_800_000_000.0
OPENING, CALLER, AGENT = "Hello!", Role.CALLER, Role.AGENT


@dataclass
class Live:
    """The sessions in use, as far as their history knows them."""

    told: list[str] = field(default_factory=list)

    def changed(self, session_id: str) -> None:
        self.told.append(session_id)


@dataclass
class Desk:
    vault: Vault
    live: Live
    history: History

    async def whats(self, session_id: str) -> list[TraceWhat]:
        return [event.what for event in await self.vault.traces(session_id)]

    async def texts(self, session_id: str) -> list[str]:
        stored = await self.history.session(session_id)
        assert stored is not None
        return [entry.text for entry in stored.entries]


def desk_over(kind: type[Vault] = Vault) -> Desk:
    """Each look at its clock is a second later."""
    ticks, live = count(int(AT) + 1000), Live()
    vault = kind(MemoryStore(now=lambda: AT), KeyRing.parse(""), Metrics(), ttl_s=1e6, retention=50, now=lambda: AT)
    return Desk(vault, live, History(vault, live, now=lambda: float(next(ticks))))


@pytest.fixture
def desk() -> Desk:
    return desk_over()


def entry(number: int, text: str) -> Entry:
    role = AGENT if number % 2 == 0 else CALLER
    turn_id = f"t_{(number + 1) // 2}"
    return Entry(
        f"{turn_id}.{number}", turn_id, AT + number, role, text, "desk", Modality.VOICE, "CA1", is_opening=number == 0
    )


MEMORY = Memory("Wants a table.", {"name": "Ada"}, (), {"desk": "asks for the day"})


async def told(desk: Desk, *texts: str, session_id: str = "s_1", **fields: object) -> Stored:
    """A stored session: the opening, then the caller and the agent in turns."""
    entries = [entry(number, text) for number, text in enumerate((OPENING, *texts))]
    record = SessionRecord(
        session_id,
        f"caller:{session_id}",
        Scope.CALLER,
        AT,
        AT + len(entries) - 1,
        "desk",
        Modality.VOICE,
        number=ADA,
        message_count=len(entries),
        memory=MEMORY,
    )
    record = replace(record, **fields)  # type: ignore[arg-type]  # fields by name
    await desk.vault.write([Save(record, 0, tuple(entries), tuple(asked(entries)))])
    stored = await desk.history.session(session_id)
    assert stored is not None
    return stored


def asked(entries: Sequence[Entry]) -> list[TraceEvent]:
    """What the model was shown: everything."""
    return [
        TraceEvent(
            one.at,
            TraceWhat.MODEL_ASKED,
            {
                "session_id": "s_1",
                "turn_id": one.turn_id,
                "agent": "desk",
                "vendor": "scripted",
                "shown": [[str(entry.role), entry.text] for entry in entries[: at + 1]],
                "violations": [],
            },
        )
        for at, one in enumerate(entries)
        if one.role is CALLER
    ]


TALK = ("a table", "For how many?", "for two", "On what day?")


async def test_what_is_not_there_is_none(desk: Desk) -> None:
    await told(desk, *TALK)
    history = desk.history
    assert await history.session("s_2") is None
    assert await history.export("s_2", "json") is None
    assert await history.edit("s_2", "t_1.1", "x", "bob") is None
    assert await history.edit("s_1", "t_9.9", "x", "bob") is None
    assert await history.branch("s_2", "t_1.1", "bob") is None
    assert await history.branch("s_1", "t_9.9", "bob") is None
    assert await history.trace("s_2") is None
    assert await history.validate("s_2") is None
    assert await history.of_number("+15550100009") == []
    assert await desk.vault.audits() == []


async def test_a_search_finds_the_messages_that_hold_all_the_words(desk: Desk) -> None:
    await told(desk, *TALK)
    await told(desk, "TWO cakes", session_id="s_2")
    found = await desk.history.search("two")
    assert {(hit.session_id, hit.entry.text) for hit in found.hits} == {("s_1", "for two"), ("s_2", "TWO cakes")}
    assert found.is_complete
    assert [hit.entry.text for hit in (await desk.history.search("two", session_id="s_1")).hits] == ["for two"]
    assert (await desk.history.search("two for")).hits[0].entry.text == "for two"
    assert (await desk.history.search("two many")).hits == ()
    assert (await desk.history.search("  ")).hits == ()


async def test_a_search_is_bounded_whatever_is_asked_for(desk: Desk) -> None:
    for at in range(3):
        await told(desk, *(f"two {number}" for number in range(45)), session_id=f"s_{at}")
    assert len((await desk.history.search("two", limit=10**9)).hits) == MAX_HITS
    assert len((await desk.history.search("two", limit=-5)).hits) == 1
    words = "two " + " " * MAX_WORDS_CHARS + "nowhere"
    assert len((await desk.history.search(words, limit=3)).hits) == 3


async def test_a_session_is_exported_with_its_number_masked(desk: Desk) -> None:
    await told(desk, *TALK, key=f"caller:{ADA}")
    text, markdown = await desk.history.export("s_1", "json"), await desk.history.export("s_1", "markdown")
    assert text is not None
    assert markdown is not None
    assert [message["text"] for message in json.loads(text)["messages"]] == [OPENING, *TALK]
    assert "> for two" in markdown
    assert ADA not in text + markdown


async def test_an_edit_keeps_the_first_words_and_is_written_down(desk: Desk) -> None:
    await told(desk, *TALK)
    first = await desk.history.edit("s_1", "t_2.3", "for three", "bob")
    assert first is not None
    second = await desk.history.edit("s_1", "t_2.3", "  for four ", "eve")
    assert second is not None
    stored = await desk.history.session("s_1")
    assert stored is not None
    assert stored.entries[3] == second
    assert (second.text, second.original, second.entry_id) == ("for four", "for two", "t_2.3")
    assert first.edited_at is not None
    assert second.edited_at is not None
    assert AT < first.edited_at < second.edited_at
    # Its place, and all that is known besides, stay.
    assert [entry.text for entry in stored.entries] == [OPENING, "a table", "For how many?", "for four", "On what day?"]
    assert stored.record.memory == MEMORY
    assert stored.record.last_at == AT + 4
    audits = await desk.vault.audits()
    assert [(event.who, event.action, event.detail) for event in audits] == [
        ("eve", "message_edited", "s_1/t_2.3"),
        ("bob", "message_edited", "s_1/t_2.3"),
    ]
    assert audits[0].subject == desk.vault.fingerprint(ADA)
    assert "for" not in repr(audits)
    events = [event for event in await desk.vault.traces("s_1") if event.what is TraceWhat.EDITED]
    assert [event.fields for event in events] == [{"session_id": "s_1", "entry_id": "t_2.3"}] * 2
    assert set(desk.live.told) == {"s_1"}


async def test_an_edit_that_changes_nothing_is_none(desk: Desk) -> None:
    before = await told(desk, *TALK)
    assert await desk.history.edit("s_1", "t_2.3", "for two", "bob") == before.entries[3]
    assert await desk.history.session("s_1") == before
    assert await desk.vault.audits() == []


@pytest.mark.parametrize("text", ["", " \n ", "x" * (MAX_TEXT_CHARS + 1)])
async def test_an_edit_needs_words_and_not_too_many(desk: Desk, text: str) -> None:
    before = await told(desk, *TALK)
    with pytest.raises(ValueError, match="text"):
        await desk.history.edit("s_1", "t_2.3", text, "bob")
    assert await desk.history.session("s_1") == before


class Untraced(Vault):
    """The store goes down right after an edit."""

    async def write(self, saves: Sequence[Save]) -> list[Saved | Lost | None]:
        if not saves[0].entries:
            raise StoreDown("refused")
        return await super().write(saves)


async def test_a_live_session_hears_of_an_edit_whatever_comes_after_it() -> None:
    desk = desk_over(Untraced)
    await told(desk, *TALK)
    with pytest.raises(StoreDown):
        await desk.history.edit("s_1", "t_2.3", "for three", "bob")
    assert desk.live.told == ["s_1"]
    assert (await desk.texts("s_1"))[3] == "for three"


class Meddled(Vault):
    """Somebody else edits the same message, so many times, just before we do."""

    others = 0

    async def replace(self, session_id: str, entry: Entry, was: Entry) -> bool:
        if self.others:
            self.others -= 1
            await super().replace(session_id, replace(was, text=f"theirs {self.others}", original=was.text), was)
        return await super().replace(session_id, entry, was)


@pytest.mark.parametrize("others", [1, 5])
async def test_of_two_edits_at_once_both_count_in_turn_or_one_is_told(others: int) -> None:
    desk = desk_over(Meddled)
    await told(desk, *TALK)
    assert isinstance(desk.vault, Meddled)
    desk.vault.others = others
    if others > 1:
        with pytest.raises(Busy):
            await desk.history.edit("s_1", "t_2.3", "ours", "bob")
        return
    entry = await desk.history.edit("s_1", "t_2.3", "ours", "bob")
    assert entry is not None
    assert (entry.text, entry.original) == ("ours", "for two")


async def test_a_branch_goes_on_after_the_message_in_a_session_of_its_own(desk: Desk) -> None:
    origin = await told(desk, *TALK, calls=2, topics={"booking": 1}, was_opened=True)
    record = await desk.history.branch("s_1", "t_1.2", "bob")
    assert record is not None
    assert record.session_id != "s_1"
    assert (record.key, record.scope, record.parent) == (f"stream:{record.session_id}", Scope.CALL, "s_1/t_1.2")
    assert (record.number, record.agent, record.was_opened) == (ADA, "desk", True)
    assert (record.message_count, record.turns, record.calls, record.topics) == (3, 1, 0, {"booking": 1})
    assert await desk.texts(record.session_id) == [OPENING, "a table", "For how many?"]
    assert await desk.vault.load(record.key, last=50) is not None
    # The other one stays as it was, but knows.
    after = await desk.history.session("s_1")
    assert after is not None
    assert after.entries == origin.entries
    assert after.record == origin.record
    assert (await desk.whats("s_1"))[-1] is TraceWhat.BRANCHED
    assert await desk.whats(record.session_id) == [TraceWhat.CREATED, TraceWhat.BRANCHED]
    fields = (await desk.vault.traces("s_1"))[-1].fields
    assert fields == {"session_id": "s_1", "from": "s_1/t_1.2", "to": record.session_id}
    (audited,) = await desk.vault.audits()
    assert (audited.who, audited.action) == ("bob", "session_branched")
    assert audited.detail == f"s_1/t_1.2 as {record.session_id}"
    assert desk.live.told == ["s_1"]


async def test_what_is_said_in_a_branch_or_its_origin_stays_there(desk: Desk) -> None:
    await told(desk, *TALK)
    record = await desk.history.branch("s_1", "t_1.2", "bob")
    assert record is not None
    await desk.history.edit(record.session_id, "t_1.1", "a cake", "bob")
    assert (await desk.texts("s_1"))[1] == "a table"
    await desk.history.edit("s_1", "t_0.0", "Good day!", "bob")
    assert (await desk.texts(record.session_id))[:2] == [OPENING, "a cake"]


async def test_a_branch_knows_nothing_that_came_later(desk: Desk) -> None:
    await told(desk, *TALK, summary_at=AT + 3)
    early = await desk.history.branch("s_1", "t_1.2", "bob")
    late = await desk.history.branch("s_1", "t_2.4", "bob")
    assert early is not None
    assert late is not None
    assert (early.memory.summary, early.memory.states, early.summary_at) == ("", {}, 0.0)
    assert early.memory.entities == {"name": "Ada"}
    assert late.memory == MEMORY
    assert late.summary_at == AT + 3


class Erasing(Vault):
    """The caller is erased just before a branch is written."""

    async def write(self, saves: Sequence[Save]) -> list[Saved | Lost | None]:
        if saves[0].record.parent:
            await self.erase(ADA, AT + 10_000)
        return await super().write(saves)


async def test_a_branch_of_somebody_who_is_being_erased_is_none() -> None:
    desk = desk_over(Erasing)
    await told(desk, *TALK)
    assert await desk.history.branch("s_1", "t_1.2", "bob") is None
    assert await desk.history.of_number(ADA) == []


async def test_the_trace_is_handed_out_as_it_was(desk: Desk) -> None:
    await told(desk, *TALK)
    assert await desk.history.trace("s_1") == asked([entry(at, text) for at, text in enumerate((OPENING, *TALK))])


async def test_a_session_is_judged_by_its_trace(desk: Desk) -> None:
    await told(desk, *TALK)
    report = await desk.history.validate("s_1")
    assert report is not None
    assert (report.is_ok, report.turns) == (True, 2)
    # A branch has no requests of its own yet, and its edited words were never shown otherwise.
    branch = await desk.history.branch("s_1", "t_2.4", "bob")
    assert branch is not None
    await desk.history.edit("s_1", "t_1.1", "a boat", "bob")
    for session_id in ("s_1", branch.session_id):
        report = await desk.history.validate(session_id)
        assert report is not None
        assert report.problems == ()
    stored = await desk.history.session("s_1")
    assert stored is not None
    second = replace(entry(6, OPENING), is_opening=True)
    await desk.vault.write([Save(stored.record, stored.version, (second,))])
    report = await desk.history.validate("s_1")
    assert report is not None
    assert "second_opening" in {problem.rule for problem in report.problems}


# --- with sessions in use -----------------------------------------------------------------------------------


def shows(context: Sequence[Message]) -> list[ReplyPart | float | Exception]:
    """A model that answers with what it was shown."""
    return ["|".join(message.text for message in context)]


async def test_an_edit_is_what_the_next_turn_of_a_live_session_is_shown(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(shows)) as rig:
        history = History(rig.vault, rig.sessions, now=rig.sessions.now)
        answer = await rig.sessions.turn("a cable", stream_id="a")
        stored = await history.session(answer.session_id)
        assert stored is not None
        assert await history.edit(answer.session_id, stored.entries[0].entry_id, "a table", "bob") is not None
        assert (await rig.sessions.turn("for two", stream_id="a")).text == "a table|a cable|for two"
        report = await history.validate(answer.session_id)
        assert report is not None
        assert report.problems == ()


async def test_a_branch_is_gone_on_with_by_written_turns_while_its_origin_goes_its_own_way(
    autojump_clock: MockClock,
) -> None:
    async with house(PuppetAgent(shows)) as rig:
        history = History(rig.vault, rig.sessions, now=rig.sessions.now)
        first = await rig.sessions.turn("one", stream_id="a")
        await rig.sessions.turn("two", stream_id="a")
        stored = await history.session(first.session_id)
        assert stored is not None
        branch = await history.branch(first.session_id, stored.entries[1].entry_id, "bob")
        assert branch is not None
        elsewhere = await rig.sessions.turn("three", stream_id=branch.session_id)
        assert (elsewhere.session_id, elsewhere.text) == (branch.session_id, "one|one|three")
        here = await rig.sessions.turn("four", stream_id="a")
        assert (here.session_id, here.text) == (first.session_id, "one|one|two|one|one|two|four")
        for session_id in (first.session_id, branch.session_id):
            report = await history.validate(session_id)
            assert report is not None
            assert (report.problems, report.session_ids) == ((), (session_id,))
            assert TraceWhat.BRANCHED in [event.what for event in await history.trace(session_id) or ()]


async def test_what_is_asked_of_models_through_calls_and_texts_is_sound(autojump_clock: MockClock) -> None:
    agent = PuppetAgent(shows)
    async with house(agent) as rig:
        history = History(rig.vault, rig.sessions, now=rig.sessions.now)
        for at in range(2):
            async with rig.call(ADA, f"MZ{at}") as call:
                call.agent_was_heard(call.opening(agent.phrases), is_opening=True)
                for turn in range(8):
                    call.caller_said(f"question {at} {turn} " + "and more " * turn * 5)
                    call.context(agent)
                    call.agent_was_heard(f"answer {turn}")
                    await trio.sleep(1)
                await rig.sms(f"a text {at}", ADA)
        await rig.stored(f"caller:{ADA}")
        (stored,) = await history.of_number(ADA)
        report = await history.validate(stored.record.session_id)
        assert report is not None
        assert report.problems == ()
        assert report.turns == 18
        assert max(map(len, as_text(report).splitlines())) <= 100
