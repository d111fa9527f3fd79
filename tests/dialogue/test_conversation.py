from __future__ import annotations

from engine.dialogue.conversation import Conversation
from engine.dialogue.history import TraceWhat, TurnRecord
from engine.events import Modality, Noted, Role


def conversation() -> tuple[Conversation, list[TurnRecord]]:
    turns: list[TurnRecord] = []
    talk = Conversation(agent="desk", modality=Modality.VOICE, now=lambda: 1_000.0, on_turn=turns.append, call_id="CA1")
    return talk, turns


def test_a_turn_is_told_whole_once_the_agent_has_been_heard() -> None:
    talk, turns = conversation()
    talk.caller_said("What time is it?")
    assert turns == []
    talk.agent_was_heard("Nine.", response_ms=480)
    (turn,) = turns
    assert [(entry.role, entry.text) for entry in turn.entries] == [
        (Role.CALLER, "What time is it?"),
        (Role.AGENT, "Nine."),
    ]
    assert {entry.turn_id for entry in turn.entries} == {turn.turn_id}
    assert len({entry.entry_id for entry in turn.entries}) == 2
    assert [entry.response_ms for entry in turn.entries] == [None, 480]
    assert {(entry.agent, entry.call_id, entry.at) for entry in turn.entries} == {("desk", "CA1", 1_000.0)}


def test_words_that_follow_without_an_answer_between_are_one_turn() -> None:
    talk, turns = conversation()
    talk.caller_said("I would like")
    talk.caller_said("an appointment")
    assert [entry.text for entry in talk.open_entries] == ["I would like an appointment"]
    talk.agent_was_heard("When?")
    assert [entry.text for entry in turns[0].entries] == ["I would like an appointment", "When?"]


def test_what_was_noted_for_an_answer_that_nobody_heard_is_void() -> None:
    talk, turns = conversation()
    talk.caller_said("On Tuesday")
    talk.note(Noted(entities={"day": "Tuesday"}))
    talk.caller_said("no, on Wednesday")
    talk.note(Noted(entities={"day": "Wednesday"}))
    talk.agent_was_heard("Wednesday it is.")
    assert [noted.entities for _, noted in turns[0].noted] == [{"day": "Wednesday"}]


def test_an_answer_nobody_heard_is_not_remembered_and_the_turn_stays_open() -> None:
    talk, turns = conversation()
    talk.caller_said("Hello")
    talk.agent_was_heard("")
    assert turns == []
    assert [entry.role for entry in talk.open_entries] == [Role.CALLER]


def test_words_that_nobody_answered_are_a_turn_when_the_call_is_over() -> None:
    talk, turns = conversation()
    talk.caller_said("Hello?")
    talk.close()
    talk.close()
    assert [[entry.text for entry in turn.entries] for turn in turns] == [["Hello?"]]


def test_each_turn_has_an_id_of_its_own_and_its_own_trace() -> None:
    talk, turns = conversation()
    for text in ("one", "two"):
        talk.caller_said(text)
        talk.trace(TraceWhat.MODEL_ASKED, "s_1", turn_id=talk.turn_id)
        talk.agent_was_heard("yes")
    assert turns[0].turn_id != turns[1].turn_id
    assert [[event.fields["turn_id"] for event in turn.trace] for turn in turns] == [[turn.turn_id] for turn in turns]


def test_a_turn_is_bridged_once_however_often_the_model_is_asked() -> None:
    talk, turns = conversation()
    talk.caller_said("one")
    talk.bridged("s_1")
    talk.bridged("s_1")
    talk.agent_was_heard("yes")
    assert [event.what for event in turns[0].trace] == [TraceWhat.CONTEXT_BRIDGED]


def test_after_a_hand_over_the_other_agent_is_named() -> None:
    talk, turns = conversation()
    talk.caller_said("a refund, please")
    talk.agent = "billing"
    talk.agent_was_heard("Which order?")
    assert [entry.agent for entry in turns[0].entries] == ["desk", "billing"]


def test_what_is_forgotten_is_told_to_nobody() -> None:
    talk, turns = conversation()
    talk.caller_said("my secret")
    talk.note(Noted(state="x"))
    talk.forget()
    talk.close()
    assert turns == []
