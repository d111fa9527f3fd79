"""Where a conversation is in a script, and its way into a text that outlives the model. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.scripted.parts import Intent, Slot
from adapters.scripted.script import Script

VERSION = 1
VALUE_CHARS = 200
"""Of one value."""
SAID_CHARS = 600
"""Of the last answer."""
REQUEST_CHARS = 300
LOG_LENGTH = 6
LOG_CHARS = 120
LONGEST_STATE_CHARS = 20_000
"""What is longer was not written here."""


@dataclass(frozen=True, slots=True)
class Form:
    """An intent whose slots are being filled."""

    intent: Intent
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """Something the caller asked for."""

    text: str
    intent: str
    came: str = ""
    """What came of it; empty as long as that is open."""


@dataclass(frozen=True, slots=True)
class State:
    """Where one conversation is in the script."""

    intent: Intent | None = None
    """Whose slots are being filled."""
    values: Mapping[str, str] = field(default_factory=dict)
    is_confirming: bool = False
    offered_more: bool = False
    """Something was answered: a plain "no" now means that this was all."""
    misses: int = 0
    """Utterances in a row that were not understood."""
    last_said: str = ""
    channel: str = ""
    """The call, or the texts, that this belongs to."""
    suspended: Form | None = None
    """Begun over another channel and not finished."""
    known: Mapping[str, str] = field(default_factory=dict)
    """Values that hold beyond the form that they were given in."""
    request: str = ""
    """The last errand, in the caller's words."""
    log: tuple[Request, ...] = ()

    @property
    def expected(self) -> Slot | None:
        """The slot that is asked for now."""
        if self.intent is None:
            return None
        return next((slot for slot in self.intent.asked(self.values) if slot.name not in self.values), None)

    @property
    def entities(self) -> dict[str, str]:
        """Every value there is, those of an open form included."""
        return {**self.known, **self.given}

    @property
    def given(self) -> dict[str, str]:
        """The values of a form that is not complete."""
        form = Form(self.intent, self.values) if self.intent else self.suspended
        asked = {slot.name for slot in form.intent.asked(form.values)} if form else set()
        return {name: value for name, value in form.values.items() if name in asked} if form else {}

    def at_rest(self, **changes: Any) -> State:
        """No form, nothing offered; what is known stays."""
        rest = State(
            last_said=self.last_said, channel=self.channel, known=self.known, request=self.request, log=self.log
        )
        return replace(rest, **changes)

    def over(self, channel: str) -> State:
        """As it is when the conversation goes on over this channel: a form waits for words that fit it."""
        if channel == self.channel or self == State():
            return replace(self, channel=channel)
        form = Form(self.intent, self.values) if self.intent else self.suspended
        return self.at_rest(channel=channel, suspended=form)

    def asked(self, text: str, intent: str, came: str = "") -> State:
        """The caller wants something."""
        request = Request(_cut(text, LOG_CHARS), intent, _cut(came, LOG_CHARS))
        log = [item for item in self.log if (item.text, item.intent) != (request.text, intent)]
        return replace(self, request=text[:REQUEST_CHARS], log=(*log, request)[-LOG_LENGTH:])

    def came(self, intent: str, came: str) -> State:
        """What was asked for last with this intent has ended so."""
        log = list(self.log)
        for index in reversed(range(len(log))):
            if log[index].intent == intent and not log[index].came:
                log[index] = replace(log[index], came=_cut(came, LOG_CHARS))
                break
        return replace(self, log=tuple(log))


def _cut(text: str, most: int) -> str:
    """Whole words."""
    return text if len(text) <= most else f"{text[: most - 1].rsplit(' ', 1)[0]}…"


# --- to text and back ---------------------------------------------------------------------------------------


def dump(state: State) -> str:
    form = Form(state.intent, state.values) if state.intent else None
    return json.dumps(
        {
            "v": VERSION,
            "form": _form_out(form),
            "suspended": _form_out(state.suspended),
            "confirming": state.is_confirming,
            "offered": state.offered_more,
            "misses": state.misses,
            "said": state.last_said,
            "channel": state.channel,
            "known": dict(state.known),
            "request": state.request,
            "log": [[item.text, item.intent, item.came] for item in state.log],
        },
        ensure_ascii=False,
        sort_keys=True,
        separators=(",", ":"),
    )


def load(text: str, script: Script) -> State:
    """A state as ``dump`` wrote it; of what does not fit the script, or cannot be read, nothing."""
    try:
        raw = json.loads(text) if 0 < len(text) <= LONGEST_STATE_CHARS else None
    except (ValueError, RecursionError):
        return State()
    if not isinstance(raw, dict) or raw.get("v") != VERSION:
        return State()
    form = _form_in(raw.get("form"), script)
    state = State(
        intent=form.intent if form else None,
        values=form.values if form else {},
        offered_more=raw.get("offered") is True,
        misses=min(_count(raw.get("misses")), script.lines.patience),
        last_said=_text(raw.get("said"), SAID_CHARS),
        channel=_text(raw.get("channel"), VALUE_CHARS),
        suspended=_form_in(raw.get("suspended"), script),
        known=_texts(raw.get("known"), script.names),
        request=_text(raw.get("request"), REQUEST_CHARS),
        log=tuple(_log(raw.get("log"))),
    )
    can_confirm = form is not None and state.expected is None and form.intent.confirm != ""
    return replace(state, is_confirming=can_confirm and raw.get("confirming") is True)


def _form_out(form: Form | None) -> dict[str, Any] | None:
    return {"intent": form.intent.name, "values": dict(form.values)} if form else None


def _form_in(raw: Any, script: Script) -> Form | None:
    if not isinstance(raw, dict) or not isinstance(raw.get("intent"), str):
        return None
    intent = script.intents.get(raw["intent"])
    if intent is None or not intent.slots:
        return None
    values = _texts(raw.get("values"), intent.slot_names)
    stale = {slot.name for slot in intent.slots if slot.choices and values.get(slot.name) not in slot.choices}
    return Form(intent, {name: value for name, value in values.items() if name not in stale})


def _log(raw: Any) -> list[Request]:
    rows = raw if isinstance(raw, list) else []
    whole = [row for row in rows if isinstance(row, list) and len(row) == 3 and all(isinstance(it, str) for it in row)]
    return [Request(text[:LOG_CHARS], intent, came[:LOG_CHARS]) for text, intent, came in whole[-LOG_LENGTH:]]


def _texts(raw: Any, names: frozenset[str]) -> dict[str, str]:
    items = raw.items() if isinstance(raw, dict) else ()
    return {key: value[:VALUE_CHARS] for key, value in items if key in names and isinstance(value, str) and value}


def _text(raw: Any, most: int) -> str:
    return raw[:most] if isinstance(raw, str) else ""


def _count(raw: Any) -> int:
    return raw if isinstance(raw, int) and raw > 0 else 0
