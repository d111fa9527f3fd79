"""Scripts of test conversations: what is read, and how an error names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.converse.script import load, parse, shipped
from engine.errors import SettingsError
from engine.events import Modality
from engine.storage.record import Scope

TURN = '[[turns]]\nsay = "Hello."\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "turns: expected, and it is missing"),
        ("turns = []", "turns: expected a list of one or more"),
        ("a = [", "not valid TOML"),
        ("[[turns]]\nsay = 3", "turns[0].say: expected a text, got a number"),
        ('[[turns]]\nsay = ""', "turns[0].say: expected a text"),
        (f"{TURN}sya = 1", "turns[0].sya: there is no such key"),
        (f"{TURN}[[turns]]\n", "turns[1].say: expected, and it is missing"),
        (f"{TURN}expect = [1]", "turns[0].expect[0]: expected a text, got a number"),
        (f'{TURN}expect = "/(/"', "turns[0].expect: '/(/' is no pattern"),
        (f"{TURN}new_call = 1", "turns[0].new_call: expected true or false, got a number"),
        (f'over = "fax"\n{TURN}', "over: expected one of voice, sms, text, got 'fax'"),
        (f'{TURN}over = "fax"', "turns[0].over: expected one of voice, sms, text, got 'fax'"),
        (f'scope = "all"\n{TURN}', "scope: expected one of call, caller, got 'all'"),
        (f'caller = "nobody"\n{TURN}', "caller: expected a phone number"),
        (f'dialled = "nobody"\n{TURN}', "dialled: expected a phone number"),
        (f"agents.desk = {{}}\n{TURN}", "agents.desk: expected a script or a factory"),
        (f'agents.desk = {{script = "a", factory = "b:c"}}\n{TURN}', "agents.desk: expected a script or a factory"),
        (f'agents.desk.script = "a"\n{TURN}agent = "x"', "turns[0].agent: expected one of desk, got 'x'"),
        (f"{TURN}new_call = true", "turns[0].new_call: expected in turns over voice alone"),
        (f'{TURN}greeting = "Hello"', "turns[0].greeting: expected in the first turn of a call alone"),
        (
            f'over = "voice"\n{TURN}{TURN}greeting_not = "Hello"',
            "turns[1].greeting: expected in the first turn of a call alone",
        ),
    ],
)
def test_an_error_names_the_file_the_key_and_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text, "talk.toml")
    assert str(caught.value).startswith(f"talk.toml: {expected}")


def test_a_script_is_read_with_its_defaults() -> None:
    script = parse(f'caller = "1 (500) 555-0006"\n{TURN}expect = "Hello"\n', "x/talk.toml")
    assert (script.name, script.caller, script.scope) == ("talk", "+15005550006", Scope.CALLER)
    assert script.modality(script.turns[0]) is Modality.TEXT


def test_over_is_taken_where_the_script_leaves_it_open() -> None:
    script = parse(f'{TURN}{TURN}over = "sms"\n', "talk.toml", over=Modality.VOICE)
    assert [script.modality(turn) for turn in script.turns] == [Modality.VOICE, Modality.SMS]


def test_a_stretch_ends_with_a_new_call_a_restart_and_another_modality() -> None:
    script = parse(
        f'over = "voice"\n{TURN}{TURN}{TURN}new_call = true\n{TURN}over = "sms"\n{TURN}over = "sms"\nrestart = true\n',
        "talk.toml",
    )
    assert [(str(item.over), item.first, len(item.turns)) for item in script.stretches()] == [
        ("voice", 0, 2),
        ("voice", 2, 1),
        ("sms", 3, 1),
        ("sms", 4, 1),
    ]


def test_a_text_in_a_call_does_not_end_its_stretch() -> None:
    sms = f'{TURN}over = "sms"\n'
    script = parse(f'over = "voice"\n{TURN}{sms}in_call = true\n{TURN}{sms}{sms}', "talk.toml")
    assert [(str(item.over), item.first, len(item.turns)) for item in script.stretches()] == [
        ("voice", 0, 3),
        ("sms", 3, 2),
    ]


@pytest.mark.parametrize(
    "turns",
    [
        f'{TURN}over = "sms"\nin_call = true\n',
        f"{TURN}{TURN}in_call = true\n",
        f'{TURN}over = "sms"\n{TURN}over = "sms"\nin_call = true\n',
        f'{TURN}over = "voice"\n{TURN}over = "sms"\nin_call = true\nrestart = true\n',
    ],
)
def test_a_text_in_no_call_is_named(turns: str) -> None:
    with pytest.raises(SettingsError, match=r"turns\[\d\]\.in_call: expected in SMS that follow a turn of a call"):
        parse(turns, "talk.toml")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match=r"expected one of .*five_turns"):
        load("nothing")
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "a.toml")


def test_the_conversations_that_are_promised_ship_and_can_be_read() -> None:
    promised = {"five_turns", "product_classification", "officer", "one_session_id", "long_conversation"}
    assert promised <= set(shipped())
    for name in shipped():
        script = load(name)
        assert script.description
        assert script.agents
    assert len(load("five_turns").turns) == 5
    assert len(load("long_conversation").turns) >= 30
    assert load("one_session_id").wants_restart
