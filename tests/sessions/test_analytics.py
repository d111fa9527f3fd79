"""What the sessions of one caller come to (C6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dialogue.history import Entry
from engine.events import Memory, Modality, Role
from engine.sessions.analytics import analyse
from engine.storage.record import Scope, SessionRecord, Stored

CALLER, AGENT = Role.CALLER, Role.AGENT
VOICE, SMS = Modality.VOICE, Modality.SMS


def record(session_id: str = "s_1", **fields: object) -> SessionRecord:
    plain = SessionRecord(session_id, "caller:+15550100000", Scope.CALLER, 100.0, 200.0, "desk", VOICE)
    return replace(plain, **fields)  # type: ignore[arg-type]  # fields by name


def said(text: str, at: float = 100.0, role: Role = CALLER, modality: Modality = VOICE) -> Entry:
    return Entry(f"e_{at}_{text}", "t", at, role, text, "desk", modality)


def satisfaction(*texts: str) -> tuple[float | None, int]:
    entries = tuple(said(text, float(at)) for at, text in enumerate(texts))
    found = analyse([Stored(record(), 1, entries)])
    return found.satisfaction, found.satisfaction_words


def test_the_counts_of_all_sessions_come_together() -> None:
    first = record(calls=2, texts=1, turns=6, message_count=12, responses=5, response_s=4.0, switches=1, bridges=1)
    second = record("s_2", started_at=50.0, last_at=150.0, texts=3, turns=3, message_count=6, responses=3, handovers=2)
    found = analyse([Stored(first, 1, ()), Stored(replace(second, response_s=2.0), 1, ())])
    assert (found.sessions, found.calls, found.texts, found.turns, found.messages) == (2, 2, 4, 9, 18)
    assert found.mean_response_s == 0.75
    assert (found.first_contact_at, found.last_contact_at) == (50.0, 200.0)
    assert (found.switches, found.bridges, found.handovers) == (1, 1, 2)


def test_of_nothing_nothing_is_claimed() -> None:
    found = analyse([])
    assert (found.mean_response_s, found.satisfaction, found.preferred_modality) == (None, None, None)
    assert (found.first_contact_at, found.last_contact_at, found.key_topics) == (None, None, ())


def test_the_preferred_modality_is_that_of_most_messages_and_of_equals_the_latest() -> None:
    entries = (said("a", 1.0), said("b", 2.0, modality=SMS), said("an answer", 3.0, AGENT))
    assert analyse([Stored(record(), 1, entries)]).preferred_modality is SMS
    assert (
        analyse([Stored(record(), 1, (*entries, said("c", 4.0), said("d", 0.5, modality=SMS)))]).preferred_modality
        is VOICE
    )
    assert analyse([Stored(record(), 1, (*entries, said("c", 0.5)))]).preferred_modality is VOICE


def test_topics_come_by_their_number_and_of_two_values_the_newer_sessions_counts() -> None:
    older = record(
        last_at=10.0, topics={"booking": 2, "cake": 1}, memory=Memory(entities={"name": "Ann", "day": "Monday"})
    )
    newer = record("s_2", topics={"cake": 2, "hours": 1}, memory=Memory(entities={"day": "Friday"}))
    for order in ([older, newer], [newer, older]):
        found = analyse([Stored(one, 1, ()) for one in order])
        assert found.key_topics == ("cake", "booking", "hours")
        assert found.entities == {"name": "Ann", "day": "Friday"}


def test_what_a_branch_copied_is_no_contact_of_the_callers() -> None:
    origin = Stored(record(calls=1, turns=2, message_count=4), 1, (said("thanks", 110.0), said("bad", 120.0)))
    branch = record("s_2", started_at=300.0, last_at=400.0, parent="s_1/e", turns=2, message_count=3, texts=1)
    copied = Stored(branch, 1, (said("thanks", 110.0), said("fine", 301.0, modality=SMS), said("ok", 302.0, AGENT)))
    found = analyse([origin, copied])
    assert (found.turns, found.messages, found.satisfaction_words) == (3, 6, 2)
    assert found.last_contact_at == 200.0


@pytest.mark.parametrize(
    ("text", "score", "words"),
    [
        ("Thanks, that was great!", 1.0, 2),
        ("This is terrible, I am angry.", 0.0, 2),
        ("Thank you, but the music was awful", 0.5, 2),
        ("That's not bad at all", 1.0, 1),
        ("I'm not happy", 0.0, 1),
        ("I don\u2019t like it, it isn\u2019t helpful", 0.0, 1),
        ("I cant thank you enough", 1.0, 1),
        ("No thanks", None, 0),
        ("No, it was perfect", 1.0, 1),
        ("Good morning, a table for two please", None, 0),
        ("the badge of Hatebury", None, 0),
        ("", None, 0),
    ],
)
def test_satisfaction_is_estimated_from_words_of_thanks_and_complaint(
    text: str, score: float | None, words: int
) -> None:
    assert satisfaction(text) == (score, words)


def test_the_agents_own_thanks_say_nothing_of_the_caller() -> None:
    assert analyse([Stored(record(), 1, (said("Thank you, great!", role=AGENT),))]).satisfaction is None


@given(st.lists(st.text(max_size=200), max_size=10))
def test_satisfaction_stays_between_0_and_1_whatever_is_said(texts: list[str]) -> None:
    score, words = satisfaction(*texts)
    assert (score is None) is (words == 0)
    assert score is None or 0 <= score <= 1
