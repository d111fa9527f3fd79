"""The script of a test conversation: a TOML file to checked, frozen values.

description = "What it shows, in a line."
over = "text"                   # text, sms or voice; a turn may say otherwise
scope = "caller"                # of its agents: caller or call
caller = "+15005550006"

[agents.desk]                   # the first one answers
script = "appointment_desk"     # as in offhook.toml: script, or factory and options

[sessions]                      # settings of [sessions] that it needs
window = 6

[[turns]]
say = "My name is Anna Miller."
expect = ["Anna", "/what time|when/"]   # words that must follow one another in the answer, or /a pattern/
expect_not = ["How can I help"]
remembers = ["Anna Miller"]     # in the session's memory, or in what the model was shown for this turn;
                                # as a table, such as {name = "Anna Miller"}, in the memory under this name
agent = "desk"                  # who must have answered
over = "sms"
in_call = true                  # of an SMS: while the call of the turn before goes on; the next turn may go on with it
new_call = true                 # hang up, and call again
restart = true                  # before this turn, stop the engine and start it on the same store
greeting = ["again"]            # as expect, of what the agent says first in the call that begins with this turn
greeting_not = ["How can I help"]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec

from engine.errors import SettingsError
from engine.events import Modality
from engine.storage.identity import e164
from engine.storage.record import Scope

FOLDER = "conversations"
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Texts = _Text | tuple[_Text, ...]


class AgentOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One agent, as in ``[agents.NAME]`` of the settings."""

    script: str = ""
    factory: str = ""
    options: dict[str, Any] = {}


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One say of the caller, and what must follow."""

    say: _Text
    over: Modality | None = None
    expect: _Texts = ()
    expect_not: _Texts = ()
    remembers: _Texts | dict[str, _Text] = ()
    agent: str = ""
    in_call: bool = False
    new_call: bool = False
    restart: bool = False
    greeting: _Texts = ()
    greeting_not: _Texts = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    turns: Annotated[tuple[Turn, ...], msgspec.Meta(min_length=1)]
    description: str = ""
    over: Modality = Modality.TEXT
    scope: Scope = Scope.CALLER
    caller: str = "+15005550006"
    dialled: str = "+15005550001"
    agents: dict[str, AgentOf] = {}
    sessions: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Script:
    """A whole conversation."""

    name: str
    file: str
    """For messages."""
    description: str
    scope: Scope
    caller: str
    dialled: str
    agents: Mapping[str, AgentOf]
    sessions: Mapping[str, Any]
    turns: tuple[Turn, ...]
    over: Modality

    @property
    def wants_restart(self) -> bool:
        return any(turn.restart for turn in self.turns)

    @property
    def first_agent(self) -> str:
        """Who answers at first; empty where the script leaves it to the engine."""
        return next(iter(self.agents), "")

    def modality(self, turn: Turn) -> Modality:
        return turn.over or self.over

    def stretches(self) -> Iterator[Stretch]:
        """What is said in one go: a whole call with the texts sent meanwhile, or texts of one kind in a row."""
        first = 0
        for number, turn in enumerate(self.turns):
            if turn.in_call:
                continue
            if turn.new_call or turn.restart or self.modality(self.turns[first]) != self.modality(turn):
                if number:
                    yield self._stretch(first, number)
                first = number
        yield self._stretch(first, len(self.turns))

    def _stretch(self, first: int, end: int) -> Stretch:
        return Stretch(self.modality(self.turns[first]), first, self.turns[first:end])


@dataclass(frozen=True, slots=True)
class Stretch:
    """Turns of one call, texts sent meanwhile among them, or texts."""

    over: Modality
    first: int
    """Number of its first turn in the script, from 0."""
    turns: tuple[Turn, ...]


def texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """One text is a list of one."""
    return (value,) if isinstance(value, str) else value


def shipped() -> tuple[str, ...]:
    """The names of the conversations that come with Offhook."""
    folder = resources.files("engine.converse") / FOLDER
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load(path_or_name: str | Path, *, over: Modality | None = None) -> Script:
    """A conversation that ships with Offhook, by name, or a TOML file, by path. ``over`` is taken where the script
    gives none for a turn.

    Raises SettingsError naming the file, the key and what was expected.
    """
    text, file = _read(path_or_name)
    return parse(text, file, over=over)


def parse(text: str, file: str, *, over: Modality | None = None) -> Script:
    """Raises SettingsError as ``load`` does."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{file}: not valid TOML: {exc}") from None
    try:
        content = msgspec.convert(raw, _File)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"{file}: {_explain(str(exc))}") from None
    number = e164(content.caller, "US")
    if not number:
        raise SettingsError(f"{file}: caller: expected a phone number such as +15005550006, got {content.caller!r}")
    script = Script(
        name=Path(file).stem,
        file=file,
        description=content.description,
        scope=content.scope,
        caller=number,
        dialled=content.dialled,
        agents=content.agents,
        sessions=content.sessions,
        turns=content.turns,
        over=over or content.over,
    )
    _check(script)
    return script


def source(path_or_name: str | Path) -> str:
    """The text of a script, to copy from. Raises SettingsError."""
    return _read(path_or_name)[0]


def _read(path_or_name: str | Path) -> tuple[str, str]:
    path = Path(path_or_name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except FileNotFoundError:
            raise SettingsError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: cannot be read ({type(exc).__name__})") from None
    if str(path) not in shipped():
        names = ", ".join(shipped())
        raise SettingsError(f"script {str(path)!r}: expected one of {names}, or the path of a .toml file")
    file = resources.files("engine.converse") / FOLDER / f"{path}.toml"
    return file.read_text(encoding="utf-8"), f"{path}.toml"


_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_WORDS = {"`str` of length >= 1": "a text", "`array` of length >= 1": "a list of one or more"}
_WORDS |= {"`str`": "a text", "`array`": "a list", "`object`": "a table", "`bool`": "true or false"}
_WORDS |= {"`int`": "a number", "`float`": "a number", " | ": " or "}
_CHOICES = {"over": Modality, "scope": Scope}


def _explain(error: str) -> str:
    """msgspec's ``Expected `str`, got `int` - at `$.turns[0].say``` in the words of a settings error: the key first."""
    match = _AT.fullmatch(error)
    what, path = (match["what"], match["path"] or "") if match else (error, "")
    prefix = f"{path}." if path else ""
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        return f"{prefix}{unknown[1]}: there is no such key"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{prefix}{missing[1]}: expected, and it is missing"
    if what.startswith("Invalid enum value") and (choices := _CHOICES.get(path.rpartition(".")[2])):
        return f"{path}: expected one of {', '.join(choices)}, got {what.removeprefix('Invalid enum value ')}"
    for term, word in _WORDS.items():
        what = what.replace(term, word)
    return f"{path or 'the file'}: {what[:1].lower()}{what[1:]}"


def _check(script: Script) -> None:
    """What no type can say."""
    if script.dialled and not e164(script.dialled, "US"):
        raise SettingsError(f"{script.file}: dialled: expected a phone number, got {script.dialled!r}")
    for name, agent in script.agents.items():
        if bool(agent.script) == bool(agent.factory):
            raise SettingsError(f"{script.file}: agents.{name}: expected a script or a factory")
    begins = {stretch.first for stretch in script.stretches()}
    for number, turn in enumerate(script.turns):
        at = f"{script.file}: turns[{number}]"
        if turn.agent and script.agents and turn.agent not in script.agents:
            raise SettingsError(f"{at}.agent: expected one of {', '.join(script.agents)}, got {turn.agent!r}")
        is_call = script.modality(turn) is Modality.VOICE
        if turn.in_call and not _may_be_in_call(script, number):
            raise SettingsError(f"{at}.in_call: expected in SMS that follow a turn of a call, without a restart")
        if turn.new_call and not is_call:
            raise SettingsError(f"{at}.new_call: expected in turns over voice alone")
        if (turn.greeting or turn.greeting_not) and not (is_call and number in begins):
            raise SettingsError(f"{at}.greeting: expected in the first turn of a call alone")
        for key in ("expect", "expect_not", "greeting", "greeting_not"):
            for wanted in texts(getattr(turn, key)):
                _check_pattern(f"{at}.{key}", wanted)


def _may_be_in_call(script: Script, number: int) -> bool:
    turn, before = script.turns[number], script.turns[number - 1] if number else None
    follows_call = before is not None and (before.in_call or script.modality(before) is Modality.VOICE)
    return script.modality(turn) is Modality.SMS and follows_call and not turn.restart


def _check_pattern(at: str, wanted: str) -> None:
    if (pattern := pattern_in(wanted)) is None:
        return
    try:
        re.compile(pattern)
    except re.error as exc:
        raise SettingsError(f"{at}: {wanted!r} is no pattern: {exc}") from None


def pattern_in(wanted: str) -> str | None:
    """What stands between the slashes of ``/.../``."""
    return wanted[1:-1] if len(wanted) > 2 and wanted.startswith("/") and wanted.endswith("/") else None
