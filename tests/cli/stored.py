"""A store on disk with a session in it, for the tools that look at stores."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from engine.assembly import open_vault
from engine.cli import _code_of, app
from engine.dialogue.history import Entry, TraceEvent, TraceWhat
from engine.events import Memory, MemoryItem, MemoryKind, Modality, Role
from engine.settings import load_settings
from engine.storage.identity import caller_key
from engine.storage.record import Save, Scope, SessionRecord, new_session_id

NUMBER = "+15005550006"
OTHER = "+15005550007"
AT = 1_800_000_000.0
"""2027; far enough from now that nothing has expired."""
SAID = ("Hello, how can I help?", "I want tea at 555-010-2000.", "On Tuesday or on Friday?", "On Friday.")


@dataclass
class Stored:
    """``run("trace", "x")`` is ``offhook trace x --config FILE``; returns the exit code."""

    config: Path
    session_id: str
    call_id: str

    def run(self, *words: str) -> int:
        return run(*words, "--config", str(self.config))


def run(*words: str) -> int:
    try:
        code = app(words, result_action="return_value")
    except Exception as exc:  # noqa: BLE001 - what main() does with it
        return _code_of(exc)
    assert isinstance(code, int)
    return code


def session(session_id: str, number: str = NUMBER) -> SessionRecord:
    memory = Memory("Wants tea.", {"drink": "tea"}, (MemoryItem(MemoryKind.PREFERENCE, "likes Fridays", 0.9),))
    return SessionRecord(
        session_id,
        caller_key(number),
        Scope.CALLER,
        AT,
        AT + 3,
        "desk",
        Modality.VOICE,
        number=number,
        message_count=4,
        turns=2,
        calls=1,
        memory=memory,
        was_opened=True,
    )


def entries(call_id: str) -> tuple[Entry, ...]:
    roles = (Role.AGENT, Role.CALLER, Role.AGENT, Role.CALLER)
    return tuple(
        Entry(f"e{i}", f"t{(i + 1) // 2}", AT + i, role, text, "desk", Modality.VOICE, call_id, is_opening=i == 0)
        for i, (role, text) in enumerate(zip(roles, SAID, strict=True))
    )


def trace(session_id: str, *, shows_all: bool = True) -> tuple[TraceEvent, ...]:
    before = [["assistant", SAID[0]]] if shows_all else []
    asked = {
        "turn_id": "t1",
        "agent": "desk",
        "vendor": "script",
        "modality": "voice",
        "call_id": "",
        "shown": [*before, ["user", SAID[1]]],
        "violations": [],
    }
    answered = {"turn_id": "t1", "agent": "desk", "vendor": "script", "text": SAID[2], "status": "ok", "ms": 1.5}
    fields = (
        (0.0, TraceWhat.CREATED, {"scope": "caller", "modality": "voice", "agent": "desk"}),
        (0.0, TraceWhat.OPENING_SAID, {"agent": "desk", "text": SAID[0], "call_id": ""}),
        (1.5, TraceWhat.MODEL_ASKED, asked),
        (1.6, TraceWhat.MODEL_ANSWERED, answered),
    )
    return tuple(TraceEvent(AT + at, what, {"session_id": session_id, **more}) for at, what, more in fields)


def new_store(folder: Path, *, shows_all: bool = True) -> Stored:
    config = settings_in(folder)
    made = Stored(config, new_session_id(), "CA0123456789")

    async def fill() -> None:
        async with open_vault(load_settings(config)) as vault:
            save = Save(session(made.session_id), 0, entries(made.call_id), trace(made.session_id, shows_all=shows_all))
            await vault.write([save, Save(session(new_session_id(), OTHER), 0, entries("other"))])

    trio.run(fill)
    return made


def settings_in(folder: Path) -> Path:
    config = folder / "offhook.toml"
    config.write_text(f'[store]\npath = "{folder}/s.db"\njournal = "{folder}/j"\n', encoding="utf-8")
    return config


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Made once: what tests write to is a copy."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("ENCRYPTION_KEYS", raising=False)
        return new_store(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def stored(original: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    monkeypatch.delenv("ENCRYPTION_KEYS", raising=False)
    for file in original.config.parent.glob("s.db*"):
        shutil.copy(file, tmp_path)
    return replace(original, config=settings_in(tmp_path))
