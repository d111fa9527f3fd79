"""What every record store does, on real servers: the rules of engine.ports.RecordStore, one by one."""

from __future__ import annotations

from dataclasses import replace

import trio

from engine.ports import (
    Append,
    AuditRow,
    Conflict,
    Found,
    Gone,
    MessageRow,
    RecordStore,
    Rekey,
    Remove,
    Replace,
    Write,
    Written,
)
from tests.contract.benches import DAY_S, T0, Bench, Rows, ids, message, trace, written

ANNA = Rows()
BEN = Rows("s2", "k2", "ben", T0 + 1)

HOSTILE = (
    'it\'s "quoted" `twice`',
    "line\nfeed\r\n\ttab",
    "%_%s %(x)s",
    "*?[a-z]\\*",
    "{tag}{{}}",
    "; DROP TABLE sessions; --",
    "Zoë 電話 \U0001f4de \u202e e\u0301",
    "a:b:c::",
    " leading and trailing ",
    "$1 :name ?1",
    "x" * 500,
    "\U0001f4de" * 500,
)
HOSTILE_WORDS = (
    "",
    " ",
    '"',
    "'",
    "''",
    '"unbalanced',
    "AND",
    "NOT",
    "OR OR",
    "NEAR(a b)",
    "a* OR b",
    "text:word",
    "-",
    "--",
    "()",
    ")(",
    "^a + b",
    "a & ! b | (c <-> d):*",
    "\\",
    "%",
    "\0",
    "\ud800",
    "{body}: x",
    "电" * 300,
    "word " * 300,
)


# --- making, finding, adding --------------------------------------------------------------------------------


async def test_a_session_is_found_as_it_was_written_by_its_key_and_by_its_id(store: RecordStore) -> None:
    rows = replace(ANNA, started_at=T0 + 0.1, expires_at=T0 + DAY_S / 3)
    head, first, second = rows.head(body=b"b"), message(1, text="one"), message(2)
    assert await store.write([Append(head, (first, second))]) == [Written(1)]
    expected = Found(replace(head, version=1), (first, second))
    if store.has_full_text:
        assert await store.find("k1", last=10) == await store.get("s1", last=10) == expected
    else:
        kept = Found(replace(head, version=1), (replace(first, text=""), second))
        assert await store.find("k1", last=10) == await store.get("s1", last=10)
        assert await store.find("k1", last=10) in (expected, kept)


async def test_what_was_never_written_is_not_there(store: RecordStore) -> None:
    assert await store.find("k1", last=10) is None
    assert await store.get("s1", last=10) is None
    assert await store.of_subject("anna") == []
    assert await store.traces("s1") == []
    assert await store.scan() == []
    assert await store.search("word") == []
    assert await store.audit() == []
    assert await store.erase("anna", T0) == 0
    assert await store.purge(T0) == 0
    assert await store.write([Replace("s1", message(1), b"body 1"), Rekey("s1", "k2"), Remove("s1")]) == [Gone()] * 3


async def test_an_append_adds_to_what_is_there_and_replaces_the_head(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)))
    changed = replace(ANNA.head(1, b"newer"), last_at=T0 + 5, expires_at=T0 + 2 * DAY_S)
    assert await store.write([Append(changed, (message(2),))]) == [Written(2)]
    found = await store.get("s1", last=10)
    assert found == Found(replace(changed, version=2), (message(1), message(2)))


async def test_an_append_made_from_another_version_writes_nothing(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)), ANNA.append(1))
    before = await store.get("s1", last=10)
    assert before is not None
    for version in (0, 1, 3):
        late = Append(ANNA.head(version, b"late"), (message(9),), (trace(9),))
        assert await store.write([late]) == [Conflict(before.row)]
    assert await store.get("s1", last=10) == before
    assert await store.traces("s1") == []


async def test_an_append_to_what_is_not_there_any_more_is_gone(store: RecordStore) -> None:
    assert await store.write([ANNA.append(1, message(1))]) == [Gone()]
    assert await store.get("s1", last=10) is None


async def test_a_new_session_meets_whoever_has_its_key(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)))
    other = replace(BEN, key="k1")
    assert await store.write([other.append(0, message(2))]) == [Conflict(replace(ANNA.head(), version=1))]
    assert await store.get("s2", last=10) is None
    assert await ids(store, "s1") == ["m1"]


async def test_a_session_cannot_take_anothers_key_by_an_append(store: RecordStore) -> None:
    await written(store, ANNA.append(0), BEN.append(0, message(1)))
    assert await store.write([replace(BEN, key="k1").append(1, message(2))]) == [
        Conflict(replace(ANNA.head(), version=1))
    ]
    assert await ids(store, "s2") == ["m1"]


async def test_an_append_with_another_key_moves_the_session_to_it(store: RecordStore) -> None:
    await written(store, ANNA.append(0), replace(ANNA, key="k9", subject="ben").append(1))
    assert await store.find("k1", last=1) is None
    found = await store.find("k9", last=1)
    assert found is not None
    assert found.row.subject == "ben"
    assert await store.of_subject("anna") == []
    assert [row.session_id for row in await store.of_subject("ben")] == ["s1"]
    assert await store.write([replace(BEN, key="k1").append(0)]) == [Written(1)]


async def test_nothing_to_write_is_written(store: RecordStore) -> None:
    assert await store.write([]) == []


async def test_writes_are_done_in_their_order_and_a_refused_one_stops_no_other(store: RecordStore) -> None:
    outcomes = await store.write(
        [
            ANNA.append(0, message(1)),
            ANNA.append(1, message(2)),
            ANNA.append(0, message(3)),
            Replace("s1", message(2, b"edited"), b"body 2"),
            Rekey("s1", "k9"),
            BEN.append(1, message(4)),
            replace(BEN, key="k1").append(0, message(5)),
            Remove("s1"),
            ANNA.append(3, message(6)),
            replace(ANNA, key="k9").append(0, message(7)),
        ]
    )
    conflict = Conflict(replace(ANNA.head(), version=2))
    made = [
        Written(1),
        Written(2),
        conflict,
        Written(3),
        Written(4),
        Gone(),
        Written(1),
        Written(4),
        Gone(),
        Written(1),
    ]
    assert outcomes == made
    assert await ids(store, "s1") == ["m7"]
    assert await ids(store, "s2") == ["m5"]


async def test_a_hundred_sessions_are_written_at_once(store: RecordStore) -> None:
    many = [Rows(f"s{n:03}", f"k{n}", "anna", T0 + n) for n in range(100)]
    assert await store.write([rows.append(0, message(1)) for rows in many]) == [Written(1)] * 100
    assert [row.session_id for row in await store.of_subject("anna")] == [rows.session_id for rows in many]


# --- messages and traces ------------------------------------------------------------------------------------


async def test_messages_come_in_the_order_in_which_they_were_written(store: RecordStore) -> None:
    late, early = message(1, at=T0 + 99), message(2, at=T0 - 99)
    await written(store, ANNA.append(0, message(10), late), ANNA.append(1, early, message(9)))
    assert await ids(store) == ["m10", "m1", "m2", "m9"]


async def test_only_the_last_messages_are_given_if_so_asked(store: RecordStore) -> None:
    await written(store, ANNA.append(0, *map(message, range(5))))
    assert await ids(store, last=0) == []
    assert await ids(store, last=2) == ["m3", "m4"]
    assert await ids(store, last=9) == ["m0", "m1", "m2", "m3", "m4"]
    found = await store.find("k1", last=1)
    assert found is not None
    assert found.messages == (message(4),)


async def test_the_same_message_written_twice_is_there_once_as_it_was(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1), message(2), message(1, b"again")))
    await written(store, ANNA.append(1, message(1, b"later"), message(3), message(2)))
    found = await store.get("s1", last=10)
    assert found is not None
    assert found.messages == (message(1), message(2), message(3))


async def test_the_same_message_id_in_two_sessions_is_two_messages(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1, b"hers")), BEN.append(0, message(1, b"his")))
    hers, his = await store.get("s1", last=1), await store.get("s2", last=1)
    assert hers is not None
    assert his is not None
    assert (hers.messages[0].body, his.messages[0].body) == (b"hers", b"his")


async def test_older_messages_than_the_retention_are_gone(store: RecordStore) -> None:
    retention = 3
    await written(store, ANNA.append(0, *map(message, range(5)), retention=50))
    await written(store, ANNA.append(1, message(5), retention=retention))
    assert await ids(store) == ["m0", "m1", "m2", "m3", "m4", "m5"][-retention:]
    await written(store, ANNA.append(2, *map(message, range(10, 20)), retention=retention))
    assert await ids(store) == [f"m{n}" for n in range(10, 20)][-retention:]


async def test_the_retention_holds_without_a_new_message_too(store: RecordStore) -> None:
    await written(store, ANNA.append(0, *map(message, range(5))), ANNA.append(1, retention=2))
    assert await ids(store) == ["m3", "m4"]


async def test_traces_come_in_order_and_the_oldest_go(store: RecordStore) -> None:
    first = Append(ANNA.head(), traces=(trace(1), trace(9)), traces_kept=4)
    await written(store, first, Append(ANNA.head(1), traces=(trace(2),), traces_kept=4))
    assert await store.traces("s1") == [trace(1), trace(9), trace(2)]
    await written(store, Append(ANNA.head(2), traces=(trace(3), trace(3)), traces_kept=4))
    assert await store.traces("s1") == [trace(9), trace(2), trace(3), trace(3)]


async def test_a_message_is_exchanged_in_its_place(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1), message(2), message(3)))
    assert await store.write([Replace("s1", message(2, b"edited", at=T0 + 77), b"body 2")]) == [Written(2)]
    found = await store.get("s1", last=10)
    assert found is not None
    assert found.messages == (message(1), message(2, b"edited"), message(3))
    assert found.row == replace(ANNA.head(), version=2)


async def test_a_message_that_has_changed_meanwhile_is_not_exchanged(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)))
    before = await store.get("s1", last=10)
    assert await store.write([Replace("s1", message(1, b"edited"), b"other")]) == [Gone()]
    assert await store.write([Replace("s1", message(2, b"edited"), b"body 2")]) == [Gone()]
    assert await store.get("s1", last=10) == before


# --- keys, removing -----------------------------------------------------------------------------------------


async def test_a_session_gives_up_its_key_for_another_one(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)))
    assert await store.write([Rekey("s1", "old"), replace(BEN, key="k1").append(0)]) == [Written(2), Written(1)]
    old, new = await store.find("old", last=10), await store.find("k1", last=10)
    assert old == Found(replace(ANNA.head(), key="old", version=2), (message(1),))
    assert new is not None
    assert new.row.session_id == "s2"


async def test_a_key_of_another_session_is_not_given_away(store: RecordStore) -> None:
    await written(store, ANNA.append(0), BEN.append(0))
    assert await store.write([Rekey("s1", "k2")]) == [Gone()]
    found = await store.find("k2", last=1)
    assert found is not None
    assert found.row.session_id == "s2"
    assert await store.write([Rekey("s1", "k1")]) == [Written(2)]


async def test_a_removed_session_is_gone_with_all_that_belongs_to_it(store: RecordStore) -> None:
    await written(store, Append(ANNA.head(), (message(1, text="word"),), (trace(1),)), BEN.append(0, message(2)))
    assert await store.write([Remove("s1")]) == [Written(1)]
    assert await store.find("k1", last=1) is None
    assert await store.of_subject("anna") == []
    assert await store.traces("s1") == []
    assert await store.search("word") == []
    assert [row.session_id for row in await store.scan()] == ["s2"]
    assert await store.write([Remove("s1")]) == [Gone()]
    assert await store.write([ANNA.append(0)]) == [Written(1)], "removed is not erased: it may come again"
    assert await ids(store, "s1") == []


# --- time ---------------------------------------------------------------------------------------------------


async def test_from_its_expiry_on_a_session_is_not_there(bench: Bench, store: RecordStore) -> None:
    text = message(1, text="word")
    await written(store, Append(ANNA.head(), (text,), (trace(1),)), replace(BEN, expires_at=T0 + 2 * DAY_S).append(0))
    bench.clock.at = ANNA.expires_at - 0.001
    assert await ids(store) == ["m1"]
    bench.clock.at = ANNA.expires_at
    assert await store.find("k1", last=1) is None
    assert await store.get("s1", last=1) is None
    assert await store.of_subject("anna") == []
    assert await store.traces("s1") == []
    assert await store.search("word") == []
    assert [row.session_id for row in await store.scan(limit=1)] == ["s2"]
    late: list[Write] = [ANNA.append(1), Replace("s1", message(1, b"x"), text.body), Rekey("s1", "k9"), Remove("s1")]
    assert await store.write(late) == [Gone()] * 4


async def test_what_has_expired_gives_its_key_free(bench: Bench, store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)))
    bench.clock.at = ANNA.expires_at
    new = replace(BEN, key="k1", expires_at=T0 + 2 * DAY_S)
    assert await store.write([new.append(0, message(2))]) == [Written(1)]
    found = await store.find("k1", last=10)
    assert found is not None
    assert found.row.session_id == "s2"
    assert await store.purge(bench.clock.at) in (0, 1)  # its bytes may have gone with its key
    assert await ids(store, "s1") == []
    assert await ids(store, "s2") == ["m2"]
    assert await store.find("k1", last=1) is not None


async def test_a_key_that_has_become_free_is_taken_by_a_session_that_is_there(bench: Bench, store: RecordStore) -> None:
    long = T0 + 2 * DAY_S
    await written(store, ANNA.append(0), replace(BEN, expires_at=long).append(0))
    bench.clock.at = ANNA.expires_at
    assert await store.write([Rekey("s2", "k1")]) == [Written(2)]
    await store.purge(bench.clock.at)
    found = await store.find("k1", last=1)
    assert found is not None
    assert found.row.session_id == "s2"


async def test_an_expired_session_made_anew_has_nothing_of_the_old_one(bench: Bench, store: RecordStore) -> None:
    await written(store, Append(ANNA.head(), (message(1, text="word"),), (trace(1),)))
    bench.clock.at = ANNA.expires_at
    again = replace(ANNA, key="k9", subject="ben", expires_at=T0 + 2 * DAY_S)
    assert await store.write([again.append(0, message(2))]) == [Written(1)]
    assert await store.find("k1", last=1) is None
    assert await store.of_subject("anna") == []
    assert [row.session_id for row in await store.of_subject("ben")] == ["s1"]
    assert await store.erase("anna", T0) == 0
    assert await ids(store) == ["m2"]
    assert await store.traces("s1") == []
    assert await store.search("word") == []


async def test_a_write_puts_the_expiry_off_or_forward(bench: Bench, store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1)), replace(ANNA, expires_at=T0 + 3 * DAY_S).append(1))
    bench.clock.at = T0 + 2 * DAY_S
    assert await ids(store) == ["m1"]
    assert await store.find("k1", last=1) is not None
    assert [row.version for row in await store.of_subject("anna")] == [2]
    assert await store.purge(bench.clock.at) == 0
    await written(store, replace(ANNA, expires_at=T0 + 2 * DAY_S + 1).append(2))
    bench.clock.at = T0 + 2 * DAY_S + 1
    assert await ids(store) == []


async def test_a_purge_lets_go_of_what_has_expired_and_of_nothing_else(bench: Bench, store: RecordStore) -> None:
    await written(
        store,
        ANNA.append(0, message(1)),
        Rows("s2", "k2", "anna", expires_at=T0 + DAY_S).append(0, message(1)),
        Rows("s3", "k3", "anna", expires_at=T0 + 2 * DAY_S).append(0, message(1)),
    )
    assert await store.purge(T0) == 0
    bench.clock.at = T0 + DAY_S
    assert await store.purge(bench.clock.at) == 2
    assert await store.purge(bench.clock.at) == 0
    assert [row.session_id for row in await store.scan()] == ["s3"]
    assert await ids(store, "s3") == ["m1"]


# --- subjects and erasing -----------------------------------------------------------------------------------


async def test_the_sessions_of_a_subject_come_oldest_first(store: RecordStore) -> None:
    await written(
        store,
        Rows("s1", "k1", "anna", T0 + 30).append(0),
        Rows("s2", "k2", "anna", T0 + 10).append(0),
        Rows("s3", "k3", "ben", T0 + 20).append(0),
        Rows("s4", "k4", "anna", T0 + 20).append(0),
    )
    assert [row.session_id for row in await store.of_subject("anna")] == ["s2", "s4", "s1"]


async def test_what_is_nobodys_is_not_found_or_erased_as_such(store: RecordStore) -> None:
    await written(store, replace(ANNA, subject="").append(0))
    assert await store.of_subject("") == []
    assert await store.erase("", T0 + 99) == 0
    assert await ids(store) == []
    assert await store.find("k1", last=1) is not None
    assert await store.write([replace(BEN, subject="").append(0)]) == [Written(1)]


async def test_erasing_takes_every_session_of_the_subject_and_leaves_the_others(store: RecordStore) -> None:
    hers = Append(ANNA.head(), (message(1, text="word"),), (trace(1),))
    more = Rows("s3", "k3", "anna", T0 + 99).append(0, message(1, text="word"))
    his = Append(BEN.head(), (message(1, text="word"),), (trace(1),))
    await written(store, hers, more, his)
    assert await store.erase("anna", T0 + 50) == 2
    assert await store.of_subject("anna") == []
    assert await store.get("s1", last=1) is None
    assert await store.find("k3", last=1) is None
    assert await store.traces("s1") == []
    assert [row.session_id for row in await store.scan()] == ["s2"]
    assert await ids(store, "s2") == ["m1"]
    assert await store.traces("s2") == [trace(1)]
    assert [session_id for session_id, _ in await store.search("word")] == (["s2"] if store.has_full_text else [])
    assert await store.erase("anna", T0 + 50) == 0


async def test_what_has_expired_is_not_counted_when_it_is_erased(bench: Bench, store: RecordStore) -> None:
    await written(store, ANNA.append(0), Rows("s3", "k3", "anna", expires_at=T0 + 2 * DAY_S).append(0))
    bench.clock.at = T0 + DAY_S
    assert await store.erase("anna", bench.clock.at) == 1
    assert await store.purge(bench.clock.at) == 0


async def test_a_session_begun_before_its_subject_was_erased_is_never_made_again(store: RecordStore) -> None:
    await written(store, ANNA.append(0))
    await store.erase("anna", T0 + 10)
    for started_at in (T0, T0 + 10):
        assert await store.write([replace(ANNA, started_at=started_at).append(0, message(1))]) == [Gone()]
    assert await store.write([ANNA.append(1, message(1))]) == [Gone()]
    assert await store.write([replace(ANNA, started_at=T0 + 10.001).append(0)]) == [Written(1)]
    assert await store.write([BEN.append(0)]) == [Written(1)]


async def test_a_subject_may_be_erased_before_it_has_a_session(store: RecordStore) -> None:
    assert await store.erase("anna", T0 + 10) == 0
    assert await store.write([ANNA.append(0)]) == [Gone()]


async def test_an_older_erasing_takes_nothing_back_from_a_newer_one(store: RecordStore) -> None:
    await store.erase("anna", T0 + 10)
    await store.erase("anna", T0 + 5)
    assert await store.write([replace(ANNA, started_at=T0 + 7).append(0)]) == [Gone()]


async def test_what_was_erased_does_not_flow_into_the_session_that_has_its_key_now(store: RecordStore) -> None:
    """Gone goes before Conflict: whoever gets a Conflict merges what it has into the other."""
    await store.erase("anna", T0 + 10)
    await written(store, Rows("s2", "k1", "anna", T0 + 20).append(0))
    assert await store.write([ANNA.append(0, message(1))]) == [Gone()]


# --- going through all, searching ---------------------------------------------------------------------------


async def test_a_scan_goes_through_all_sessions_in_pages(store: RecordStore) -> None:
    names = ["a", "B", "Z", "a b", "a-b", "ab", "ä", "é", "z", "電", "\uffee", "\U0001f4de", "\U0001f4de1"]
    await written(store, *(Rows(name, f"k{n}").append(0) for n, name in enumerate(names)))
    seen: list[str] = []
    while page := await store.scan(seen[-1] if seen else "", limit=4):
        assert len(page) <= 4
        seen += [row.session_id for row in page]
    assert seen == sorted(names)


async def test_a_scan_begins_after_a_session_that_is_not_there(store: RecordStore) -> None:
    await written(store, *(Rows(f"s{n}", f"k{n}").append(0) for n in range(4)))
    assert [row.session_id for row in await store.scan("s1x")] == ["s2", "s3"]
    assert await store.scan("s1", limit=1) == [replace(Rows("s2", "k2").head(), version=1)]


async def test_a_search_finds_the_messages_that_hold_all_the_words(store: RecordStore) -> None:
    spoken = message(1, text="My cat wants a Tuesday"), message(2, text="the cat sleeps"), message(3)
    await written(store, ANNA.append(0, *spoken), BEN.append(0, message(4, text="A CAT, on tuesday!")))
    if not store.has_full_text:
        assert await store.search("cat") == []
        return
    found = await store.search("tuesday cat")
    assert found == [("s2", message(4, text="A CAT, on tuesday!")), ("s1", spoken[0])]
    assert [each.message_id for _, each in await store.search("cat")] == ["m4", "m2", "m1"]
    assert [each.message_id for _, each in await store.search("cat", session_id="s1")] == ["m2", "m1"]
    assert [each.message_id for _, each in await store.search("cat", limit=1)] == ["m4"]
    assert await store.search("dog") == []
    assert await store.search("cat dog") == []


async def test_a_search_knows_what_a_message_says_now(store: RecordStore) -> None:
    await written(store, ANNA.append(0, message(1, text="the cat"), message(2, text="the cow")))
    await written(store, Replace("s1", message(1, b"edited", "the dog"), b"body 1"), ANNA.append(2, retention=1))
    assert await store.search("cat") == []
    assert await store.search("dog") == []
    if store.has_full_text:
        assert [each.message_id for _, each in await store.search("cow")] == ["m2"]
        await written(store, Replace("s1", message(2, b"edited", "the horse"), b"body 2"))
        assert await store.search("cow") == []
        assert await store.search("horse") == [("s1", message(2, b"edited", "the horse"))]


async def test_no_search_is_too_odd(store: RecordStore) -> None:
    odd = [message(100 + n, text=words) for n, words in enumerate(HOSTILE_WORDS)]
    await written(store, ANNA.append(0, message(1, text="zebra"), *odd))
    for words in HOSTILE_WORDS:
        assert "m1" not in [each.message_id for _, each in await store.search(words)], ascii(words)
    assert await ids(store) == ["m1", *(each.message_id for each in odd)]


# --- bytes and names ----------------------------------------------------------------------------------------


async def test_bodies_are_opaque(store: RecordStore) -> None:
    bodies = [b"", b"\0", b"\xff\xfe\0\x80", bytes(range(256)), b"%s '\"\\\r\n", b"x" * 200_000]
    for number, body in enumerate(bodies):
        rows = Rows(f"s{number}", f"k{number}")
        sealed = MessageRow("m1", T0, body)
        write = Append(rows.head(body=body), (sealed,), (replace(trace(1), body=body),))
        await written(store, write)
        assert await store.find(rows.key, last=1) == Found(replace(write.head, version=1), (sealed,))
        assert [each.body for each in await store.traces(rows.session_id)] == [body]
        exchange = Replace(rows.session_id, MessageRow("m1", T0, body + b"!"), body)
        assert await store.write([exchange, exchange]) == [Written(2), Gone()]
        await store.add_audit(AuditRow(T0, body))
        assert await store.audit(limit=1) == [AuditRow(T0, body)]
        assert await store.meta(rows.key, body) == body
        assert await store.set_meta(rows.key, b"other", was=body)


async def test_no_name_is_too_odd(store: RecordStore) -> None:
    for name in HOSTILE:
        rows, near = Rows(name, name, name), Rows(name + "x", name + "x", name + "x")
        odd = MessageRow(name, T0, b"body")
        await written(store, rows.append(0, odd), near.append(0, odd))
        expected = Found(replace(rows.head(), version=1), (odd,))
        assert await store.find(name, last=1) == await store.get(name, last=1) == expected, ascii(name)
        assert await store.of_subject(name) == [expected.row]
        assert {row.session_id for row in await store.scan()} == {name, name + "x"}
        assert await store.meta(name, b"value") == b"value"
        await written(store, Replace(name, replace(odd, body=b"new"), b"body"), Rekey(name, name + "2"), rows.append(3))
        assert await store.erase(name, T0) == 1
        assert await store.get(name, last=1) is None
        assert await ids(store, name + "x") == [name]
        await written(store, Remove(name + "x"))


# --- the store's own values ---------------------------------------------------------------------------------


async def test_of_several_who_ask_for_a_value_one_gives_it(bench: Bench, store: RecordStore) -> None:
    answers: list[bytes] = []

    async def ask(store: RecordStore, default: bytes) -> None:
        answers.append(await store.meta("name", default))

    async with bench.open() as second, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(ask, second if number % 2 else store, b"%d" % number)
    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert await store.meta("name", b"later") == answers[0]
    assert await store.meta("other", b"later") == b"later"


async def test_a_value_is_exchanged_if_it_is_still_what_one_thinks(store: RecordStore) -> None:
    assert not await store.set_meta("name", b"new", was=b"old")
    await store.meta("name", b"old")
    assert not await store.set_meta("name", b"new", was=b"older")
    assert await store.set_meta("name", b"new", was=b"old")
    assert await store.meta("name", b"default") == b"new"


async def test_of_several_who_exchange_a_value_one_wins(bench: Bench, store: RecordStore) -> None:
    await store.meta("name", b"old")
    won: list[bytes] = []

    async def exchange(store: RecordStore, value: bytes) -> None:
        if await store.set_meta("name", value, was=b"old"):
            won.append(value)

    async with bench.open() as second, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(exchange, second if number % 2 else store, b"%d" % number)
    assert won == [await store.meta("name", b"")]


async def test_the_audit_comes_newest_first(store: RecordStore) -> None:
    rows = [AuditRow(T0 + at, b"%d" % number) for number, at in enumerate((0, 1, 1, 2))]
    for row in rows:
        await store.add_audit(row)
    assert await store.audit() == rows[::-1]
    assert await store.audit(limit=2) == [rows[3], rows[2]]


async def test_bodies_of_the_audit_are_exchanged_in_their_place(store: RecordStore) -> None:
    rows = [AuditRow(T0 + number, b"\0audit %d" % (number % 3)) for number in range(4)]
    for row in rows:
        await store.add_audit(row)
    changes = {b"\0audit 0": b"new", b"\0audit 1": b"newer \xff", b"audit 2": b"another's"}
    assert await store.exchange_audit(changes) == 3
    assert [row.body for row in await store.audit()] == [b"new", b"\0audit 2", b"newer \xff", b"new"]
    assert [row.at for row in await store.audit()] == [row.at for row in rows[::-1]]
    assert await store.exchange_audit(changes) == 0
    assert await store.exchange_audit({}) == 0


async def test_a_store_knows_when_a_subject_was_erased(store: RecordStore) -> None:
    assert await store.erased_at("anna") == 0.0
    await store.erase("anna", T0 + 0.25)
    await store.erase("anna", T0)
    assert await store.erased_at("anna") == T0 + 0.25
    assert await store.erased_at("ben") == await store.erased_at("") == 0.0


async def test_connections_are_in_use_while_somebody_waits_for_the_store(bench: Bench, store: RecordStore) -> None:
    async def find() -> None:
        await store.find("k1", last=1)

    most = 0
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(find)
        while nursery.child_tasks:
            most = max(most, store.connections_in_use)
            await trio.lowlevel.checkpoint()
    assert (most > 0) == (bench.kind != "memory")
    assert store.connections_in_use == 0


# --- several at once ----------------------------------------------------------------------------------------


async def test_what_one_store_has_written_another_one_sees(bench: Bench, store: RecordStore) -> None:
    async with bench.open() as second:
        await written(store, ANNA.append(0, message(1)))
        assert await ids(second) == ["m1"]
        await written(second, ANNA.append(1, message(2)))
        await store.erase("anna", T0)
        assert await second.write([ANNA.append(2)]) == [Gone()]


async def test_what_was_written_is_there_when_the_store_is_opened_again(bench: Bench) -> None:
    async with bench.open() as store:
        await written(store, ANNA.append(0, message(1)))
        await store.add_audit(AuditRow(T0, b"audit"))
        await store.erase("ben", T0 + 5)
    async with bench.open() as store:
        assert await ids(store) == ["m1"]
        assert await store.audit() == [AuditRow(T0, b"audit")]
        assert await store.write([BEN.append(0)]) == [Gone()]


async def test_two_writers_on_one_session_lose_nothing_and_keep_their_order(bench: Bench, store: RecordStore) -> None:
    count = 100

    async def write_all(store: RecordStore, who: int) -> None:
        version = 0
        for number in range(who, who + count):
            while True:
                [outcome] = await store.write([ANNA.append(version, message(number), retention=1000)])
                if isinstance(outcome, Written):
                    version = outcome.version
                    break
                assert isinstance(outcome, Conflict)
                version = outcome.current.version

    async with bench.open() as second, trio.open_nursery() as nursery:
        nursery.start_soon(write_all, store, 1000)
        nursery.start_soon(write_all, second, 2000)
    there = await ids(store)
    assert [each for each in there if each < "m2000"] == [f"m{1000 + n}" for n in range(count)]
    assert [each for each in there if each >= "m2000"] == [f"m{2000 + n}" for n in range(count)]
    found = await store.get("s1", last=0)
    assert found is not None
    assert found.row.version == 2 * count


async def test_many_at_once_do_not_get_each_others_answers(store: RecordStore) -> None:
    async def write_and_read(number: int) -> None:
        rows = Rows(f"s{number}", f"k{number}", f"of {number}")
        await written(store, rows.append(0, message(number)))
        found = await store.find(f"k{number}", last=5)
        assert found == Found(replace(rows.head(), version=1), (message(number),))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(write_and_read, number)


async def test_an_operation_that_is_cancelled_leaves_the_store_usable(store: RecordStore) -> None:
    """Cancelled after so many turns of the loop, in the middle of a write with others around it."""
    await written(store, ANNA.append(0, message(1)))

    async def cut(number: int, checkpoints: int) -> None:
        rows = Rows(f"s{number}", f"k{number}", "ben")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.write, [rows.append(0, message(number)), rows.append(1, message(0))])
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

    numbers = range(10, 50)
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(cut, number, number % 20)
    assert await ids(store) == ["m1"]
    for number in numbers:
        assert await ids(store, f"s{number}") in ([], [f"m{number}", "m0"]), "all of it or nothing"
    assert await store.write([ANNA.append(1, message(2))]) == [Written(2)]
    assert await ids(store) == ["m1", "m2"]
