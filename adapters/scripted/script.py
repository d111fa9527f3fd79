"""The script of an agent: a TOML file to checked, frozen values."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import resources
from pathlib import Path

from adapters.scripted.dates import WEEKDAYS
from adapters.scripted.matching import Candidate, Matcher
from adapters.scripted.parts import Case, Condition, Derived, Intent, Lines, Slot, SlotType
from adapters.scripted.tables import Table, references
from engine.errors import SettingsError
from engine.ports import Phrases

_CLOCK = re.compile(r"(?:[01]?\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True)
class Script:
    """Shared by all calls of an agent."""

    name: str
    phrases: Phrases
    lines: Lines
    intents: Mapping[str, Intent]
    facts: Mapping[str, str]
    synonyms: Mapping[str, Sequence[str]]

    written: Mapping[str, str] = field(default_factory=dict)
    """Phrases that make sense only aloud, and what stands for them in a text."""

    @cached_property
    def matcher(self) -> Matcher:
        candidates = [Candidate(item.name, item.keywords, item.examples) for item in self.intents.values()]
        return Matcher(candidates, self.synonyms)

    @cached_property
    def names(self) -> frozenset[str]:
        """Everything that a caller's answers give a value to."""
        return frozenset(item.name for intent in self.intents.values() for item in intent.named)

    def fixed_phrases(self) -> tuple[str, ...]:
        """Everything the agent says to all callers alike, for a cache of phrases: no text with a caller's words."""
        texts = [*self.phrases.all(), *(getattr(self.lines, name) for name in LINES)]
        for intent in self.intents.values():
            texts += [intent.answer, intent.opening, intent.confirm, intent.declined, *intent.answers.values()]
            for slot in intent.slots:
                texts += [slot.prompt, slot.reprompt, slot.refused]
        filled = [text for text in texts if text and not references(text) - self.facts.keys()]
        return tuple(dict.fromkeys(text.format_map(self.facts) for text in filled))


NEEDED_LINES = ("help", "unclear", "anything_else", "give_up")
LINES = tuple(item.name for item in fields(Lines) if item.name not in ("fallback", "farewell", "patience"))
"""Those that are texts."""


def load_script(path_or_name: str | Path) -> Script:
    """A script that ships with Offhook, by name, or a TOML file, by path.

    Raises SettingsError naming the file, the key and what was expected.
    """
    text, where = _read(path_or_name)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{where}: not valid TOML: {exc}") from None
    return _script(Table(raw, where, ""), Path(where).stem)


def shipped_scripts() -> tuple[str, ...]:
    folder = resources.files("adapters.scripted") / "agents"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def _read(path_or_name: str | Path) -> tuple[str, str]:
    path = Path(path_or_name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except FileNotFoundError:
            raise SettingsError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: cannot be read ({type(exc).__name__})") from None
    if str(path) not in shipped_scripts():
        names = ", ".join(shipped_scripts())
        raise SettingsError(f"script {str(path)!r}: expected one of {names}, or the path of a .toml file")
    file = resources.files("adapters.scripted") / "agents" / f"{path}.toml"
    return file.read_text(encoding="utf-8"), f"{path}.toml"


# --- the parts of a script ----------------------------------------------------------------------------------


def _script(top: Table, name: str) -> Script:
    facts = _facts(top.table("facts"))
    intents = {intent.name: intent for intent in _intents(top, facts)}
    script = Script(
        name=name,
        phrases=_phrases(top.table("phrases", needed=True), facts),
        lines=_lines(top.table("lines", needed=True), facts, intents),
        intents=intents,
        facts=facts,
        synonyms=_word_lists(top.table("synonyms")),
        written=_written(top.table("written"), facts),
    )
    _check_recalled(top, script)
    top.done()
    return script


def _written(table: Table, facts: Mapping[str, str]) -> dict[str, str]:
    """By what is said aloud."""
    texts = {key: table.text(key, "") for key in table.names()}
    for key, text in texts.items():
        if references(f"{key}{text}") - facts.keys():
            raise table.wrong(key, "only references to facts")
    return {key.format_map(facts): text.format_map(facts) for key, text in texts.items()}


def _check_recalled(top: Table, script: Script) -> None:
    for number, intent in enumerate(script.intents.values()):
        for item in intent.named:
            if unknown := references(item.recalled) - script.names - script.facts.keys():
                raise top.wrong(f"intents[{number}].{item.name}.recalled", f"no reference to {{{min(unknown)}}}")
        if unknown := set(intent.forgets) - script.names:
            raise top.wrong(f"intents[{number}].forgets", f"names of slots, not {min(unknown)}")


def _facts(table: Table) -> dict[str, str]:
    return {key: table.text(key) for key in table.names()}


def _word_lists(table: Table) -> dict[str, tuple[str, ...]]:
    return {key: table.texts(key) for key in table.names()}


def _phrases(table: Table, facts: Mapping[str, str]) -> Phrases:
    given = {item.name: _said(table, item.name, facts) for item in fields(Phrases) if item.name in table.names()}
    given["greeting"] = _said(table, "greeting", facts)
    for item in fields(Phrases):
        table.text(item.name, "")  # known, so that `done` finds only what is not
    table.done()
    return Phrases(**{key: text.format_map(facts) for key, text in given.items()})


def _lines(table: Table, facts: Mapping[str, str], intents: Mapping[str, Intent]) -> Lines:
    given = {key: _said(table, key, facts, needed=key in NEEDED_LINES) for key in LINES}
    texts = {key: text.format_map(facts) for key, text in given.items() if text}
    names = {key: table.text(key) for key in ("fallback", "farewell")}
    for key, intent in names.items():
        if intent not in intents:
            raise table.wrong(key, f"the name of an intent: {', '.join(intents)}")
    lines = Lines(**texts, **names, patience=table.count("patience", 2))
    table.done()
    return lines


def _intents(top: Table, facts: Mapping[str, str]) -> Iterator[Intent]:
    seen = set[str]()
    for table in top.tables("intents"):
        intent = _intent(table, facts)
        if intent.name in seen:
            raise table.wrong("name", "a name that no other intent has")
        seen.add(intent.name)
        table.done()
        yield intent


def _intent(table: Table, facts: Mapping[str, str]) -> Intent:
    slots = tuple(_slots(table, facts))
    derived = tuple(_derived(item, slots) for item in table.tables("derived"))
    sure = {*facts, *(slot.name for slot in slots if slot.when is None), *(item.name for item in derived)}
    hand_over = table.text("hand_over", "")
    intent = Intent(
        name=table.text("name"),
        answer=_said(table, "answer", sure, needed=not (hand_over or "answers" in table.names())),
        keywords=table.texts("keywords"),
        examples=table.texts("examples"),
        opening=_said(table, "opening", facts, needed=False),
        slots=slots,
        confirm=_said(table, "confirm", sure, needed=False),
        declined=_said(table, "declined", sure, needed=False),
        hang_up=table.flag("hang_up"),
        hand_over=hand_over,
        small_talk=table.flag("small_talk"),
        answers_by=table.text("answers_by", ""),
        answers=_answers(table, slots, sure),
        derived=derived,
        fact=_said(table, "fact", sure, needed=False),
        preference=_said(table, "preference", sure, needed=False),
        forgets=table.texts("forgets"),
    )
    if intent.confirm and not intent.declined:
        raise table.wrong("declined", "text, because there is a confirm")
    if hand_over and (slots or intent.hang_up):
        raise table.wrong("hand_over", "no slots and no hang_up beside it")
    return intent


def _answers(table: Table, slots: Sequence[Slot], sure: Iterable[str]) -> dict[str, str]:
    """By the value of the choice slot that ``answers_by`` names: one for each, unless there is an ``answer`` too."""
    by, given = table.text("answers_by", ""), table.table("answers")
    choices = next((slot.choices for slot in slots if slot.name == by and slot.type is SlotType.CHOICE), {})
    if by and not choices:
        raise table.wrong("answers_by", "the name of a slot of the type choice")
    if set(given.names()) - choices.keys():
        raise table.wrong("answers", f"a text for each of {', '.join(choices) or 'nothing, without answers_by'}")
    if not table.text("answer", "") and (missing := [key for key in choices if key not in given.names()]):
        raise table.wrong("answers", f"a text for {missing[0]} too, or an answer for the rest")
    answers = {}
    for key in given.names():
        also = {slot.name for slot in slots if slot.when and slot.when.slot == by and key in slot.when.values}
        answers[key] = _said(given, key, {*sure, *also})
    return answers


def _derived(table: Table, slots: Sequence[Slot]) -> Derived:
    by_name = {slot.name: slot for slot in slots}
    derived = Derived(
        name=table.text("name"),
        cases=tuple(_case(item, by_name) for item in table.tables("cases")),
        otherwise=table.text("otherwise"),
        recall=table.texts("recall"),
        recalled=table.text("recalled", ""),
    )
    if derived.name in by_name:
        raise table.wrong("name", "a name that no slot has")
    _check_recall(table, derived)
    table.done()
    return derived


def _case(table: Table, slots: Mapping[str, Slot]) -> Case:
    value = table.text("value")
    names = [name for name in table.names() if name != "value"]
    return Case({name: _values_of(table, name, slots.get(name), table.texts(name)) for name in names}, value)


def _values_of(table: Table, key: str, slot: Slot | None, values: Sequence[str]) -> Sequence[str]:
    """Values of a slot that has only a few."""
    allowed = {SlotType.CHOICE: list(slot.choices), SlotType.YES_NO: ["yes", "no"]}.get(slot.type) if slot else None
    if allowed is None:
        raise table.wrong(key, "the name of a slot above, of the type choice or yes_no")
    if not values or set(values) - set(allowed):
        raise table.wrong(key, f"a list of some of {', '.join(allowed)}")
    return values


def _slots(table: Table, facts: Mapping[str, str]) -> Iterator[Slot]:
    above: dict[str, Slot] = {}
    for item in table.tables("slots"):
        slot = _slot(item, facts, above)
        above[slot.name] = slot
        yield slot


def _slot(table: Table, facts: Mapping[str, str], above: Mapping[str, Slot]) -> Slot:
    try:
        kind = SlotType(table.text("type"))
    except ValueError:
        raise table.wrong("type", f"one of {', '.join(SlotType)}") from None
    slot = Slot(
        name=table.text("name"),
        type=kind,
        prompt=_said(table, "prompt", facts),
        reprompt=_said(table, "reprompt", facts),
        choices=_word_lists(table.table("choices")),
        refused=_said(table, "refused", facts, needed=False),
        closed_on=table.texts("closed_on"),
        earliest=table.text("earliest", ""),
        latest=table.text("latest", ""),
        when=_condition(table.table("when"), above),
        remember=table.flag("remember"),
        recall=table.texts("recall"),
        recalled=table.text("recalled", ""),
    )
    _check_slot(table, slot)
    _check_recall(table, slot)
    table.done()
    return slot


def _condition(table: Table, above: Mapping[str, Slot]) -> Condition | None:
    if not table.names():
        return None
    if len(table.names()) > 1:
        raise table.wrong("", "one slot and its values")
    (name,) = table.names()
    return Condition(name, _values_of(table, name, above.get(name), table.texts(name)))


def _check_recall(table: Table, item: Slot | Derived) -> None:
    if bool(item.recall) != bool(item.recalled):
        raise table.wrong("recalled" if item.recall else "recall", "recall and recalled together")


def _check_slot(table: Table, slot: Slot) -> None:
    if (slot.type is SlotType.CHOICE) != bool(slot.choices):
        raise table.wrong("choices", "a table of choices for the type choice, and for no other")
    if set(slot.closed_on) - set(WEEKDAYS):
        raise table.wrong("closed_on", f"weekdays: {', '.join(WEEKDAYS)}")
    for key, clock in (("earliest", slot.earliest), ("latest", slot.latest)):
        if clock and not _CLOCK.fullmatch(clock):
            raise table.wrong(key, "a time such as 9:00 or 17:30")
    if (slot.closed_on or slot.earliest or slot.latest) and not slot.refused:
        raise table.wrong("refused", "text, because some values are refused")


def _said(table: Table, key: str, known: Mapping[str, str] | set[str], *, needed: bool = True) -> str:
    """Text to be said, whose references are all known."""
    text = table.text(key) if needed else table.text(key, "")
    if unknown := references(text) - set(known):
        raise table.wrong(key, f"only references to {', '.join(sorted(known)) or 'nothing'}, not {{{min(unknown)}}}")
    return text
