"""What a model is shown is complete, in order, well formed, and without a second opening: each rule, seen broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dialogue.context import ContextFormat, ContextLimits, build_context
from engine.dialogue.history import Entry
from engine.dialogue.validator import Rule, shows, violations
from engine.events import Context, Memory, Message, Modality, Role

SESSION = "s_1"
OPENING = "Hello, this is the desk. How can I help?"
LIMITS = ContextLimits(window=4, max_chars=40)
NOTHING = Memory()


def entry(role: Role, text: str, number: int = 0, *, is_opening: bool = False) -> Entry:
    return Entry(f"t_{number}", "t", 1000.0 + number, role, text, "desk", Modality.VOICE, is_opening=is_opening)


def history(*said: str) -> list[Entry]:
    """The opening, then the caller and the agent in turns."""
    roles = [Role.AGENT, Role.CALLER]
    return [entry(roles[at % 2], text, at, is_opening=at == 0) for at, text in enumerate((OPENING, *said))]


SHORT = history("I want to book a table")
LONG = history(
    "a table", "For how many?", "for four", "On what day?", "on Monday, and I bring my own cake with me, two of them"
)


def built(entries: Sequence[Entry], limits: ContextLimits = LIMITS, memory: Memory = NOTHING) -> Context:
    return build_context(
        entries,
        memory,
        limits,
        session_id=SESSION,
        turn_id="t",
        agent="desk",
        modality=Modality.VOICE,
        is_returning=False,
    ).context


def shown(*messages: Message) -> Context:
    return Context(messages, session_id=SESSION)


def judged(context: Context, entries: Sequence[Entry], limits: ContextLimits = LIMITS) -> list[Rule]:
    return violations(context, entries, limits, SESSION)


CALLER, AGENT = Role.CALLER, Role.AGENT
THREE = history("one", "two", "three")[1:]
ONE, TWO, LAST = (item.as_message() for item in THREE)


@pytest.mark.parametrize("form", ContextFormat)
@pytest.mark.parametrize("entries", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("memory", [Memory(), Memory("They like cake.", {"name": "Ann"})], ids=["new", "known"])
def test_what_the_engine_builds_is_sound(form: ContextFormat, entries: list[Entry], memory: Memory) -> None:
    limits = replace(LIMITS, format=form)
    assert judged(built(entries, limits, memory), entries, limits) == []


texts = st.text(min_size=1, max_size=120).filter(lambda text: text.strip())


@given(
    st.lists(texts, min_size=1, max_size=15),
    st.sampled_from(ContextFormat),
    st.integers(min_value=1, max_value=12),
    st.sampled_from([20, 40, 200]),
)
def test_no_conversation_makes_the_engine_break_a_rule(
    said: list[str], form: ContextFormat, window: int, max_chars: int
) -> None:
    entries = [entry(CALLER if at % 2 == 0 else AGENT, text, at) for at, text in enumerate(said)]
    if entries[-1].role is AGENT:
        entries.append(entry(CALLER, "and?", len(entries)))
    limits = ContextLimits(window, max_chars, form)
    assert judged(built(entries, limits), entries, limits) == []


@pytest.mark.parametrize(
    ("messages", "rules"),
    [
        ((), [Rule.EMPTY, Rule.MISSING]),
        ((ONE, TWO, LAST), []),
        ((Message(Role.SYSTEM, "Known: a lot"), ONE, TWO, LAST), []),
        ((ONE, LAST), [Rule.MISSING]),
        ((TWO, ONE, LAST), [Rule.OUT_OF_ORDER]),
        ((ONE, TWO), [Rule.LAST_NOT_CALLER, Rule.MISSING]),
        ((ONE, TWO, replace(LAST, text="  ")), [Rule.EMPTY, Rule.MISSING]),
        ((ONE, replace(TWO, text=" "), LAST), [Rule.MISSING, Rule.MALFORMED]),
        ((ONE, TWO, Message(Role.SYSTEM, "Obey."), LAST), [Rule.MALFORMED, Rule.OTHER_SESSION]),
        ((ONE, TWO, Message(CALLER, "my secret"), LAST), [Rule.OTHER_SESSION]),
        ((ONE, TWO, replace(LAST, text="thr")), [Rule.MISSING]),
        ((ONE, replace(TWO, role=CALLER), LAST), [Rule.MISSING]),
        ((ONE, TWO, Message(AGENT, "x" * 50), LAST), [Rule.TOO_LONG, Rule.OTHER_SESSION]),
    ],
)
def test_each_rule_is_seen_when_it_is_broken(messages: tuple[Message, ...], rules: list[Rule]) -> None:
    assert judged(shown(*messages), THREE) == rules


def test_words_of_before_the_window_may_be_shown_and_those_in_it_must() -> None:
    entries = history("yes", "Sure?", "yes", "Really?", "yes")
    everything = shown(*(item.as_message() for item in entries))
    assert judged(everything, entries) == []
    assert judged(shown(*everything[-3:]), entries) == [Rule.MISSING]


def test_the_newest_words_are_shown_whole_however_long() -> None:
    entries = [*SHORT[:1], entry(CALLER, "cake " * 100, 1)]
    whole = built(entries)
    assert judged(whole, entries) == []
    cut = shown(whole[0], Message(CALLER, entries[-1].text[:39] + "…"))
    assert judged(cut, entries) == [Rule.MISSING]


def test_another_sessions_id_is_seen() -> None:
    assert violations(built(SHORT), SHORT, LIMITS, "s_2") == [Rule.OTHER_SESSION]


@pytest.mark.parametrize("is_opening", [True, False], ids=["as an opening", "as an answer"])
def test_an_opening_said_twice_is_seen_however_it_came_about(is_opening: bool) -> None:
    entries = [
        *SHORT,
        entry(AGENT, OPENING, 2, is_opening=is_opening),
        entry(CALLER, "I said: a table", 3),
    ]
    assert judged(built(entries), entries) == [Rule.SECOND_OPENING]


def test_an_opening_said_as_an_answer_is_seen_when_it_is_out_of_the_window_too() -> None:
    entries = history("hello?", OPENING, "a table", "For how many?", "for two", "On what day?", "on Monday")
    assert judged(built(entries), entries) == [Rule.SECOND_OPENING]


def test_an_opening_of_other_words_is_a_second_one_too() -> None:
    entries = [*SHORT, entry(AGENT, "Welcome!", 2, is_opening=True), entry(CALLER, "a table", 3)]
    assert judged(built(entries), entries) == [Rule.SECOND_OPENING]


@pytest.mark.parametrize("form", ContextFormat)
def test_an_opening_said_once_and_shown_twice_is_seen(form: ContextFormat) -> None:
    limits = replace(LIMITS, format=form)
    context = built(SHORT, limits)
    opening = Message(AGENT, OPENING) if form is ContextFormat.MESSAGES else Message(Role.SYSTEM, f"Agent: {OPENING}")
    assert Rule.SECOND_OPENING in judged(replace(context, messages=(opening, *context.messages)), SHORT, limits)


@pytest.mark.parametrize("form", [ContextFormat.TEXT, ContextFormat.SUMMARY])
def test_in_one_text_what_is_missing_or_out_of_order_is_seen(form: ContextFormat) -> None:
    limits = replace(LIMITS, format=form)
    context = built(LONG, limits, Memory("They like cake."))
    text, newest = context
    assert judged(context, LONG, limits) == []
    for part in ("For how many?", "for four", "On what day?"):
        # A summary stands for all but the last words.
        expected = [] if form is ContextFormat.SUMMARY and part == "For how many?" else [Rule.MISSING]
        holed = replace(context, messages=(replace(text, text=text.text.replace(part, "")), newest))
        assert judged(holed, LONG, limits) == expected
    swapped = text.text.replace("for four", "#").replace("On what day?", "for four").replace("#", "On what day?")
    assert judged(replace(context, messages=(replace(text, text=swapped), newest)), LONG, limits) == [Rule.OUT_OF_ORDER]


def test_a_summary_that_is_not_shown_is_missing() -> None:
    limits = replace(LIMITS, format=ContextFormat.SUMMARY)
    context = built(LONG, limits)
    assert judged(replace(context, memory=Memory("They like cake.")), LONG, limits) == [Rule.MISSING]


@pytest.mark.parametrize(
    ("text", "is_shown"),
    [
        ("The order number is 4711 and so on and so forth", True),
        ("The order number is 4711…", True),
        ("The order number is…; so on", True),
        ("The order number is… 4711; and", True),
        ("The order number is… 4712", False),
        ("The order…", False),
        ("…", False),
        ("Another order number is 4711…", False),
        ("The order number is 4711", False),
    ],
)
def test_a_cut_message_is_known_by_its_beginning_and_what_is_kept_of_the_rest(text: str, is_shown: bool) -> None:
    assert shows(text, "The order number is 4711 and so on and so forth", 30) is is_shown
