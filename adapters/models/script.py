"""The script of an agent: a TOML file to checked, frozen values."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from importlib import resources
from pathlib import Path

from adapters.models.dates import WEEKDAYS
from adapters.models.matching import Candidate, Matcher
from adapters.models.tables import Table, references
from engine.errors import SettingsError
from engine.ports import Phrases

_CLOCK = re.compile(r"(?:[01]?\d|2[0-3]):[0-5]\d")


class SlotType(StrEnum):
    TEXT = "text"
    """Anything, word for word."""
    NAME = "name"
    """A person's name; "my name is" is left out."""
    DATE = "date"
    TIME = "time"
    NUMBER = "number"
    PHONE = "phone"
    CHOICE = "choice"
    YES_NO = "yes_no"


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing the agent asks for."""

    name: str
    type: SlotType
    prompt: str
    reprompt: str
    """Said when the answer was not understood."""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For ``choice``: what it is called, and what else people call it. Key 1 is the first."""
    refused: str = ""
    """Said when the value was understood and cannot be had."""
    closed_on: Sequence[str] = ()
    """For ``date``: weekdays that cannot be had."""
    earliest: str = ""
    latest: str = ""
    """For ``time``: ``9:00``; inclusive."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing callers want."""

    name: str
    answer: str
    """Said at once, or when all slots are filled and confirmed; ``{slot}`` stands for its value."""
    keywords: Sequence[str] = ()
    examples: Sequence[str] = ()
    opening: str = ""
    """Said once, before the first question."""
    slots: Sequence[Slot] = ()
    confirm: str = ""
    """A question to be answered with yes; empty asks nothing."""
    declined: str = ""
    """Said after a no."""
    hang_up: bool = False
    """The call ends after the answer."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What the agent says when no intent says it."""

    help: str
    unclear: str
    anything_else: str
    give_up: str
    """Last words to a caller who cannot be understood at all."""
    fallback: str
    """The intent that takes over after ``patience`` utterances in a row that were not understood: a message."""
    farewell: str
    """The intent of "no, that is all"."""
    patience: int = 2
    ask: str = "How can I help you?"
    """Said to a "yes" or "okay" when nothing was asked."""
    handover: str = "I am sorry, I still did not get that."
    """Said before the fallback takes over."""
    no_keys: str = "Please say it, keys do not work here."
    """Said before the question, when keys were pressed that mean nothing to it."""


@dataclass(frozen=True)
class Script:
    """Shared by all calls of an agent."""

    name: str
    phrases: Phrases
    lines: Lines
    intents: Mapping[str, Intent]
    facts: Mapping[str, str]
    synonyms: Mapping[str, Sequence[str]]

    @cached_property
    def matcher(self) -> Matcher:
        candidates = [Candidate(item.name, item.keywords, item.examples) for item in self.intents.values()]
        return Matcher(candidates, self.synonyms)

    def fixed_phrases(self) -> tuple[str, ...]:
        """Everything the agent says to all callers alike, for a cache of phrases: no text with a caller's words."""
        lines = self.lines
        texts = [*self.phrases.all(), lines.help, lines.unclear, lines.anything_else, lines.give_up]
        texts += [lines.ask, lines.handover, lines.no_keys]
        for intent in self.intents.values():
            texts += [intent.answer, intent.opening, intent.confirm, intent.declined]
            for slot in intent.slots:
                texts += [slot.prompt, slot.reprompt, slot.refused]
        filled = [text for text in texts if text and not references(text) - self.facts.keys()]
        return tuple(dict.fromkeys(text.format_map(self.facts) for text in filled))


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
    folder = resources.files("adapters.models") / "agents"
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
    file = resources.files("adapters.models") / "agents" / f"{path}.toml"
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
    )
    top.done()
    return script


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
    texts = {key: _said(table, key, facts) for key in ("help", "unclear", "anything_else", "give_up")}
    given = {key: _said(table, key, facts, needed=False) for key in ("ask", "handover", "no_keys")}
    texts |= {key: text for key, text in given.items() if text}
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
        slots = tuple(_slot(item, facts) for item in table.tables("slots"))
        known = {*facts, *(slot.name for slot in slots)}
        intent = Intent(
            name=table.text("name"),
            answer=_said(table, "answer", known),
            keywords=table.texts("keywords"),
            examples=table.texts("examples"),
            opening=_said(table, "opening", facts, needed=False),
            slots=slots,
            confirm=_said(table, "confirm", known, needed=False),
            declined=_said(table, "declined", known, needed=False),
            hang_up=table.flag("hang_up"),
        )
        if intent.name in seen:
            raise table.wrong("name", "a name that no other intent has")
        if intent.confirm and not intent.declined:
            raise table.wrong("declined", "text, because there is a confirm")
        seen.add(intent.name)
        table.done()
        yield intent


def _slot(table: Table, facts: Mapping[str, str]) -> Slot:
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
    )
    _check_slot(table, slot)
    table.done()
    return slot


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
