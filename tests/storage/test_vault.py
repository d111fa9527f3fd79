from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import structlog
import trio
from trio.testing import MockClock

from adapters.stores.memory import MemoryStore
from engine.dialogue.history import TraceWhat
from engine.errors import StoreDown
from engine.observe.metrics import Metrics
from engine.ports import Append, SessionRow
from engine.storage.codec import RECORDS
from engine.storage.keyring import KeyRing, Unreadable
from engine.storage.merging import MAX_ROUNDS
from engine.storage.record import Save, Saved, Stored
from engine.storage.vault import AuditEvent, Vault
from tests.fakes.flaky_store import FlakyStore
from tests.storage.saves import (
    DAY_S,
    KEY_1,
    KEY_2,
    NUMBER,
    OTHER,
    a_record,
    a_save,
    a_trace,
    a_vault,
    an_entry,
)

CALLER = f"caller:{NUMBER}"


def a_store() -> MemoryStore:
    return MemoryStore(lambda: 100.0)


async def saved(vault: Vault, save: Save) -> Saved:
    (result,) = await vault.write([save])
    assert isinstance(result, Saved)
    return result


async def loaded(vault: Vault, key: str = CALLER) -> Stored:
    stored = await vault.load(key, last=50)
    assert stored is not None
    return stored


def ids(stored: Stored) -> list[str]:
    return [entry.entry_id for entry in stored.entries]


async def bytes_in(store: MemoryStore) -> bytes:
    """All that anybody who steals the store can read."""
    parts: list[object] = [await store.meta("index_key", b"?"), await store.audit()]
    for row in await store.scan(limit=10_000):
        parts += [row, await store.get(row.session_id, last=10_000), await store.traces(row.session_id)]
    return repr(parts).encode()


# --- there and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["", KEY_1])
async def test_what_is_saved_is_found_by_key_and_by_id(keys: str) -> None:
    vault = a_vault(a_store(), keys)
    save = a_save("e_1")
    assert await saved(vault, save) == Saved(save.record, 1)
    assert await loaded(vault) == Stored(save.record, 1, save.entries)
    assert await vault.get("s_1", last=50) == Stored(save.record, 1, save.entries)
    assert await vault.traces("s_1") == list(save.traces)
    assert await vault.load(f"caller:{OTHER}", last=50) is None


async def test_only_the_last_messages_are_read_and_kept() -> None:
    vault = a_vault(a_store(), retention=3)
    save = a_save("e_0")
    await vault.write([save])
    entries = tuple(an_entry(f"e_{i}") for i in range(1, 5))
    await vault.write([replace(save, version=1, entries=entries)])
    assert ids(await loaded(vault)) == ["e_2", "e_3", "e_4"]
    stored = await vault.load(CALLER, last=1)
    assert stored is not None
    assert ids(stored) == ["e_4"]


async def test_a_session_expires_a_ttl_after_its_last_turn() -> None:
    time = 100.0
    vault = a_vault(MemoryStore(lambda: time), KEY_1)
    await vault.write([a_save("e_1", at=100.0)])
    time = 100.0 + 30 * DAY_S - 1
    assert await vault.load(CALLER, last=1)
    time += 1
    assert await vault.load(CALLER, last=1) is None
    assert await vault.purge() == 0  # by the vault's own clock it is early yet
    assert await vault.purge(time) == 1


async def test_with_keys_the_store_holds_no_number_and_no_word() -> None:
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1", text="my card is in the other coat")])
    await vault.audit(AuditEvent(1.0, "ops", "export", vault.fingerprint(NUMBER), "done"))
    content = await bytes_in(store)
    for word in (b"coat", b"15550100001", b"5550100001", b"ops", b"caller", KEY_1[4:].encode()):
        assert word not in content


async def test_without_keys_a_number_stands_in_bodies_only() -> None:
    store = a_store()
    await a_vault(store).write([a_save("e_1", text="the other coat")])
    (row,) = await store.scan()
    assert b"15550100001" not in repr(replace(row, body=b"")).encode()
    found = await store.get("s_1", last=1)
    assert found is not None
    assert found.messages[0].text == "the other coat"


async def test_two_stores_give_one_number_different_fingerprints_and_one_store_always_the_same() -> None:
    store = a_store()
    first, second, elsewhere = a_vault(store, KEY_1), a_vault(store, KEY_1), a_vault(a_store(), KEY_1)
    for vault in (first, second, elsewhere):
        await vault.open()
    assert first.fingerprint(NUMBER) == second.fingerprint(NUMBER) != elsewhere.fingerprint(NUMBER)
    assert first.fingerprint(NUMBER) != first.fingerprint(OTHER)
    assert first.fingerprint("") == ""


async def test_strange_texts_come_back_or_are_mended() -> None:
    vault = a_vault(a_store())
    entries = tuple(an_entry(f"e_{i}", text) for i, text in enumerate(["a\0b", "\ud83d alone", "né 漢字 🙂", '"\\\n']))
    await vault.write([Save(a_record(), 0, entries, (a_trace(odd={"\ud800": object()}),))])
    texts = [entry.text for entry in (await loaded(vault)).entries]
    assert texts == ["a\0b", "? alone", "né 漢字 🙂", '"\\\n']
    assert len(await vault.traces("s_1")) == 1


# --- two writers ----------------------------------------------------------------------------------------------


async def test_where_somebody_else_was_quicker_the_two_are_merged() -> None:
    store = a_store()
    one, two = a_vault(store, KEY_1), a_vault(store, KEY_1)
    await one.write([a_save("e_1")])
    await one.write([Save(a_record(at=110.0, summary="likes tea"), 1, (an_entry("e_2"),))])
    result = await saved(two, Save(a_record(at=120.0), 1, (an_entry("e_3"),)))
    assert (result.version, result.was_merged) == (3, True)
    assert result.record.memory.summary == "likes tea"
    assert result.record.last_at == 120.0
    assert ids(await loaded(one)) == ["e_1", "e_2", "e_3"]


async def test_two_sessions_begun_for_one_key_become_one_under_the_id_that_is_stored() -> None:
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1", session_id="s_1")])
    result = await saved(vault, a_save("e_2", session_id="s_2"))
    assert (result.record.session_id, result.was_merged) == ("s_1", True)
    assert ids(await loaded(vault)) == ["e_1", "e_2"]
    assert await vault.get("s_2", last=1) is None
    assert len(await vault.traces("s_1")) == 2


@pytest.mark.parametrize("seed", range(3))
async def test_two_engines_write_to_one_number_at_once_and_no_turn_is_lost(
    seed: int, autojump_clock: MockClock
) -> None:
    store, chance = a_store(), random.Random(seed)

    async def write(name: str) -> None:
        vault, record, version = a_vault(store, KEY_1, retention=1000), a_record(f"s_{name}"), 0
        for i in range(100):
            result = await saved(vault, Save(record, version, (an_entry(f"{name}{i}"),)))
            record, version = result.record, result.version
            for _ in range(chance.randrange(3)):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "a")
        nursery.start_soon(write, "b")
    there = ids(await loaded(a_vault(store, KEY_1), CALLER)) and [
        entry.entry_id for stored in await a_vault(store, KEY_1).of_number(NUMBER) for entry in stored.entries
    ]
    for name in "ab":
        assert [entry_id for entry_id in there if entry_id[0] == name] == [f"{name}{i}" for i in range(100)]
    assert len(there) == 200


async def test_many_saves_of_one_session_go_in_one_write_in_order() -> None:
    store = FlakyStore(a_store())
    vault = a_vault(store, KEY_1)
    results = await vault.write([a_save(f"e_{i}") for i in range(20)])
    assert {result.version for result in results if isinstance(result, Saved)} == {1}
    assert ids(await loaded(vault)) == [f"e_{i}" for i in range(20)]
    assert len(await vault.traces("s_1")) == 20
    assert store.writes == [1]


async def test_stale_saves_of_one_session_from_several_versions_end_in_one_history_in_order() -> None:
    store = a_store()
    vault = a_vault(store)
    for version in range(5):
        await vault.write([a_save(f"old_{version}", version=version)])
    stale = [a_save(f"e_{i}", version=version) for i, version in enumerate([1, 1, 3, 3, 5])]
    assert None not in await vault.write(stale)
    assert ids(await loaded(vault)) == [f"old_{i}" for i in range(5)] + [f"e_{i}" for i in range(5)]


async def test_a_stale_save_behind_a_fresh_one_does_not_undo_what_that_was_made_from() -> None:
    vault = a_vault(a_store())
    await vault.write([a_save("e_1")])
    await vault.write([Save(a_record(at=110.0, summary="likes tea"), 1)])
    fresh, stale = Save(a_record(at=120.0, summary="likes tea"), 2), a_save("e_2", version=1, at=115.0)
    await vault.write([fresh, stale])
    stored = await loaded(vault)
    assert stored.record.memory.summary == "likes tea"
    assert ids(stored) == ["e_1", "e_2"]


async def test_a_version_that_happens_to_fit_does_not_overwrite_what_others_wrote() -> None:
    """The second of two stale saves must not take the version that somebody else has made for its own."""
    store = a_store()
    one, two = a_vault(store), a_vault(store)
    await one.write([a_save("e_1")])
    await one.write([Save(a_record(at=110.0, summary="likes tea"), 1)])
    await two.write([a_save("e_2", version=1), a_save("e_3", version=1)])
    stored = await loaded(one)
    assert stored.record.memory.summary == "likes tea"
    assert ids(stored) == ["e_1", "e_2", "e_3"]


async def test_what_was_stored_unknown_to_us_is_there_once_after_it_is_saved_again() -> None:
    store = FlakyStore(a_store())
    vault = a_vault(store, KEY_1)
    store.swallows = True
    with pytest.raises(StoreDown):
        await vault.write([a_save("e_1")])
    store.swallows = False
    await vault.write([a_save("e_1"), a_save("e_2")])
    assert ids(await loaded(vault)) == ["e_1", "e_2"]
    assert [event.fields["e"] for event in await vault.traces("s_1")] == ["e_1", "e_2"]


async def test_a_save_of_a_session_that_was_erased_meanwhile_is_gone() -> None:
    vault = a_vault(a_store(), KEY_1)
    await vault.write([a_save("e_1", at=100.0), a_save("e_2", session_id="s_2", number=OTHER)])
    assert await vault.erase(NUMBER, 150.0) == 1
    late = [
        a_save("e_3", version=1, at=110.0),
        a_save("e_4", session_id="s_3", at=150.0),
        a_save("e_5", session_id="s_2", number=OTHER, version=1),
        a_save("e_6", session_id="s_4", at=151.0),
    ]
    gone, also_gone, other, begun_later = await vault.write(late)
    assert (gone, also_gone) == (None, None)
    assert other is not None
    assert begun_later is not None
    assert ids(await loaded(vault)) == ["e_6"]


async def test_a_store_in_which_everybody_is_quicker_is_down_and_not_asked_for_ever(autojump_clock: MockClock) -> None:
    store = FlakyStore(a_store())
    vault, rival = a_vault(store), a_vault(store.inner)
    await rival.write([a_save("e_1")])
    version, write = 1, store.inner.write

    async def quicker(writes: list[Append]) -> object:
        nonlocal version
        head = replace(writes[0].head, version=version)
        await write([Append(head)])
        version += 1
        return await write(writes)

    store.inner.write = quicker  # type: ignore[method-assign,assignment]  # a rival that wins every time
    with pytest.raises(StoreDown):
        await vault.write([a_save("e_2", version=1)])
    assert len(store.writes) == MAX_ROUNDS + 1


async def test_a_rival_who_is_quicker_whenever_there_is_time_to_be_is_no_hindrance(autojump_clock: MockClock) -> None:
    store = FlakyStore(a_store())
    vault, rival = a_vault(store), a_vault(store.inner)
    await rival.write([a_save("e_1")])
    version, write, rested_at_s = 1, store.inner.write, float("-inf")

    async def quicker(writes: list[Append]) -> object:
        nonlocal version, rested_at_s
        if version < 4 or trio.current_time() > rested_at_s:
            await write([Append(replace(writes[0].head, version=version))])
            version, rested_at_s = version + 1, trio.current_time()
        return await write(writes)

    store.inner.write = quicker  # type: ignore[method-assign,assignment]  # as above
    (saved,) = await vault.write([a_save("e_2", version=1)])
    assert saved is not None


# --- what does not open ---------------------------------------------------------------------------------------


async def spoil(store: MemoryStore, change: Callable[[SessionRow], SessionRow], session_id: str = "s_1") -> None:
    found = await store.get(session_id, last=0)
    assert found is not None
    await store.write([Append(change(found.row), retention=1000, traces_kept=1000)])


def flipped(row: SessionRow) -> SessionRow:
    return replace(row, body=row.body[:-1] + bytes([row.body[-1] ^ 1]))


@pytest.mark.parametrize("keys", ["", KEY_1])
async def test_an_unreadable_head_is_put_aside_reported_once_and_the_key_is_free(keys: str) -> None:
    store, metrics = a_store(), Metrics()
    vault = a_vault(store, keys, metrics=metrics)
    await vault.write([a_save("e_1")])
    await spoil(store, flipped)
    with structlog.testing.capture_logs() as logs:
        assert await vault.load(CALLER, last=50) is None
        assert await vault.load(CALLER, last=50) is None
        assert await vault.get("s_1", last=50) is None
        assert await vault.sessions() == []
    assert [line["session_id"] for line in logs if line["event"] == "record_unreadable"] == ["s_1"]
    assert metrics.registry.get_sample_value("offhook_store_unreadable_total") == 3
    fresh = await saved(vault, a_save("e_2", session_id="s_2"))
    assert fresh.record.session_id == "s_2"
    assert ids(await loaded(vault)) == ["e_2"]
    assert await store.get("s_1", last=1) is not None  # nothing was deleted


async def test_a_head_given_another_numbers_key_is_not_shown_to_that_number() -> None:
    """Somebody who can write to the store swaps two rows' keys, or their subjects too: no canary crosses."""
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1"), a_save("e_2", session_id="s_2", number=OTHER)])
    mine, theirs = await store.scan()
    await spoil(store, lambda row: replace(row, key="elsewhere"))
    await spoil(store, lambda row: replace(row, key=mine.key), "s_2")
    assert await vault.load(CALLER, last=50) is None
    await spoil(store, lambda row: replace(row, key=mine.key, subject=mine.subject), "s_2")
    assert await vault.load(CALLER, last=50) is None
    assert await vault.of_number(NUMBER) == [await vault.get("s_1", last=50)]
    assert theirs.session_id == "s_2"


async def test_a_message_moved_from_another_session_is_skipped_and_counted() -> None:
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1"), a_save("e_2", session_id="s_2", number=OTHER)])
    theirs = await store.get("s_2", last=1)
    mine = await store.get("s_1", last=1)
    assert theirs is not None
    assert mine is not None
    await store.write([Append(mine.row, theirs.messages)])
    stored = await loaded(vault)
    assert (ids(stored), stored.unreadable) == (["e_1"], 1)


async def test_a_newer_form_is_unreadable_and_an_unknown_field_is_not() -> None:
    body = RECORDS.encode(a_record())
    assert RECORDS.decode(body.replace(b'"agent"', b'"mood":"fine","agent"')) == a_record()
    with pytest.raises(Unreadable):
        RECORDS.decode(body.replace(b'"v":1', b'"v":2'))
    with pytest.raises(Unreadable):
        RECORDS.decode(body.replace(b'"scope":"caller"', b'"scope":"planet"'))


async def test_a_live_session_repairs_its_own_damaged_head() -> None:
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1")])
    await spoil(store, flipped)
    result = await saved(vault, a_save("e_2", version=1))
    assert result.record == a_record()
    assert ids(await loaded(vault)) == ["e_1", "e_2"]


async def test_a_new_session_takes_the_key_from_an_unreadable_one() -> None:
    store = a_store()
    await a_vault(store, KEY_1).write([a_save("e_1")])
    await spoil(store, flipped)
    vault = a_vault(store, KEY_1)
    result = await saved(vault, a_save("e_2", session_id="s_2"))
    assert result.record.session_id == "s_2"
    assert not result.was_merged


async def test_a_store_sealed_with_keys_that_are_not_there_is_down_and_not_read_as_plain() -> None:
    store = a_store()
    await a_vault(store, KEY_1).write([a_save("e_1")])
    for keys in ("", KEY_2):
        ring = KeyRing.parse(keys)
        vault = a_vault(store, ring)
        with pytest.raises(StoreDown, match="index key"):
            await vault.load(CALLER, last=50)
        with pytest.raises(StoreDown):
            await vault.write([a_save("e_2")])
        with pytest.raises(StoreDown):
            vault.fingerprint(NUMBER)
        ring.replace(f"{KEY_2} {KEY_1}")
        assert ids(await loaded(vault)) == ["e_1"]


# --- one message, one session ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["", KEY_1])
async def test_a_message_is_exchanged_only_for_the_one_that_was_seen(keys: str) -> None:
    vault = a_vault(a_store(), keys)
    was = an_entry("e_1", "tree")
    await vault.write([Save(a_record(), 0, (was, an_entry("e_2")))])
    now = replace(was, text="three", original="tree", edited_at=5.0)
    assert await vault.replace("s_1", now, was)
    assert not await vault.replace("s_1", now, was)
    assert not await vault.replace("s_2", now, was)
    stored = await loaded(vault)
    assert stored.entries[0] == now
    assert ids(stored) == ["e_1", "e_2"]
    assert [hit[1] for hit in (await vault.search("three")).hits] == [now]
    assert (await vault.search("tree")).hits == ()


async def test_a_retired_session_gives_up_its_key_and_its_late_saves_stay_with_it() -> None:
    vault = a_vault(a_store(), KEY_1)
    save = a_save("e_1")
    await vault.write([save])
    assert await vault.retire("s_1")
    assert await vault.load(CALLER, last=50) is None
    await vault.write([a_save("e_2", session_id="s_2", at=110.0)])
    first = await saved(vault, a_save("e_3", version=1))
    second = await saved(vault, Save(first.record, first.version, (an_entry("e_4"),)))
    assert second.record.session_id == "s_1"
    assert [(stored.record.session_id, ids(stored)) for stored in await vault.of_number(NUMBER)] == [
        ("s_1", ["e_1", "e_3", "e_4"]),
        ("s_2", ["e_2"]),
    ]
    assert ids(await loaded(vault)) == ["e_2"]
    assert not await vault.retire("s_3")


async def test_a_session_that_lost_its_key_to_a_newer_one_does_not_take_it_back() -> None:
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1")])
    await spoil(store, lambda row: replace(row, key="elsewhere"))
    await vault.write([a_save("e_2", session_id="s_2")])
    result = await saved(vault, a_save("e_3", version=2))
    assert result.record.session_id == "s_1"
    assert ids(await loaded(vault)) == ["e_2"]


async def test_a_removed_session_is_gone() -> None:
    vault = a_vault(a_store(), KEY_1)
    await vault.write([a_save("e_1")])
    assert await vault.remove("s_1")
    assert not await vault.remove("s_1")
    assert await vault.load(CALLER, last=1) is None


# --- many -----------------------------------------------------------------------------------------------------


async def test_all_of_a_number_is_found_and_erased_and_nothing_of_others() -> None:
    vault = a_vault(a_store(), KEY_1)
    await vault.write([a_save("e_1"), a_save("e_2", session_id="s_2", number=OTHER)])
    await vault.retire("s_1")
    await vault.write([a_save("e_3", session_id="s_3", at=110.0)])
    assert [stored.record.session_id for stored in await vault.of_number(NUMBER)] == ["s_1", "s_3"]
    assert await vault.of_number("") == []
    assert await vault.erase(NUMBER, 200.0) == 2
    assert await vault.of_number(NUMBER) == []
    assert [stored.record.session_id for stored in await vault.sessions()] == ["s_2"]


async def test_pages_of_sessions_are_full_even_where_some_do_not_open() -> None:
    store = a_store()
    vault = a_vault(store)
    await vault.write([a_save("e", session_id=f"s_{i}", number=f"+1555010000{i}") for i in range(8)])
    for i in (0, 1, 2, 5):
        await spoil(store, flipped, f"s_{i}")
    first = await vault.sessions(limit=2)
    assert [stored.record.session_id for stored in first] == ["s_3", "s_4"]
    rest = await vault.sessions("s_4", limit=3)
    assert [stored.record.session_id for stored in rest] == ["s_6", "s_7"]


@pytest.mark.parametrize("keys", ["", KEY_1])
async def test_search_finds_all_words_in_any_case_newest_first(keys: str) -> None:
    vault = a_vault(a_store(), keys)
    texts = ["My CARD is lost", "the card, again: lost!", "a postcard", "lost"]
    for i, text in enumerate(texts):
        number = f"+1555010000{i % 2}"
        entry = an_entry(f"e_{i}", text, at=100.0 + i)
        await vault.write([Save(a_record(f"s_{i % 2}", number=number), i // 2, (entry,))])
    found = await vault.search("Lost card")
    assert [(id_, entry.entry_id) for id_, entry in found.hits] == [("s_1", "e_1"), ("s_0", "e_0")]
    assert found.is_complete
    assert [entry.entry_id for _, entry in (await vault.search("card", session_id="s_0")).hits] == ["e_0"]
    assert [entry.entry_id for _, entry in (await vault.search("lost", limit=1)).hits] == ["e_3"]
    assert (await vault.search("?!")).hits == ()


async def test_search_in_sealed_messages_stops_at_its_bound_and_says_so(autojump_clock: MockClock) -> None:
    store = FlakyStore(a_store())
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e", session_id=f"s_{i}", number=f"+1555010{i:04}", text="lost") for i in range(5)])
    get = store.inner.get

    async def slow(session_id: str, *, last: int) -> object:
        await trio.sleep(2)
        return await get(session_id, last=last)

    store.inner.get = slow  # type: ignore[method-assign,assignment]  # a store that takes its time
    began_at_s = trio.current_time()
    found = await vault.search("lost", limit=50)
    assert not found.is_complete
    assert len(found.hits) == 3
    assert trio.current_time() - began_at_s == 6


async def test_the_audit_is_kept_newest_first_and_sealed() -> None:
    store = a_store()
    vault = a_vault(store, KEY_1)
    await vault.open()
    events = [
        AuditEvent(float(i), "ops", "erase", vault.fingerprint(NUMBER), "done", f"{i} sessions") for i in range(3)
    ]
    for event in events:
        await vault.audit(event)
    assert await vault.audits(2) == [events[2], events[1]]


# --- a store that fails ---------------------------------------------------------------------------------------


def count_of(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"offhook_{name}", labels) or 0.0


async def test_an_operation_that_hangs_is_given_up_at_its_deadline_and_counted(autojump_clock: MockClock) -> None:
    store, metrics = FlakyStore(), Metrics()
    vault = a_vault(store, KEY_1, metrics=metrics)
    await vault.open()
    store.hangs = True
    began_at_s = trio.current_time()
    with pytest.raises(StoreDown) as caught:
        await vault.load(CALLER, last=1)
    assert caught.value.why == "timeout"
    assert trio.current_time() - began_at_s == 5
    assert count_of(metrics, "store_errors_total", backend="memory", op="load", error="timeout") == 1
    assert count_of(metrics, "store_operation_duration_seconds_count", backend="memory", op="load") == 1


async def test_every_operation_of_a_store_that_is_down_says_so_and_the_first_one_opens_it_later() -> None:
    store = FlakyStore()
    store.fails = "refused"
    vault = a_vault(store, KEY_1)
    entry = an_entry("e_1")
    for operation in (
        vault.open(),
        vault.load(CALLER, last=1),
        vault.get("s_1", last=1),
        vault.write([a_save("e_1")]),
        vault.remove("s_1"),
        vault.retire("s_1"),
        vault.replace("s_1", entry, entry),
        vault.of_number(NUMBER),
        vault.search("x"),
        vault.traces("s_1"),
        vault.erase(NUMBER, 1.0),
        vault.sessions(),
        vault.audit(AuditEvent(1.0, "ops", "x", "", "done")),
        vault.audits(),
        vault.purge(),
        vault.reencrypt(),
    ):
        with pytest.raises(StoreDown):
            await operation
    store.fails = ""
    await vault.write([a_save("e_1")])
    assert ids(await loaded(vault)) == ["e_1"]


async def test_a_store_that_comes_back_empty_is_given_its_index_key_again() -> None:
    """Redis without its data: another engine must find what this one writes from now on."""
    store = FlakyStore()
    vault = a_vault(store, KEY_1)
    await vault.write([a_save("e_1")])
    fingerprint = vault.fingerprint(NUMBER)
    store.fails = "refused"
    with pytest.raises(StoreDown):
        await vault.load(CALLER, last=1)
    store.inner, store.fails = MemoryStore(lambda: 0.0), ""
    await vault.write([a_save("e_2")])
    assert vault.fingerprint(NUMBER) == fingerprint
    assert ids(await loaded(a_vault(store, KEY_1))) == ["e_2"]


# --- keys that change -----------------------------------------------------------------------------------------


async def filled(vault: Vault, count: int = 3) -> None:
    for i in range(count):
        save = a_save(f"e_{i}", session_id=f"s_{i}", number=f"+1555010000{i}")
        await vault.write([save])
        await vault.write([replace(save, version=1, entries=(an_entry("second"),), traces=(a_trace(101.0),))])


async def test_a_store_that_was_plain_is_sealed_and_its_index_forgets_the_words() -> None:
    store = a_store()
    await filled(a_vault(store))
    assert b"words of" in await bytes_in(store)
    vault = a_vault(store, KEY_1)
    before = await loaded(vault, "caller:+15550100001")
    seen = []
    done = await vault.reencrypt(lambda done: seen.append(done.sessions))
    assert (done.sessions, done.heads, done.messages, done.traces, done.unreadable) == (3, 3, 6, 6, 0)
    assert seen == [1, 2, 3, 3]
    content = await bytes_in(store)
    assert b"words of" not in content
    assert b"1555010000" not in content
    after = await loaded(vault, "caller:+15550100001")
    assert (after.record, after.entries) == (before.record, before.entries)
    assert [event.at for event in await vault.traces("s_1")] == [100.0, 101.0]
    again = await vault.reencrypt()
    assert (again.heads, again.messages, again.traces) == (0, 0, 0)


async def test_after_a_rotation_the_old_key_can_be_thrown_away() -> None:
    store = a_store()
    ring = KeyRing.parse(KEY_1)
    vault = a_vault(store, ring)
    await filled(vault)
    events = [AuditEvent(float(at), "ops", "x", "", "done") for at in (1, 2)]
    for event in events:
        await vault.audit(event)
    ring.replace(f"{KEY_2} {KEY_1}")
    done = await vault.reencrypt()
    assert done.audits == 2
    alone = a_vault(store, KEY_2)
    assert ids(await loaded(alone, "caller:+15550100002")) == ["e_2", "second"]
    assert len(await alone.traces("s_2")) == 2
    assert await alone.audits() == events[::-1]
    assert (await vault.reencrypt()).audits == 0


async def test_an_entry_of_the_audit_that_no_key_opens_is_counted_and_stays() -> None:
    store = a_store()
    await a_vault(store, KEY_2).open()
    ring = KeyRing.parse(f"{KEY_1} {KEY_2}")
    await a_vault(store, ring).audit(AuditEvent(1.0, "ops", "x", "", "done"))
    before = await store.audit()
    vault = a_vault(store, KEY_2)
    done = await vault.reencrypt()
    assert (done.audits, done.unreadable) == (0, 1)
    assert await store.audit() == before


async def test_reencryption_goes_on_where_a_failing_store_broke_it_off() -> None:
    store = FlakyStore(a_store())
    await filled(a_vault(store))
    vault = a_vault(store, KEY_1)

    def fail(done: object) -> None:
        store.fails = "refused"

    with pytest.raises(StoreDown):
        await vault.reencrypt(fail)
    store.fails = ""
    assert (await vault.reencrypt()).heads == 2


async def test_keys_rotate_and_reencryption_runs_while_sessions_are_written(autojump_clock: MockClock) -> None:
    store, ring = a_store(), KeyRing.parse(KEY_1)
    vault = a_vault(store, ring, retention=1000)
    key = "caller:+15550100001"

    async def write(name: str) -> None:
        record, version = a_record("s_1", number="+15550100001"), 0
        for i in range(60):
            result = await saved(vault, Save(record, version, (an_entry(f"{name}{i}"),), (a_trace(float(i), by=name),)))
            record, version = result.record, result.version

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "a")
        nursery.start_soon(write, "b")
        for keys in (f"{KEY_2} {KEY_1}", f"{KEY_1} {KEY_2}", f"{KEY_2} {KEY_1}"):
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            ring.replace(keys)
            await vault.reencrypt()
    done = await vault.reencrypt()
    assert (done.unreadable, done.busy) == (0, 0)
    alone = a_vault(store, KEY_2, retention=1000)
    stored = await alone.load(key, last=1000)
    assert stored is not None
    for name in "ab":
        assert [id_ for id_ in ids(stored) if id_[0] == name] == [f"{name}{i}" for i in range(60)]
        traced = [event.at for event in await alone.traces("s_1") if event.fields["by"] == name]
        assert traced == [float(i) for i in range(60)]


async def test_a_session_put_aside_for_want_of_its_key_comes_back_with_it() -> None:
    store = a_store()
    ring = KeyRing.parse(KEY_1)
    vault = a_vault(store, ring)
    await filled(vault)
    ring.replace(f"{KEY_2} {KEY_1}")
    await vault.write([a_save("later", session_id="s_9", number="+15550100009")])
    meta = await store.meta("index_key", b"")
    place = "index_key"
    resealed = ring.seal(ring.open(meta, place), place)
    await store.set_meta("index_key", resealed, was=meta)
    poor = a_vault(store, KEY_2)
    for i in range(3):
        assert await poor.load(f"caller:+1555010000{i}", last=1) is None
    await poor.write([a_save("fresh", session_id="s_7", number="+15550100001")])
    assert (await poor.reencrypt()).unreadable == 3 * 5
    done = await vault.reencrypt()
    assert (done.restored, done.aside, done.unreadable) == (2, 1, 0)
    assert ids(await loaded(vault, "caller:+15550100000")) == ["e_0", "second"]
    assert ids(await loaded(vault, "caller:+15550100001")) == ["fresh"]
    assert [stored.record.session_id for stored in await vault.of_number("+15550100001")] == ["s_1", "s_7"]


async def test_a_trace_told_by_two_versions_of_a_session_is_there_in_order() -> None:
    vault = a_vault(a_store())
    await vault.write([Save(a_record(), 0, (), (a_trace(1.0, n=1), a_trace(1.0, n=2)))])
    await vault.write([Save(a_record(), 1, (), (a_trace(1.0, n=2), a_trace(2.0, n=3)))])
    events = await vault.traces("s_1")
    assert [event.fields["n"] for event in events] == [1, 2, 3]
    assert {event.what for event in events} == {TraceWhat.CREATED}
