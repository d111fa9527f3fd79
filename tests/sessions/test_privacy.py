"""People's control over what is kept of them: handed out whole, erased to the last byte (FAULTS 86, 87)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from adapters.stores.sql import open_sqlite
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.errors import StoreDown
from engine.events import Memory, MemoryItem, MemoryKind, Modality, Role
from engine.observe.metrics import Metrics
from engine.ports import RecordStore
from engine.sessions.history import History
from engine.sessions.privacy import Privacy
from engine.storage.identity import e164
from engine.storage.keyring import KeyRing
from engine.storage.record import Save, Scope, SessionRecord
from engine.storage.vault import Vault
from tests.fakes.puppet import PuppetAgent
from tests.sessions.rig import house

ADA, BOB = "+15550100001", "+15550100002"
AT = 1_800_000_000.0
KEYS = "k1:" + "A" * 43 + "="


@dataclass
class Keeper:
    """Keeps something of callers, as a journal or a live session does."""

    name: str
    told: list[str]
    kept: set[str] = field(default_factory=set)
    is_down: bool = False

    async def forget(self, number: str) -> None:
        self.told.append(self.name)
        if self.is_down:
            raise StoreDown("refused")
        self.kept.discard(number)


class Deaf:
    def changed(self, session_id: str) -> None:
        pass


@dataclass
class Office:
    vault: Vault
    privacy: Privacy
    keepers: list[Keeper]
    told: list[str]


def office(store: RecordStore | None = None, keys: str = "") -> Office:
    told: list[str] = []
    keepers = [Keeper(name, told, {ADA, BOB}) for name in ("live", "writer", "webhooks")]
    store = store or MemoryStore(now=lambda: AT)
    vault = Vault(store, KeyRing.parse(keys), Metrics(), ttl_s=1e6, retention=50, now=lambda: AT)
    return Office(vault, Privacy(vault, keepers, now=lambda: AT + 10), keepers, told)


def save(session_id: str, number: str, word: str, scope: Scope = Scope.CALLER, key: str = "") -> Save:
    """A session full of one word."""
    said = Entry("t_1.0", "t_1", AT, Role.CALLER, f"I say {word}", "desk", Modality.VOICE)
    answer = replace(said, entry_id="t_1.1", role=Role.AGENT, text=f"{word}, I see", original=f"{word} before")
    item = MemoryItem(MemoryKind.FACT, f"likes {word}")
    memory = Memory(f"Spoke of {word}.", {"word": word}, (item,), {"desk": f"at {word}"})
    record = SessionRecord(
        session_id,
        key or f"caller:{number}",
        scope,
        AT,
        AT,
        "desk",
        Modality.VOICE,
        number=number,
        message_count=2,
        memory=memory,
        topics={word: 1},
    )
    shown: dict[str, object] = {
        "session_id": session_id,
        "turn_id": "t_1",
        "shown": [["user", f"I say {word}"]],
        "violations": [],
    }
    return Save(record, 0, (said, answer), (TraceEvent(AT, TraceWhat.MODEL_ASKED, shown),))


async def fill(vault: Vault) -> None:
    await vault.write(
        [
            save("s_1", ADA, "apricot"),
            save("s_2", BOB, "blueberry"),
            save("s_3", ADA, "artichoke", Scope.CALL, "stream:MZ3"),
        ]
    )


async def words_of(vault: Vault, number: str) -> str:
    return repr(await vault.of_number(number))


async def test_an_export_holds_all_of_a_number_and_nothing_of_another() -> None:
    it = office()
    await fill(it.vault)
    document = await it.privacy.export(ADA, "alice")
    assert (document["schema"], document["version"], document["number"]) == ("offhook/caller", 1, ADA)
    assert document["exported_at"] == AT + 10
    assert [one["session"]["session_id"] for one in document["sessions"]] == ["s_1", "s_3"]
    first = document["sessions"][0]
    assert first["session"]["number"] == ADA
    assert first["memory"]["summary"] == "Spoke of apricot."
    assert [message["text"] for message in first["messages"]] == ["I say apricot", "apricot, I see"]
    assert first["messages"][1]["original"] == "apricot before"
    assert first["trace"][0]["fields"]["shown"] == [["user", "I say apricot"]]
    assert [event["what"] for event in document["audit"]] == ["privacy_export"]
    text = json.dumps(document)
    assert "blueberry" not in text
    assert BOB not in text


async def test_of_a_number_that_never_called_nothing_is_kept_but_that_it_was_asked_for() -> None:
    it = office()
    await fill(it.vault)
    document = await it.privacy.export("+15550100009", "alice")
    assert document["sessions"] == []
    assert await it.privacy.delete("+15550100009", "alice") == 0
    assert "artichoke" in await words_of(it.vault, ADA)


@pytest.mark.parametrize("spelling", ["555-010-0001", "(555) 010 0001", "001 555 010 0001", "+1.555.010.0001"])
async def test_other_spellings_of_a_number_meet_the_same_record(spelling: str) -> None:
    it = office()
    await fill(it.vault)
    assert len((await it.privacy.export(e164(spelling, "US"), "alice"))["sessions"]) == 2
    assert await it.privacy.delete(e164(spelling, "US"), "alice") == 2
    assert await it.vault.of_number(ADA) == []


async def test_a_deletion_takes_all_of_a_number_and_nothing_of_another() -> None:
    it = office()
    await fill(it.vault)
    assert await it.privacy.delete(ADA, "alice") == 2
    assert await it.vault.of_number(ADA) == []
    assert "blueberry" in await words_of(it.vault, BOB)
    assert await it.vault.traces("s_1") == []
    assert [keeper.kept for keeper in it.keepers] == [{BOB}] * 3


async def test_words_travel_from_live_sessions_to_the_store_and_are_forgotten_in_that_order_and_once_more() -> None:
    told: list[str] = []

    class Noting(MemoryStore):
        async def erase(self, subject: str, at: float) -> int:
            told.append("store")
            return await super().erase(subject, at)

    it = office(Noting())
    it.told.clear()
    for keeper in it.keepers:
        keeper.told = told
    await it.privacy.delete(ADA, "alice")
    assert told == ["live", "writer", "webhooks", "store", "live", "writer", "webhooks"]


async def test_what_was_on_its_way_when_a_number_was_erased_is_not_written_back() -> None:
    it = office()
    await fill(it.vault)
    stored = (await it.vault.of_number(ADA))[0]
    await it.privacy.delete(ADA, "alice")
    late = Save(stored.record, stored.version, (replace(stored.entries[0], entry_id="t_2.0"),))
    begun_before = save("s_9", ADA, "avocado")
    assert await it.vault.write([late, begun_before]) == [None, None]
    assert await it.vault.of_number(ADA) == []
    begun_after = replace(begun_before, record=replace(begun_before.record, started_at=AT + 11, last_at=AT + 11))
    assert (await it.vault.write([begun_after]))[0] is not None


class Failing(MemoryStore):
    """A store that is down for so many erasures."""

    down_for = 1

    async def erase(self, subject: str, at: float) -> int:
        if self.down_for:
            self.down_for -= 1
            raise StoreDown("refused")
        return await super().erase(subject, at)


async def test_with_the_store_down_the_process_forgets_at_once_and_asking_again_does_the_rest() -> None:
    it = office(Failing())
    await fill(it.vault)
    with pytest.raises(StoreDown):
        await it.privacy.delete(ADA, "alice")
    assert [keeper.kept for keeper in it.keepers] == [{BOB}] * 3
    assert await it.privacy.audit() == []
    assert await it.privacy.delete(ADA, "alice") == 2
    assert await it.vault.of_number(ADA) == []


async def test_one_that_cannot_forget_now_keeps_no_other_from_it_and_is_not_passed_over() -> None:
    it = office()
    await fill(it.vault)
    it.keepers[1].is_down = True
    with pytest.raises(StoreDown):
        await it.privacy.delete(ADA, "alice")
    assert [ADA in keeper.kept for keeper in it.keepers] == [False, True, False]
    it.keepers[1].is_down = False
    assert await it.privacy.delete(ADA, "alice") == 2


async def test_the_audit_tells_who_did_what_without_the_number() -> None:
    it = office()
    await fill(it.vault)
    await it.privacy.export(ADA, "alice")
    await it.privacy.delete(BOB, "carol")
    deleted, exported = await it.privacy.audit()
    assert (deleted.by, deleted.what, deleted.detail) == ("carol", "privacy_delete", "1 sessions")
    assert (exported.by, exported.what, exported.detail) == ("alice", "privacy_export", "2 sessions")
    assert exported.subject == it.vault.fingerprint(ADA) != deleted.subject
    assert "5550100" not in repr([deleted, exported])
    assert await it.privacy.audit(1) == [deleted]
    assert await it.privacy.audit(-1) == []


async def test_an_export_that_cannot_be_audited_is_not_handed_out() -> None:
    class Mute(MemoryStore):
        async def add_audit(self, row: object) -> None:
            raise StoreDown("full")

    it = office(Mute())
    await fill(it.vault)
    with pytest.raises(StoreDown):
        await it.privacy.export(ADA, "alice")


@asynccontextmanager
async def on_disk(folder: Path, keys: str) -> AsyncIterator[Office]:
    async with open_sqlite(folder / "offhook.db", now=lambda: AT) as store:
        yield office(store, keys)


def found_in(folder: Path, *words: str) -> set[str]:
    """Those of the words whose bytes are in any file of the folder."""
    every = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return {word for word in words if word.encode() in every}


@pytest.mark.parametrize("keys", ["", KEYS], ids=["plain", "sealed"])
@pytest.mark.parametrize("restarts", [False, True], ids=["running", "restarted"])
async def test_no_byte_of_an_erased_caller_is_left_on_the_disk(tmp_path: Path, keys: str, restarts: bool) -> None:
    async with on_disk(tmp_path, keys) as it:
        await fill(it.vault)
        history = History(it.vault, Deaf(), now=lambda: AT + 5)
        await history.edit("s_1", "t_1.0", "apricot no more", "alice")
        branch = await history.branch("s_1", "t_1.1", "alice")
        assert branch is not None
        before = found_in(tmp_path, "apricot", "blueberry")
        assert before == (set() if keys else {"apricot", "blueberry"})
        if not restarts:
            assert await it.privacy.delete(ADA, "alice") == 3
            assert found_in(tmp_path, ADA, ADA[1:], "apricot", "artichoke") == set()
    async with on_disk(tmp_path, keys) as it:
        if restarts:
            assert await it.privacy.delete(ADA, "alice") == 3
            assert found_in(tmp_path, ADA, ADA[1:], "apricot", "artichoke") == set()
        assert await it.vault.of_number(ADA) == []
        assert "blueberry" in await words_of(it.vault, BOB)
        assert await it.vault.write([save("s_1", ADA, "apricot")]) == [None]
    assert found_in(tmp_path, ADA, ADA[1:], "apricot", "artichoke") == set()


# --- with sessions in use -----------------------------------------------------------------------------------


async def test_a_caller_erased_in_a_live_call_and_while_texting_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    """The call goes on without memory, and nothing of it is written back."""
    agent = PuppetAgent()
    async with house(agent) as rig:
        privacy = Privacy(rig.vault, [rig.sessions, rig.writer], now=rig.sessions.now)
        await rig.sms("apricot", BOB)
        async with rig.call(ADA) as call:
            call.caller_said("apricot one")
            call.agent_was_heard("Yes.")
            await rig.sms("apricot by text", ADA)
            call.caller_said("apricot two")
            assert await privacy.delete(ADA, "alice") == 1
            call.caller_said("who am I?")
            context = call.context(agent)
            assert [message.text for message in context] == ["who am I?"]
            call.agent_was_heard("I do not know.")
            await rig.sessions.settle()
        await rig.sessions.settle()
        await rig.writer.flush()
        assert await rig.vault.of_number(ADA) == []
        assert len(await rig.vault.of_number(BOB)) == 1
        # Whoever comes back is a stranger, and is remembered again.
        assert "apricot" not in await rig.sms("hello", ADA)
        assert len(await rig.vault.of_number(ADA)) == 1


async def test_a_turn_that_is_being_answered_when_its_caller_is_erased_is_not_kept(autojump_clock: MockClock) -> None:
    async with house(PuppetAgent(lambda _: [1.0, "apricot"])) as rig:
        privacy = Privacy(rig.vault, [rig.sessions, rig.writer], now=rig.sessions.now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.sms, "apricot?", ADA)
            await trio.sleep(0.5)
            await privacy.delete(ADA, "alice")
        await rig.writer.flush()
        assert await rig.vault.of_number(ADA) == []
