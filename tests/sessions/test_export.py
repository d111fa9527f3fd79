"""A session as a document."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from engine.dialogue.history import Entry
from engine.events import Memory, MemoryItem, MemoryKind, Modality, Role
from engine.sessions.export import as_json, as_markdown
from engine.storage.record import Scope, SessionRecord, Stored

NUMBER = "+15550100000"
AT = 1_700_000_000.0
"""2023-11-14 22:13:20 UTC."""
MEMORY = Memory("Wants a table.", {"name": "Ann"}, (MemoryItem(MemoryKind.PREFERENCE, "a window seat", 0.8),))
RECORD = SessionRecord(
    "s_1",
    f"caller:{NUMBER}",
    Scope.CALLER,
    AT,
    AT + 99_000,
    "desk",
    Modality.SMS,
    number=NUMBER,
    message_count=3,
    memory=MEMORY,
)
ENTRIES = (
    Entry("t_1.0", "t_1", AT, Role.AGENT, "Hello!", "desk", Modality.VOICE, "CA1", is_opening=True, response_ms=300),
    Entry(
        "t_2.0", "t_2", AT + 5, Role.CALLER, "a table", "desk", Modality.VOICE, original="a cable", edited_at=AT + 50
    ),
    Entry("t_2.1", "t_2", AT + 9, Role.AGENT, "For how", "orders", Modality.VOICE, interrupted=True),
    Entry("t_3.0", "t_3", AT + 90_000, Role.CALLER, "for two\nplease", "desk", Modality.SMS),
)
STORED = Stored(RECORD, 4, ENTRIES)


def test_the_json_holds_everything_and_its_version() -> None:
    document = json.loads(as_json(STORED, with_number=True))
    assert (document["schema"], document["version"]) == ("offhook/session", 1)
    assert document["session"]["number"] == NUMBER
    assert document["memory"]["items"] == [{"kind": "preference", "content": "a window seat", "confidence": 0.8}]
    assert len(document["messages"]) == 4
    assert document["messages"][1] == {
        "entry_id": "t_2.0",
        "turn_id": "t_2",
        "at": AT + 5,
        "role": "user",
        "text": "a table",
        "agent": "desk",
        "modality": "voice",
        "call_id": "",
        "interrupted": False,
        "is_opening": False,
        "response_ms": None,
        "original": "a cable",
        "edited_at": AT + 50,
    }


def test_the_number_stands_in_no_document_unless_asked_for() -> None:
    for text in (as_json(STORED), as_markdown(STORED)):
        assert "5550100000" not in text
        assert "***0000" in text.replace("\\", "")
    assert NUMBER in as_markdown(STORED, with_number=True)


def test_the_transcript_says_who_said_what_when_and_what_became_of_it() -> None:
    assert as_markdown(STORED, with_number=True) == (
        "# Session s\\_1\n"
        "\n"
        "- Caller: +15550100000\n"
        "- Agent: desk\n"
        "- Begun: 2023-11-14 22:13:20 UTC\n"
        "- Last message: 2023-11-16 01:43:20 UTC\n"
        "- Messages in all: 3\n"
        "\n"
        "## What is known\n"
        "\n"
        "Wants a table.\n"
        "\n"
        "- name: Ann\n"
        "- a window seat (preference)\n"
        "\n"
        "## 2023-11-14\n"
        "\n"
        "**22:13:20 Agent desk** (voice, opening)\n"
        "\n"
        "> Hello!\n"
        "\n"
        "**22:13:25 Caller** (voice, edited 2023-11-14 22:14:10)\n"
        "\n"
        "> a table\n"
        ">\n"
        "> Before it was edited:\n"
        ">\n"
        "> > a cable\n"
        "\n"
        "**22:13:29 Agent orders** (voice, interrupted)\n"
        "\n"
        "> For how\n"
        "\n"
        "## 2023-11-15\n"
        "\n"
        "**23:13:20 Caller** (sms)\n"
        "\n"
        "> for two\n"
        "> please\n"
    )


def test_what_could_not_be_read_is_said() -> None:
    assert "could not be read: 2" in as_markdown(replace(STORED, unreadable=2))
    assert json.loads(as_json(replace(STORED, unreadable=2)))["unreadable"] == 2


HOSTILE = st.text(st.characters() | st.sampled_from("<>[]()*_`#-+=.1&;~|!\\ \n"), max_size=60)


@given(HOSTILE)
@example("\x1e\x1b")
def test_nothing_that_is_said_becomes_markup(text: str) -> None:
    entry = replace(ENTRIES[3], text=f"<b>{text}</b>\n# {text}\n[{text}](x)\n1. {text}\n- {text}\n---\n{text}")
    tokens = MarkdownIt("commonmark").parse(as_markdown(Stored(replace(RECORD, memory=Memory()), 1, (entry,))))
    begins = next(at for at, token in enumerate(tokens) if token.type == "blockquote_open")
    kinds = [token.type for token in tokens[begins:]]
    assert kinds == ["blockquote_open", "paragraph_open", "inline", "paragraph_close", "blockquote_close"]
    children = {child.type for child in tokens[begins + 2].children or ()}
    assert children <= {"text", "text_special", "softbreak"}


@given(st.text(max_size=50), st.floats())
def test_any_words_at_any_time_make_a_document(text: str, at: float) -> None:
    stored = replace(STORED, entries=(replace(ENTRIES[1], text=text, at=at, edited_at=at),))
    as_markdown(stored)
    as_json(stored)
