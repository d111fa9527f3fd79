"""What a session's trace tells: the timeline, the requests, and whether what was shown was sound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dialogue.context import ContextFormat, ContextLimits, build_context
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.dialogue.validator import Rule, violations
from engine.events import Memory, Modality, Role
from engine.sessions.tracing import SETTLED_S, WIDTH, Report, as_dict, as_text, examine
from engine.storage.record import Scope, SessionRecord, Stored

SESSION = "s_1"
OPENING = "Hello, this is the desk."
LIMITS = ContextLimits(window=4, max_chars=40)
AT = 1_700_000_000.0
VOICE = Modality.VOICE


class Told:
    """A session as it goes on: turns that are stored, and the trace of what its model was shown."""

    def __init__(self, limits: ContextLimits = LIMITS) -> None:
        self.limits = limits
        self.at = AT
        self.entries: list[Entry] = []
        self.traces: list[TraceEvent] = []
        self.trace(TraceWhat.CREATED, scope="caller", modality="voice", agent="desk")

    def trace(self, what: TraceWhat, **fields: object) -> None:
        self.traces.append(TraceEvent(self.at, what, {"session_id": SESSION, **fields}))

    def says(self, role: Role, text: str, turn_id: str, *, is_opening: bool = False) -> Entry:
        self.at += 1
        return Entry(f"{turn_id}.{role}", turn_id, self.at, role, text, "desk", VOICE, is_opening=is_opening)

    def opens(self, text: str = OPENING, *, is_opening: bool = True) -> None:
        self.trace(TraceWhat.OPENING_SAID, agent="desk", text=text, call_id="CA1")
        self.entries.append(self.says(Role.AGENT, text, f"t_{len(self.entries)}", is_opening=is_opening))

    def turn(self, words: str, answer: str = "Fine.", *, drops: Sequence[str] = (), session_id: str = SESSION) -> None:
        """``drops``: messages that the model is not shown."""
        turn_id = f"t_{len(self.entries)}"
        asked = self.says(Role.CALLER, words, turn_id)
        entries = (*self.entries, asked)
        context = build_context(
            entries,
            Memory(),
            self.limits,
            session_id=session_id,
            turn_id=turn_id,
            agent="desk",
            modality=VOICE,
            is_returning=False,
        ).context
        shown = [[str(message.role), message.text] for message in context if message.text not in drops]
        broken = [str(rule) for rule in violations(context, entries, self.limits, session_id)]
        self.trace(
            TraceWhat.MODEL_ASKED,
            turn_id=turn_id,
            agent="desk",
            vendor="scripted",
            modality="voice",
            call_id="CA1",
            shown=shown,
            violations=broken,
            knew=list(dict.fromkeys(entry.turn_id for entry in entries[-self.limits.window :])),
        )
        if session_id != SESSION:
            self.traces[-1].fields["session_id"] = session_id
        self.at += 0.5
        self.trace(
            TraceWhat.MODEL_ANSWERED,
            turn_id=turn_id,
            agent="desk",
            vendor="scripted",
            text=answer,
            status="ok",
            ms=12.5,
        )
        self.entries += [asked, self.says(Role.AGENT, answer, turn_id)]

    def stored(self, retention: int = 50) -> Stored:
        record = SessionRecord(SESSION, "caller:+1", Scope.CALLER, AT, self.at, "desk", VOICE)
        return Stored(record, 1, tuple(self.entries[-retention:]))

    def report(self) -> Report:
        return examine(self.stored(), self.traces, self.limits)


def a_good_one(form: ContextFormat = ContextFormat.MESSAGES) -> Told:
    told = Told(replace(LIMITS, format=form))
    told.opens()
    for at in range(6):
        told.turn(f"question {at} " + "and more of it " * at, f"answer {at}")
    return told


@pytest.mark.parametrize("form", ContextFormat)
def test_a_session_in_which_all_went_well_is_ok(form: ContextFormat) -> None:
    report = a_good_one(form).report()
    assert report.problems == ()
    assert (report.is_ok, report.turns, report.created, report.reused) == (True, 6, 1, 0)
    assert (report.requests_by_agent, report.requests_by_vendor) == ({"desk": 6}, {"scripted": 6})
    assert report.session_ids == (SESSION,)
    last = report.exchanges[-1]
    assert (last.answer, last.status, last.ms) == ("answer 5", "ok", 12.5)
    assert last.shown[-1] == ("user", "question 5 " + "and more of it " * 5)


@pytest.mark.parametrize("form", [ContextFormat.MESSAGES, ContextFormat.TEXT])
def test_what_a_model_was_not_shown_is_missed_in_its_turn(form: ContextFormat) -> None:
    told = Told(replace(LIMITS, format=form))
    told.opens()
    told.turn("one")
    told.turn("two", drops=["one"])
    if form is ContextFormat.TEXT:
        shown = told.traces[-2].fields["shown"]
        assert isinstance(shown, list)
        shown[0][1] = shown[0][1].replace("Caller: one", "")
    told.turn("three")
    assert [(problem.turn_id, problem.rule) for problem in told.report().problems] == [("t_3", Rule.MISSING)]


def test_a_model_that_is_shown_the_last_question_only_is_found_out_on_every_turn() -> None:
    told = Told()
    said: list[str] = []
    for at in range(4):
        told.turn(f"question {at}", f"answer {at}", drops=tuple(said))
        said += [f"question {at}", f"answer {at}"]
    rules = [(problem.turn_id, problem.rule) for problem in told.report().problems]
    assert rules == [(f"t_{at}", Rule.MISSING) for at in (2, 4, 6)]


def test_a_rule_found_broken_when_it_happened_stays_found() -> None:
    told = a_good_one()
    violated = told.traces[2].fields["violations"]
    assert isinstance(violated, list)
    violated.append("too_long")
    assert [(problem.turn_id, problem.rule) for problem in told.report().problems] == [("t_1", "too_long")]


def test_messages_that_are_no_longer_retained_are_not_missed() -> None:
    told = a_good_one()
    assert examine(told.stored(retention=3), told.traces, told.limits).problems == ()


def test_a_message_edited_later_was_shown_as_it_was() -> None:
    told = a_good_one()
    entry = told.entries[1]
    told.entries[1] = replace(entry, text="something else", original=entry.text, edited_at=told.at + 1)
    assert told.report().is_ok
    told.entries[1] = replace(entry, text="something else", original=entry.text, edited_at=entry.at)
    assert not told.report().is_ok


def test_a_turn_of_another_channel_that_was_not_over_yet_is_not_missed() -> None:
    told = a_good_one()
    late = replace(told.entries[-1], entry_id="x.1", turn_id="x", at=told.at + 60, text="over at last")
    early = replace(told.entries[-2], entry_id="x.0", turn_id="x", at=AT + 3)
    told.entries[3:3] = [early, late]
    assert told.report().is_ok


def elsewhere(told: Told, at: float, call_id: str = "CA2") -> list[Entry]:
    """A turn that was over at this time."""
    return [
        replace(entry, entry_id=f"x.{entry.role}", turn_id="x", at=at, text=f"x {entry.role}", call_id=call_id)
        for entry in told.entries[1:3]
    ]


@pytest.mark.parametrize(
    ("at", "call_id", "is_missed"),
    [
        (AT + 3, "CA2", False),  # another process held that call
        (AT + 3, "", False),  # and a text
        (AT - SETTLED_S - 1, "CA2", True),  # but this was stored long before
        (AT + 3, "CA1", True),  # and this is of the same call
    ],
)
def test_a_turn_that_another_process_held_is_not_missed(at: float, call_id: str, is_missed: bool) -> None:
    told = a_good_one()
    told.at += 2 * SETTLED_S  # a long call: how it began is what counts
    told.turn("are you there?")
    told.entries[3:3] = elsewhere(told, at, call_id)
    missed = {problem.turn_id for problem in told.report().problems if problem.rule == Rule.MISSING}
    assert bool(missed) == is_missed


def test_a_turn_of_another_call_that_was_known_is_missed() -> None:
    told = a_good_one()
    told.entries[3:3] = elsewhere(told, AT + 3)
    (asked,) = [event for event in told.traces if event.fields.get("turn_id") == "t_3" and "knew" in event.fields]
    knew = asked.fields["knew"]
    assert isinstance(knew, list)
    knew.append("x")
    assert [(problem.turn_id, problem.rule) for problem in told.report().problems] == [("t_3", Rule.MISSING)]


def test_without_a_note_of_what_was_known_every_turn_is_missed() -> None:
    """As traces were written once."""
    told = a_good_one()
    told.entries[3:3] = elsewhere(told, AT + 3)
    for event in told.traces:
        event.fields.pop("knew", None)
    assert not told.report().is_ok


def test_a_request_under_another_id_is_named() -> None:
    told = a_good_one()
    told.turn("who am I?", session_id="s_2")
    report = told.report()
    assert report.session_ids == (SESSION, "s_2")
    assert {(problem.turn_id, problem.rule) for problem in report.problems} == {
        (report.exchanges[-1].turn_id, Rule.OTHER_SESSION),
        ("", Rule.OTHER_SESSION),
    }


@pytest.mark.parametrize("how", ["as an opening", "unmarked", "by the model"])
def test_an_opening_said_again_is_found_however_it_came_about(how: str) -> None:
    told = a_good_one()
    if how == "by the model":
        told.turn("hello?", OPENING)
    else:
        told.opens(is_opening=how == "as an opening")
    assert Rule.SECOND_OPENING in {problem.rule for problem in told.report().problems}


def test_a_welcome_back_in_other_words_is_no_second_opening() -> None:
    told = a_good_one()
    for _ in range(2):
        told.opens("Welcome back.", is_opening=False)
    assert told.report().is_ok
    # Also when nothing of the beginning is kept any more.
    told.traces = told.traces[-1:] * 2
    told.entries = told.entries[-3:]
    assert told.report().is_ok


@given(
    st.dictionaries(
        st.sampled_from(["session_id", "turn_id", "agent", "shown", "violations", "text", "ms", "status"]),
        st.recursive(st.none() | st.text(max_size=9) | st.integers(), lambda inner: st.lists(inner, max_size=3)),
    ),
    st.sampled_from(TraceWhat),
)
@settings(max_examples=40)
def test_a_trace_of_any_content_makes_a_report(fields: dict[str, object], what: TraceWhat) -> None:
    told = a_good_one()
    told.traces += [TraceEvent(told.at, what, fields), TraceEvent(told.at, TraceWhat.MODEL_ANSWERED, fields)]
    report = told.report()
    json.dumps(as_dict(report))
    as_text(report)


def test_the_report_is_read_on_a_terminal_of_100_columns() -> None:
    told = a_good_one()
    told.turn("\x1b[2Jwipe \u202e" + "word " * 300 + "x" * 300, drops=["answer 5"])
    text = as_text(told.report())
    lines = text.split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "22:13:20.000 session_created    scope=caller modality=voice agent=desk" in lines
    assert lines[-3:] == ["not ok: 1 problems", "  turn t_13: missing", ""]
    assert "ok: 6 turns" in as_text(a_good_one().report())


def test_the_report_is_json_too() -> None:
    document = json.loads(json.dumps(as_dict(a_good_one().report())))
    assert (document["is_ok"], document["turns"], document["session_id"]) == (True, 6, SESSION)
    assert document["exchanges"][0]["shown"] == [["assistant", OPENING], ["user", "question 0 "]]
    assert document["moments"][0]["what"] == "session_created"
