"""What the scripted agent remembers over calls and texts; models live as long as the engine lets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.scripted.model import ScriptedModel
from adapters.scripted.script import Script, load_script
from adapters.scripted.state import LOG_LENGTH, State, dump, load
from engine.events import Context, HangUp, Memory, MemoryItem, MemoryKind, Message, Modality, Noted, Role
from tests.adapters.scripted.session import Session

HOURS = "We are open Monday to Friday, from nine in the morning until five in the afternoon."
WHEN = "And at what time?"
WHICH_DAY = "Which day would suit you?"
WHICH_NAME = "What name shall I put it under?"
UNKNOWN = "I do not know that yet."
ADA = "A check-up on Tuesday, November 24th at 10:30 AM, for Ada Lovelace. Shall I book it?"
BOOKED = "A check-up is booked for Tuesday, November 24th at 10:30 AM, for Ada Lovelace."


@pytest.fixture(scope="module")
def desk() -> Script:
    return load_script("appointment_desk")


@pytest.fixture
def session(desk: Script) -> Session:
    return Session(desk)


def book(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up next Tuesday at 10:30")
    assert call.say("Ada Lovelace") == ADA
    call.say("Yes.")


# --- what is noted ------------------------------------------------------------------------------------------


def test_what_was_said_in_a_form_is_noted_at_once(session: Session) -> None:
    session.call().say("Book a check-up next Tuesday")
    assert session.memory.entities == {"service": "check-up", "day": "Tuesday, November 24th"}
    assert session.memory.items == ()


def test_what_is_done_is_a_fact(session: Session) -> None:
    book(session)
    assert session.memory.items == (MemoryItem(MemoryKind.FACT, BOOKED),)
    assert session.memory.entities["name"] == "Ada Lovelace"


def test_what_is_not_wanted_any_more_is_forgotten(session: Session) -> None:
    book(session)
    call = session.call()
    call.say("Book a cleaning on Friday")
    assert session.memory.entities["service"] == "cleaning"
    call.say("never mind")
    assert (session.memory.entities["service"], session.memory.entities["time"]) == ("check-up", "10:30 AM")
    call.say("Cancel my appointment")
    call.say("yes")
    assert session.memory.entities == {"name": "Ada Lovelace"}
    assert call.say("When is my appointment?") == UNKNOWN


def test_a_booking_answered_before_it_was_heard_is_noted_once(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up next Tuesday at 10:30")
    call.say("Ada Lovelace")
    call.say("Yes", hears=False)
    assert session.memory.items == ()
    call.say("please")
    assert len(session.memory.items) == 1
    assert [done.intent for done in call.models["desk"].completed] == ["book"]


def test_a_turn_like_the_last_ones_is_a_turn_of_its_own(session: Session) -> None:
    """The window shows the same again and again; the turn's id tells that it is not asked twice."""
    model = ScriptedModel(session.scripts["desk"])

    def answer(turn_id: str) -> str:
        parts = model.reply(Context((Message(Role.CALLER, "Brrm."),), agent="desk", turn_id=turn_id))
        return next(part for part in parts if isinstance(part, str))

    assert [answer(turn_id)[:5] for turn_id in ("t1", "t1", "t1", "t2", "t3")] == ["Sorry"] * 4 + ["I am "]


def test_notes_come_before_the_words_and_the_action_last(session: Session) -> None:
    context = Context((Message(Role.CALLER, "goodbye"),), agent="desk", turn_id="t1")
    parts = ScriptedModel(session.scripts["desk"]).reply(context)
    assert [type(part) for part in parts] == [Noted, str, HangUp]


# --- the next call, and texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["Yes.", "go on", "Continue, please", "Where were we?", "Book an appointment"])
def test_an_unfinished_form_goes_on_in_the_next_call(session: Session, said: str) -> None:
    session.call().say("Book a check-up next Tuesday")
    assert session.call().say(said).endswith(WHEN)


@pytest.mark.parametrize("said", ["Ten thirty.", "Book it at ten thirty", "at 10:30 please"])
@pytest.mark.parametrize("by_text", [True, False])
def test_the_answer_is_taken_in_the_next_call_and_by_text(session: Session, said: str, by_text: bool) -> None:
    session.call().say("Book a check-up next Tuesday")
    say = session.text if by_text else session.call().say
    assert say(said) == WHICH_NAME
    assert session.text("Ada Lovelace") == ADA
    assert session.text("yes").startswith("It is booked: Tuesday, November 24th at 10:30 AM.")


def test_a_call_goes_on_with_what_was_begun_by_text(session: Session) -> None:
    assert session.text("book a check-up").startswith(WHICH_DAY)
    assert session.text("next tuesday", Modality.TEXT) == WHEN
    assert session.call().say("ten thirty") == WHICH_NAME


def test_the_question_that_is_open_is_asked_for_and_asked(session: Session) -> None:
    session.call().say("Book a check-up next Tuesday")
    assert session.text("and at what time?") == f"{UNKNOWN} {WHEN}"
    assert session.text("ten thirty") == WHICH_NAME


def test_a_question_or_a_greeting_first_leaves_the_form_waiting(session: Session) -> None:
    session.call().say("Book a check-up next Tuesday")
    call = session.call()
    assert call.say("Hello") == "Hello! How can I help you?"
    assert call.say("What are your opening hours?") == HOURS
    assert call.say("Flumph.").startswith("Sorry, I did not get that.")
    assert call.say("Ten thirty") == WHICH_NAME


def test_another_errand_starts_anew(session: Session) -> None:
    session.call().say("Book a check-up next Tuesday")
    call = session.call()
    assert call.say("I want to cancel my appointment") == "On which day is the appointment?"
    assert call.say("Friday").startswith("And what is your name")
    assert session.memory.entities == {"day": "Friday, November 27th"}


def test_free_text_is_no_answer_to_what_was_asked_in_another_call(session: Session) -> None:
    call = session.call()
    for said in ("Can I speak to a person?", "Ann", "555 1234"):
        call.say(said)
    call = session.call()
    assert call.say("Flumph brrm").startswith("Sorry, I did not get that.")
    assert call.say("go on") == "Let us go on. And what is it about?"
    assert call.say("My invoice.").startswith("Thank you. Somebody will call you back")


@pytest.mark.parametrize("said", ["Start over", "forget that", "Never mind."])
def test_a_form_is_given_up(session: Session, said: str) -> None:
    session.call().say("Book a check-up next Tuesday")
    assert session.call().say(said).startswith("All right, I have not booked anything.")
    assert session.memory.entities == {}
    assert session.text("Start over") == "How can I help you?"
    assert session.text("Tuesday").startswith("Sorry")


def test_a_form_is_left_at_goodbye_and_goes_on_later(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up next Tuesday")
    call.say("I have to go, bye")
    assert call.is_over
    assert session.call().say("ten thirty") == WHICH_NAME


def test_a_no_in_a_new_call_does_not_answer_the_last_ones_offer(session: Session) -> None:
    session.call().say("What are your opening hours?")
    call = session.call()
    assert call.say("Nope.").startswith("Sorry")
    assert not call.is_over
    other = Session(session.scripts)
    other.text("What are your opening hours?")
    assert other.text("Nope.").startswith("Thank you. Goodbye.")


def test_a_text_in_mid_call_is_known_to_the_call(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up")
    assert session.text("Next Tuesday") == WHEN
    assert call.say("Ten thirty") == WHICH_NAME


def test_a_text_between_two_halves_of_a_turn_is_not_lost(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up", hears=False)
    session.text("What are your opening hours?")
    assert call.say("next Tuesday") == WHEN
    assert HOURS in call.say("What did we talk about?")


def test_whoever_is_erased_in_mid_call_is_forgotten(session: Session) -> None:
    book(session)
    call = session.call()
    assert call.say("what is my name") == "Your name is Ada Lovelace."
    session.memory, session.entries = Memory(), []
    assert call.say("what is my name") == UNKNOWN
    assert not session.memory.entities


def test_whoever_is_erased_between_two_halves_of_a_turn_is_forgotten(session: Session) -> None:
    book(session)
    session.entries = []
    call = session.call()
    call.say("Hello", hears=False)
    session.memory = Memory()
    assert call.say("what is my name") == UNKNOWN


# --- again, history, recall ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["Try again.", "do that again", "Once more, please", "Could you try that again?", "again"]
)
@pytest.mark.parametrize("by_text", [True, False])
def test_what_was_asked_for_last_is_done_again(session: Session, said: str, by_text: bool) -> None:
    call = session.call()
    for earlier in ("What are your opening hours?", "Thank you", "Goodbye"):
        call.say(earlier)
    assert (session.text if by_text else session.call().say)(said) == HOURS


def test_an_open_form_is_not_begun_again(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up next Tuesday")
    assert call.say("try again") == f"Let us go on. {WHEN}"
    call.say("What are your opening hours?")
    assert call.say("try again") == f"{HOURS} {WHEN}"
    session.text("Book a check-up")
    assert session.text("try again") == f"Let us go on. {WHEN}"


def test_an_errand_that_is_done_is_begun_again_and_nothing_done_without_a_yes(session: Session) -> None:
    book(session)
    assert session.text("try again").startswith("A check-up on Tuesday, November 24th at 10:30 AM, for Ada Lovelace.")
    assert len(session.memory.items) == 1


def test_again_is_found_in_the_messages_where_nothing_is_noted(session: Session) -> None:
    session.call().say("What are your opening hours?")
    session.memory = Memory()
    assert session.text("try again") == HOURS
    assert Session(session.scripts).text("try again") == "There is nothing yet that I could do again."


@pytest.mark.parametrize(
    "said", ["Look at the chat history", "What did we talk about?", "what did I say", "Check our history, please"]
)
def test_the_history_is_told(session: Session, said: str) -> None:
    assert session.text(said) == "We have not talked about anything yet."
    session.call().say("What are your opening hours?")
    book(session)
    told = session.text(said)
    assert told == (
        f"This is what we talked about. You said: What are your opening hours? {HOURS} "
        f"You said: Book a check-up next Tuesday at 10:30. {BOOKED}"
    )
    assert session.call().say(said) == told


def test_the_history_tells_what_is_not_finished_and_is_short(session: Session) -> None:
    for number in range(9):
        session.text(f"What are your opening hours on the {number + 1} of May, if I may ask, and what do you charge?")
    session.text("Book a check-up")
    told = session.text("what did we talk about")
    assert told.endswith(f"You said: Book a check-up. That is not finished yet. {WHICH_DAY}")
    assert len(told) < 550


def test_the_history_is_found_in_the_messages_too(session: Session) -> None:
    session.text("I have a red bicycle")
    assert session.text("what did I say") == "This is what we talked about. You said: I have a red bicycle."


def test_what_is_known_is_recalled_everywhere(session: Session) -> None:
    book(session)
    for say in (session.text, session.call().say):
        assert say("What is my name?") == "Your name is Ada Lovelace."
        assert say("When is my appointment?") == "Your appointment is on Tuesday, November 24th at 10:30 AM."
        assert say("what do you know about me").startswith("This is what I know: day: Tuesday")


def test_what_is_known_only_to_the_memory_is_recalled(session: Session) -> None:
    """Another agent has noted it, or a summary."""
    session.memory = Memory(entities={"name": "Bob"}, items=(MemoryItem(MemoryKind.FACT, "Bob likes tea"),))
    assert session.text("who am I") == "Your name is Bob."
    assert session.text("what do you remember") == "This is what I know: name: Bob. Bob likes tea."


def test_a_value_of_an_open_form_is_no_promise(session: Session) -> None:
    call = session.call()
    call.say("Book a check-up next Tuesday at 10:30")
    assert call.say("When is my appointment?") == f"So far I have noted: Tuesday, November 24th. {WHICH_NAME}"
    assert call.say("What is my name?") == f"{UNKNOWN} {WHICH_NAME}"


def test_a_name_that_is_known_shows_in_the_confirmation(session: Session) -> None:
    book(session)
    call = session.call()
    assert call.say("Book a cleaning on Friday at nine").endswith("for Ada Lovelace. Shall I book it?")
    assert "for Bob. Shall" in call.say("No, it's Bob")


def test_another_name_in_a_form_that_is_given_up_changes_nothing(session: Session) -> None:
    book(session)
    for said in ("Book a cleaning on Friday at nine", "My name is Bob", "never mind"):
        session.text(said)
    assert session.text("What is my name?") == "Your name is Ada Lovelace."


def test_the_opening_hours_are_no_recall(session: Session) -> None:
    book(session)
    assert session.text("At what time do you open?") == HOURS
    assert session.text("When is it that you open, and until when are you open? What are your opening times?") == HOURS


def test_words_for_the_ear_are_not_written(session: Session) -> None:
    call = session.call()
    call.say("Can I speak to a person?")
    assert call.say("Ann").endswith("You can also press the keys.")
    assert session.text("go on").endswith("On which number can we call you back?")
    assert session.text("hm hm") == "Sorry, please send me the number."


# --- the other scripts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(desk: Script) -> dict[str, Script]:
    names = ("reception", "classifier", "officer")
    return {"desk": desk, **{name: load_script(name) for name in names}}


def test_a_classification_persists(house: dict[str, Script]) -> None:
    session = Session(house, "classifier")
    call = session.call()
    call.say("I want to import shoes made of leather")
    call.say("For adults")
    assert call.say("Italy") == "shoes of leather, for adults, from Italy. Is that right?"
    assert call.say("yes").startswith("Then it belongs in category 6403, footwear of leather.")
    for say in (session.call().say, session.text):
        assert say("What was it made of?") == "It is made of leather."
        assert say("Which category was it?") == "It is in category 6403, footwear of leather."
    assert session.text("Classify a toy, please").startswith("What is it made of")
    for said in ("wood", "for kids", "China", "yes"):
        session.text(said)
    assert session.text("Which category was it?") == "It is in category 9503, toys."


@pytest.mark.parametrize(
    ("decision", "question", "answer"),
    [
        (
            "approved",
            ("For how many months", "twelve"),
            "Recorded. The permit for case 4711 goes out today, and is valid",
        ),
        (
            "more documents",
            ("Which documents", "the plan"),
            "Recorded. I ask the applicant of case 4711 for: the plan.",
        ),
        ("refused", ("On what ground", "too tall"), "Recorded. The applicant of case 4711 is told that it is refused,"),
    ],
)
def test_the_officers_answers_change_the_agents(
    house: dict[str, Script], decision: str, question: tuple[str, str], answer: str
) -> None:
    session = Session(house, "officer")
    call = session.call()
    call.say("I report on case 4711")
    assert call.say(decision).startswith(question[0])
    call.say(question[1])
    assert call.say("yes").startswith(answer)
    assert session.text("What was the decision?").startswith("Case 4711 is ")


def test_a_decision_changed_at_the_end_is_asked_for_what_belongs_to_it(house: dict[str, Script]) -> None:
    session = Session(house, "officer")
    call = session.call()
    for said in ("Case 12 is approved", "six"):
        call.say(said)
    assert call.say("no, refused") == "On what ground is it refused?"
    assert call.say("Too tall") == "Case 12, refused. Shall I record it?"
    call.say("yes")
    assert session.memory.entities == {"case": "12", "decision": "refused", "ground": "Too tall"}


def test_what_the_last_case_alone_had_is_not_the_next_ones(house: dict[str, Script]) -> None:
    session = Session(house, "officer")
    for said in ("Case 12 is approved", "six", "yes", "Case 13 is refused", "Too tall", "yes"):
        session.text(said)
    assert session.memory.entities == {"case": "13", "decision": "refused", "ground": "Too tall"}
    assert session.text("How long is it valid?") == UNKNOWN


def test_the_reception_hands_over_with_what_was_said(house: dict[str, Script]) -> None:
    session = Session(house, "reception")
    call = session.call()
    call.say("My name is Ada Lovelace")
    answer = call.say("I want to book an appointment for a check-up")
    assert answer == f"I pass you on to the appointment desk. {WHICH_DAY}"
    assert "for Ada Lovelace" in call.say("Tuesday at ten")
    assert session.agent == "desk"


# --- states -------------------------------------------------------------------------------------------------


def test_a_state_is_read_as_it_was_written(desk: Script) -> None:
    state = State(
        desk.intents["book"], {"service": "cleaning"}, offered_more=True, misses=1, last_said="Hm?", channel="text:",
        known={"name": "Ada"}, request="book it",
    ).asked("book a cleaning", "book")  # fmt: skip
    assert load(dump(state), desk) == state


def test_a_state_stays_small(desk: Script) -> None:
    session = Session(desk)
    for number in range(10):
        session.text(f"{'Cancel' if number % 2 else 'Book'} an appointment, number {number} {'x' * 1000}")
    state = session.memory.states["desk"]
    assert len(json.loads(state)["log"]) == LOG_LENGTH
    assert len(state) < 4000


def _damaged(change: Callable[[dict[str, object]], object]) -> Callable[[str], str]:
    def apply(state: str) -> str:
        raw = json.loads(state)
        change(raw)
        return json.dumps(raw)

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: "",
        lambda state: state[:-9],
        lambda state: "[" * 10_000,
        lambda state: "null",
        lambda state: state + " " * 30_000,
        _damaged(lambda raw: raw.update(v=99)),
        _damaged(lambda raw: raw.update(form={"intent": "nothing", "values": {}})),
        _damaged(lambda raw: raw.update(form={"intent": "hours", "values": {}})),
        _damaged(lambda raw: raw.update(form=3, known=[1], log={"a": 1}, misses="x", said=None, channel=4)),
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_ignored(session: Session, damage: Callable[[str], str]) -> None:
    session.text("Book a check-up")
    memory = session.memory
    session.memory = replace(memory, entities={}, states={"desk": damage(memory.states["desk"])})
    assert session.text("Brrm.").startswith("Sorry, I did not get that.")


def test_a_choice_that_the_script_has_no_more_is_asked_for_again(session: Session) -> None:
    session.text("Book a check-up")
    states = {"desk": session.memory.states["desk"].replace("check-up", "massage")}
    session.memory = replace(session.memory, states=states)
    assert session.text("Friday").startswith("What is it for")


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["v", "form", "intent", "values", "known", "log", "name", "day"]), inner, max_size=4), max_leaves=8))  # fmt: skip  # noqa: E501 - one value
def test_no_state_raises(desk: Script, raw: object) -> None:
    if isinstance(raw, dict):
        raw = {**raw, "v": 1}
    assert load(dump(load(json.dumps(raw), desk)), desk) == load(json.dumps(raw), desk)


_SAID = (
    "book an appointment", "cancel my appointment", "move my appointment", "speak to a person", "never mind", "no",
    "yes", "okay", "a check-up", "tomorrow at ten", "Friday", "at three", "John Smith", "No, it's Bob", "555 1234",
    "1", "my name is Ann", "what?", "help", "goodbye", "hm", "", "try again", "what did we talk about", "go on",
    "what is my name", "when is my appointment", "what do you know about me", "start over", "hello", "once more",
    "What are your opening hours?", "approved", "case 12", "a bag", "leather", "refused", "it is about a product",
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(_SAID) | st.text(max_size=20), max_size=14), st.sampled_from(["desk", "officer", "classifier", "reception"]))  # fmt: skip  # noqa: E501 - one value
def test_a_new_model_for_every_turn_answers_the_same(house: dict[str, Script], turns: list[str], agent: str) -> None:
    """A model that is there for the whole call, and one that knows only what was noted."""
    one, fresh = Session(house, agent), Session(house, agent)
    line, other = one.call(), fresh.call()
    for said in turns:
        other.models.clear()
        assert other.say(said) == line.say(said)
        assert fresh.memory == one.memory


PREFERS = """
[phrases]
greeting = "Hello."
[lines]
help = "Ask."
unclear = "Sorry?"
anything_else = "Anything else?"
give_up = "Goodbye."
fallback = "table"
farewell = "table"
[[intents]]
name = "table"
keywords = ["table"]
answer = "A table {place}."
preference = "Sits {place}."
  [[intents.slots]]
  name = "place"
  type = "choice"
  prompt = "Where?"
  reprompt = "Where, please?"
    [intents.slots.choices]
    outside = ["garden"]
    inside = ["window"]
"""


def test_a_preference_is_noted_where_the_script_says_so(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text(PREFERS)
    session = Session(load_script(file))
    session.text("A table in the garden")
    assert [(item.kind, item.content) for item in session.memory.items] == [
        (MemoryKind.FACT, "table: place outside"),
        (MemoryKind.PREFERENCE, "Sits outside."),
    ]
