from __future__ import annotations

import pytest

from engine.dialogue import context
from engine.dialogue.context import ContextFormat, ContextLimits, FactsKnown, Shortening, build_context, facts_of_each
from engine.dialogue.history import Entry, remember
from engine.dialogue.recollection import key_facts
from engine.events import Context, Memory, MemoryItem, MemoryKind, Modality, Noted, Role


def entry(number: int, text: str, role: Role = Role.CALLER) -> Entry:
    return Entry(f"t{number}.0", f"t{number}", float(number), role, text, "desk", Modality.VOICE)


def talk(count: int, text: str = "word {n}") -> list[Entry]:
    """So many messages, caller and agent in turn; the last one is the caller's."""
    roles = [Role.CALLER if (count - 1 - n) % 2 == 0 else Role.AGENT for n in range(count)]
    return [entry(n, text.format(n=chr(97 + n)), role) for n, role in enumerate(roles)]


def shown(
    entries: list[Entry], memory: Memory | None = None, *, facts: FactsKnown | None = None, **limits: object
) -> Context:
    return built(entries, memory, facts=facts, **limits)[0]


def built(
    entries: list[Entry], memory: Memory | None = None, *, facts: FactsKnown | None = None, **limits: object
) -> tuple[Context, frozenset[Shortening]]:
    made = build_context(
        entries,
        memory or Memory(),
        ContextLimits(**limits),  # type: ignore[arg-type]  # of the test's choosing
        session_id="s_1",
        turn_id="t_1",
        agent="desk",
        modality=Modality.SMS,
        is_returning=True,
        facts=facts,
    )
    return made.context, made.shortened


def test_a_model_is_shown_the_last_ten_messages_oldest_first() -> None:
    context, shortened = built(talk(25))
    assert [message.text for message in context] == [f"word {letter}" for letter in "pqrstuvwxy"]
    assert shortened == {Shortening.DROPPED}


def test_what_fits_is_shown_as_it_is() -> None:
    context, shortened = built(talk(3))
    assert [(m.role, m.text) for m in context] == [
        (Role.CALLER, "word a"),
        (Role.AGENT, "word b"),
        (Role.CALLER, "word c"),
    ]
    assert shortened == frozenset()


def test_a_long_message_is_cut_to_two_hundred_characters_and_the_newest_is_not() -> None:
    entries = [entry(0, "a" * 500), entry(1, "b" * 500)]
    context, shortened = built(entries)
    assert len(context[0].text) == 200
    assert context[0].text.startswith("aaa")
    assert "…" in context[0].text
    assert context[1].text == "b" * 500
    assert shortened == {Shortening.CUT}


def test_a_cut_keeps_the_key_facts_of_what_it_takes_away() -> None:
    long = "I wanted to tell you a few things first. " * 8 + "It is about order SKU-4471."
    context = shown([entry(0, long), entry(1, "and?")])
    assert "SKU-4471" in context[0].text
    assert len(context[0].text) <= 200


def test_key_facts_of_what_is_out_of_sight_are_told_with_what_is_known() -> None:
    entries = [entry(0, "My order is SKU-4471."), *talk(12)]
    context = shown(entries)
    assert context[0].role is Role.SYSTEM
    assert "SKU-4471" in context[0].text


def test_the_memory_is_told_in_words_and_given_as_values() -> None:
    memory = Memory(
        summary="Booked a check-up.",
        entities={"name": "Ada"},
        items=(MemoryItem(MemoryKind.FACT, "is left-handed"), MemoryItem(MemoryKind.PREFERENCE, "mornings")),
        states={"desk": "mine", "sales": "not mine"},
    )
    context = shown(talk(1), memory)
    words = context[0].text
    assert all(part in words for part in ("Booked a check-up.", "name: Ada", "is left-handed", "mornings"))
    assert context.memory.entities == {"name": "Ada"}
    assert context.memory.states == {"desk": "mine"}
    assert "mine" not in words
    assert (context.session_id, context.turn_id, context.agent) == ("s_1", "t_1", "desk")
    assert (context.modality, context.is_returning) == (Modality.SMS, True)


def test_a_summary_stands_for_what_is_left_out() -> None:
    _, shortened = built(talk(12), Memory(summary="They talked."))
    assert shortened == {Shortening.SUMMARISED}


def test_the_text_format_tells_all_as_one_text_and_ends_with_the_callers_words() -> None:
    context = shown(talk(3), Memory(summary="Before."), format=ContextFormat.TEXT)
    assert [message.role for message in context] == [Role.SYSTEM, Role.CALLER]
    assert "Before." in context[0].text
    assert "Caller: word a\nAgent: word b" in context[0].text
    assert context[1].text == "word c"


def test_the_summary_format_tells_the_summary_and_the_last_words() -> None:
    context = shown(talk(9), Memory(summary="Long story."), format=ContextFormat.SUMMARY)
    assert [message.role for message in context] == [Role.SYSTEM, Role.CALLER]
    assert "Long story." in context[0].text
    assert "word h" in context[0].text
    assert "word d" not in context[0].text


def test_what_agents_note_is_put_over_what_was_known_and_an_empty_value_forgets() -> None:
    memory = Memory(entities={"name": "Ada", "day": "Monday"}, states={"desk": "1", "sales": "2"})
    fact = MemoryItem(MemoryKind.FACT, "booked")
    noted = [Noted({"day": "", "time": "ten"}, (fact,), "3"), Noted({}, (fact,), None)]
    assert remember(memory, "desk", noted) == Memory(
        entities={"name": "Ada", "time": "ten"}, items=(fact,), states={"desk": "3", "sales": "2"}
    )


def test_facts_are_looked_for_once_and_held_no_longer_than_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def find(text: str) -> list[str]:
        looked.append(text)
        return key_facts(text)

    monkeypatch.setattr(context, "key_facts", find)
    facts, entries = FactsKnown(), talk(14, "Order {n}-1 of 3 May")

    def lookups(entries: list[Entry]) -> list[str]:
        looked.clear()
        alone = built(entries)[0]
        looked.clear()
        assert shown(entries, facts=facts) == alone
        return list(looked)

    assert len(lookups(entries)) == 4
    assert lookups(entries) == []
    assert lookups([*entries, entry(14, "And?")]) == [entries[4].text]
    assert lookups(talk(1)) == []
    assert len(lookups(entries)) == 4, "they were not needed in between"
    facts.forget()
    assert len(lookups(entries)) == 4


def test_facts_that_were_looked_for_ahead_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = talk(14, "Order {n}-1 of 3 May")
    facts, alone = FactsKnown(), shown(entries)
    facts.look_ahead(facts_of_each(entry.text for entry in entries))
    monkeypatch.setattr(context, "key_facts", lambda _: ["looked again"])
    assert shown(entries, facts=facts) == alone
    facts.forget()
    assert "looked again" in str(shown(entries, facts=facts))
