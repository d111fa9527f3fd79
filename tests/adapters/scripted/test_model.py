"""The appointment desk, turn by turn; "today" is Friday, the 20th of November 2026."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.scripted.model import ScriptedModel
from adapters.scripted.script import Script, load_script
from engine.events import Context, HangUp, Message, Role

CLOSED = "We are closed at the weekend. Which other day would suit you?"
MORE = "Is there anything else I can do for you?"
NOT_BOOKED = f"All right, I have not booked anything. {MORE}"
NOT_CANCELLED = f"All right, nothing is cancelled. {MORE}"
WHICH_NAME = "What name shall I put it under?"
HOURS = "We are open Monday to Friday, from nine in the morning until five in the afternoon."


class Caller:
    """Talks to one model and keeps the history as the engine does."""

    def __init__(self, script: Script) -> None:
        self.model = ScriptedModel(script, lambda: date(2026, 11, 20))
        self.context: list[Message] = []
        self.was_hung_up = False

    def say(self, text: str, *, hears: bool = True) -> str:
        """What the agent answers. ``hears`` False: nothing of it was heard, and what is said next joins on."""
        if self.context and self.context[-1].role is Role.CALLER:
            self.context[-1] = Message(Role.CALLER, f"{self.context[-1].text} {text}")
        else:
            self.context.append(Message(Role.CALLER, text))
        parts = self.model.reply(self.context)
        answer = " ".join(part for part in parts if isinstance(part, str))
        self.was_hung_up = any(isinstance(part, HangUp) for part in parts)
        if hears:
            self.context.append(Message(Role.AGENT, answer))
        return answer


@pytest.fixture(scope="module")
def desk() -> Script:
    return load_script("appointment_desk")


@pytest.fixture
def caller(desk: Script) -> Caller:
    return Caller(desk)


@pytest.mark.parametrize(
    ("question", "start"),
    [
        ("What are your opening hours?", "We are open"),
        ("When are you open on Saturdays?", "We are open"),
        ("How long are you there today? What are your hours?", "We are open"),
        ("Where are you located?", "We are at 12 Mill Street"),
        ("How do I get to you?", "We are at 12 Mill Street"),
        ("How much is a cleaning?", "A check-up is forty pounds"),
        ("I would like to book an appointment.", "What is it for"),
        ("Could I make an appointment please", "What is it for"),
        ("I need to see the doctor.", "What is it for"),
        ("I want to cancel my appointment.", "On which day"),
        ("Can I reschedule my booking?", "What is your name"),
        ("Can I speak to a person?", "Nobody is free right now"),
        ("Thank you.", "You are welcome"),
        ("Good morning!", "Hello!"),
        ("Good morning, my name is Ann, I would like to book a check-up", "Which day would suit you?"),
        ("Thank you, and where are you?", "We are at"),
        ("Flumph.", "Sorry, I did not get that."),
    ],
)
def test_the_right_intent_answers(caller: Caller, question: str, start: str) -> None:
    assert caller.say(question).startswith(start)


def test_an_appointment_is_booked_step_by_step(caller: Caller) -> None:
    caller.say("I would like to book an appointment.")
    assert caller.say("A checkup,") == "Which day would suit you?"
    assert caller.say("Next Tuesday.") == "And at what time?"
    assert caller.say("Ten thirty.") == "What name shall I put it under?"
    question = caller.say("My name is John Smith.")
    assert question == "A check-up on Tuesday, November 24th at 10:30 AM, for John Smith. Shall I book it?"
    assert caller.say("Yes, please.").startswith("It is booked: Tuesday, November 24th at 10:30 AM.")
    (booking,) = caller.model.completed
    assert (booking.intent, booking.values["name"]) == ("book", "John Smith")


def test_all_in_one_sentence_is_asked_for_only_what_is_missing(caller: Caller) -> None:
    assert caller.say("Can I book a check-up next Tuesday at 10:30?") == "What name shall I put it under?"


def test_a_correction_at_the_end_is_taken(caller: Caller) -> None:
    caller.say("Book a check-up next Tuesday at 10:30")
    caller.say("John")
    assert "at 11 AM" in caller.say("No, at eleven, please.")
    assert caller.say("Yes.").startswith("It is booked")


def test_a_no_books_nothing(caller: Caller) -> None:
    caller.say("Book a check-up next Tuesday at 10:30")
    caller.say("John")
    assert caller.say("No.").startswith("All right, I have not booked anything.")
    assert caller.model.completed == []


def test_a_question_in_the_middle_is_answered_and_the_form_goes_on(caller: Caller) -> None:
    caller.say("Book a check-up")
    assert caller.say("What are your opening hours?") == f"{HOURS} Which day would suit you?"
    assert caller.say("Tuesday") == "And at what time?"


def test_another_errand_in_the_middle_takes_over(caller: Caller) -> None:
    caller.say("Book a check-up")
    assert caller.say("Actually, I want to cancel my appointment.") == "On which day is the appointment?"


def test_a_day_that_cannot_be_had_is_refused_with_a_reason(caller: Caller) -> None:
    caller.say("Book a check-up")
    assert caller.say("On Sunday") == CLOSED
    assert caller.say("Monday then") == "And at what time?"
    assert caller.say("At eight in the evening").startswith("We see patients from nine")


def test_another_time_is_taken_while_the_day_is_asked_for_again(caller: Caller) -> None:
    caller.say("A check-up appointment please")
    assert caller.say("Tomorrow at three in the afternoon") == CLOSED
    assert caller.say("Friday at ten instead") == WHICH_NAME
    assert "on Friday, November 27th at 10 AM, for John" in caller.say("John")


def test_a_day_given_at_the_name_prompt_corrects_the_day(caller: Caller) -> None:
    caller.say("Book a check-up on Monday at ten")
    assert caller.say("Make it Tuesday at eleven, please") == WHICH_NAME
    assert "on Tuesday, November 24th at 11 AM, for Bob" in caller.say("Bob")


@pytest.mark.parametrize("said", ["Yes please cancel it", "I really don't know", "Hm, no idea", "Ten"])
def test_what_is_no_name_is_asked_again(caller: Caller, said: str) -> None:
    caller.say("I want to cancel my appointment")
    caller.say("Monday")
    assert caller.say(said) == "Sorry, I did not get the name. Just your name, please."
    assert "the appointment of Peter Jones on Monday" in caller.say("Peter Jones")


@pytest.mark.parametrize("said", ["No, it's Bob", "The name is Bob.", "It's Bob.", "No, Bob."])
def test_a_name_read_back_wrong_is_corrected(caller: Caller, said: str) -> None:
    caller.say("Book a check-up on Monday at ten")
    caller.say("Rob")
    assert caller.say(said).endswith("at 10 AM, for Bob. Shall I book it?")
    assert caller.say("That's it.").startswith("It is booked")


def test_a_name_given_early_is_not_asked_for(caller: Caller) -> None:
    caller.say("I want to cancel my appointment")
    assert caller.say("My name is Peter Jones") == "On which day is the appointment?"
    assert caller.say("Monday").startswith("Shall I cancel the appointment of Peter Jones on Monday")


def test_a_number_given_early_is_not_asked_for(caller: Caller) -> None:
    """Said or pressed."""
    for number in ("My number is 555 1234", "5551234"):
        caller.say("I want to speak to a human")
        assert caller.say(number) == "What is your name, please?"
        assert caller.say("John") == "And what is it about?"
        assert "5 5 5, 1 2 3 4" in caller.say("My invoice")


def test_keys_that_mean_nothing_get_a_kind_word(caller: Caller) -> None:
    caller.say("Book a check-up on Monday at ten")
    assert caller.say("42#") == f"Please say it, keys do not work here. {WHICH_NAME}"


@pytest.mark.parametrize(
    "said",
    ["Never mind, I want to keep it", "Never mind, I want to keep my appointment", "Keep it", "I've changed my mind.",
     "No.", "No, thank you", "I don't want to say"],
)  # fmt: skip
def test_a_caller_who_wants_out_is_let_out(caller: Caller, said: str) -> None:
    for answers in ([], ["Monday"]):
        caller.say("I want to cancel my appointment")
        for answer in answers:
            caller.say(answer)
        assert caller.say(said) == NOT_CANCELLED
    assert not caller.model.completed


def test_a_caller_who_wants_out_may_want_something_else(caller: Caller) -> None:
    caller.say("book an appointment")
    assert caller.say("Never mind, I want to cancel my appointment") == "On which day is the appointment?"
    caller.say("Can I speak to a person?")
    assert caller.say("I don't want to leave a message").startswith("All right, no message.")


@pytest.mark.parametrize("said", ["Okay.", "Yes", "Yes, please.", "Sure."])
def test_a_yes_to_nothing_is_asked_what_it_wants(caller: Caller, said: str) -> None:
    assert caller.say(said) == "How can I help you?"
    caller.say("What are your opening hours?")
    assert caller.say(said) == "How can I help you?"
    assert caller.say("book an appointment").startswith("What is it for")


@pytest.mark.parametrize("said", ["Is there no bus?", "I don't know.", "I am not well", "It was not me"])
def test_a_no_inside_a_sentence_ends_no_call(caller: Caller, said: str) -> None:
    caller.say("What are your opening hours?")
    assert caller.say(said).startswith("Sorry")
    assert not caller.was_hung_up


def test_repeat_after_not_understanding_says_what_was_said_before(caller: Caller) -> None:
    answer = caller.say("What are your opening hours?")
    caller.say("Can I bring my dog?")
    assert caller.say("Repeat that please") == answer
    assert caller.say("I didn't hear you") == answer


def test_help_with_an_errand_is_the_errand(caller: Caller) -> None:
    assert caller.say("Can you help me cancel?") == "On which day is the appointment?"


def test_keys_choose_and_dial(caller: Caller) -> None:
    """Key presses come as a message of digits."""
    caller.say("book an appointment")
    assert caller.say("2") == "Which day would suit you?"
    caller.say("Can I speak to a person?")
    caller.say("Ann")
    assert caller.say("5551234") == "And what is it about?"
    assert caller.say("My invoice.").startswith("Thank you. Somebody will call you back on 5 5 5, 1 2 3 4.")


def test_a_caller_who_is_not_understood_can_leave_a_message(caller: Caller) -> None:
    caller.say("Flumph.")
    caller.say("Brrm.")
    answer = caller.say("Grmpf.")
    assert answer.startswith(
        "I am sorry, I still did not get that. Nobody is free right now, so let me take a message."
    )
    caller.say("Ann")
    caller.say("555 1234")
    assert caller.say("My invoice.").startswith("Thank you. Somebody will call you back")
    assert caller.say("That's it.").endswith("Goodbye.")
    assert caller.was_hung_up


def test_a_caller_who_cannot_even_leave_a_message_is_let_go(caller: Caller) -> None:
    """Nobody is asked the same question for ever."""
    caller.say("Can I speak to a person?")
    caller.say("Ann")
    for _ in range(3):
        assert not caller.was_hung_up
        caller.say("Brrm.")
    assert caller.was_hung_up


def test_a_caller_who_is_not_understood_is_not_asked_twice_for_the_name(caller: Caller) -> None:
    caller.say("I want to cancel my appointment")
    caller.say("My name is Peter Jones")
    for said in ("I don't remember", "I don't know"):
        caller.say(said)
    assert caller.say("I really don't know").endswith(
        "let me take a message. On which number can we call you back? You can also press the keys."
    )


@pytest.mark.parametrize("said", ["Brrm.", "...", "", "42", "Is it?", "you", "Mmh mmh mmh mmh mmh mmh"])
def test_whoever_is_never_understood_is_let_go_in_the_end(caller: Caller, said: str) -> None:
    turns = 0
    while not caller.was_hung_up and turns < 20:
        answer = caller.say(said)
        turns += 1
    assert caller.was_hung_up
    assert turns <= 8
    assert answer.endswith("Goodbye.")


def test_repeat_says_the_last_answer_again(caller: Caller) -> None:
    answer = caller.say("What are your opening hours?")
    assert caller.say("Could you repeat that, please?") == answer
    assert caller.say("What?") == answer


def test_help_goes_on_with_the_question(caller: Caller) -> None:
    caller.say("book an appointment")
    assert caller.say("Help").endswith("What is it for: a check-up, a cleaning, or a first consultation?")


def test_never_mind_leaves_the_form(caller: Caller) -> None:
    caller.say("book an appointment")
    assert caller.say("Never mind.") == NOT_BOOKED
    assert caller.say("No.") == "Thank you for calling Riverside Practice. Goodbye."
    assert caller.was_hung_up


@pytest.mark.parametrize(
    "said",
    [
        "No.",
        "No, thank you.",
        "No thanks, that's all.",
        "Nope.",
        "I don't think so.",
        "That's it.",
        "Okay, no.",
        "2",
    ],
)
def test_nothing_else_is_goodbye(caller: Caller, said: str) -> None:
    caller.say("What are your opening hours?")
    caller.say(said)
    assert caller.was_hung_up


def test_goodbye_hangs_up_after_it_is_said(caller: Caller) -> None:
    parts = caller.model.reply([Message(Role.CALLER, "Good-by.")])
    assert parts[1:] == ["Thank you for calling Riverside Practice. Goodbye.", HangUp()]


def test_a_turn_asked_again_is_not_taken_twice(caller: Caller) -> None:
    """The caller went on before anything of the answer was heard: the whole sentence is one answer to one question."""
    caller.say("book an appointment")
    caller.say("A check-up", hears=False)
    assert caller.say("next Tuesday") == "And at what time?"
    caller.say("ten thirty")
    caller.say("John", hears=False)
    assert "for John Smith" in caller.say("Smith")


def test_a_booking_asked_again_is_booked_once(caller: Caller) -> None:
    caller.say("Book a check-up next Tuesday at 10:30")
    caller.say("John")
    caller.say("Yes", hears=False)
    caller.say("please")
    assert len(caller.model.completed) == 1


def test_two_calls_of_one_script_share_nothing(desk: Script) -> None:
    one, other = Caller(desk), Caller(desk)
    one.say("book a cleaning")
    assert other.say("Tuesday").startswith("Sorry, I did not get that.")
    assert one.say("Tuesday") == "And at what time?"


async def test_a_reply_ends_its_channel(desk: Script) -> None:
    model = ScriptedModel(desk)
    async with model.open_reply(Context((Message(Role.CALLER, "goodbye"),))) as parts:
        got = [part async for part in parts]
    assert got[1:] == ["Thank you for calling Riverside Practice. Goodbye.", HangUp()]


def test_no_words_at_all_are_answered_too(caller: Caller) -> None:
    assert caller.model.reply([])[1:] == [caller.model._script.lines.unclear]
    assert caller.say("...").startswith("Sorry")


TABLE = """
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
answer = "A table at {time}."
confirm = "At {time}?"
declined = "No table at {time}, then."
  [[intents.slots]]
  name = "time"
  type = "time"
  prompt = "When?"
  reprompt = "When, please?"
  [[intents.slots]]
  name = "wish"
  type = "text"
  prompt = "Any wishes?"
  reprompt = "Any?"
"""


@pytest.fixture
def table(tmp_path: Path) -> Caller:
    file = tmp_path / "table.toml"
    file.write_text(TABLE)
    return Caller(load_script(file))


def test_free_text_is_taken_as_it_is(table: Caller) -> None:
    """It may hold a time, and words that elsewhere are a way out."""
    assert table.say("A table at six") == "Any wishes?"
    assert table.say("Keep it warm at eight pm") == "At 6 PM?"
    table.say("yes")
    assert table.model.completed[0].values["wish"] == "Keep it warm at eight pm"


def test_words_of_a_slot_that_has_no_value_are_not_said(table: Caller) -> None:
    table.say("A table")
    assert table.say("Never mind") == "Anything else?"
    table.say("A table at six")
    assert table.say("Never mind") == "No table at 6 PM, then."


_SAID = (
    "book an appointment", "cancel my appointment", "move my appointment", "speak to a person", "never mind", "no",
    "yes", "okay", "a check-up", "tomorrow at ten", "Friday", "at three", "John Smith", "No, it's Bob", "555 1234",
    "5551234", "1", "my name is Ann", "my number is 555 1234", "what?", "help", "keep it", "goodbye", "hm", "",
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(_SAID) | st.text(max_size=30), max_size=14))
def test_every_turn_of_every_call_is_answered(desk: Script, turns: list[str]) -> None:
    """And nothing is done that was not asked for in full."""
    caller = Caller(desk)
    for said in turns:
        assert caller.say(said).strip()
    for done in caller.model.completed:
        assert done.values.keys() == {slot.name for slot in desk.intents[done.intent].slots}
