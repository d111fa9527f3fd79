"""Every mistake in a script is named: the file, the key, what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.scripted.parts import SlotType
from adapters.scripted.script import load_script, shipped_scripts
from engine.errors import SettingsError

SMALL = """
[facts]
shop = "the shop"

[phrases]
greeting = "Hello, this is {shop}."

[lines]
help = "Ask me anything."
unclear = "Sorry?"
anything_else = "Anything else?"
give_up = "Goodbye."
fallback = "order"
farewell = "bye"

[[intents]]
name = "order"
keywords = ["order"]
answer = "One {size} coming up."
confirm = "A {size} one?"
declined = "Then not."

  [[intents.slots]]
  name = "size"
  type = "choice"
  prompt = "Which size?"
  reprompt = "Small or large?"
    [intents.slots.choices]
    small = ["little"]
    large = ["big"]

[[intents]]
name = "bye"
keywords = ["bye"]
answer = "Bye."
hang_up = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "small.toml"


def test_a_script_becomes_values(file: Path) -> None:
    file.write_text(SMALL)
    script = load_script(file)
    assert script.name == "small"
    assert script.phrases.greeting == "Hello, this is the shop."
    assert script.phrases.still_there == "Are you still there?"
    assert script.intents["order"].slots[0].type is SlotType.CHOICE


def test_fixed_phrases_hold_nothing_of_a_caller(file: Path) -> None:
    """What goes into the cache of phrases is said to every caller alike."""
    file.write_text(SMALL)
    phrases = load_script(file).fixed_phrases()
    assert "Which size?" in phrases
    assert "Hello, this is the shop." in phrases
    assert not any("{" in phrase or "coming up" in phrase for phrase in phrases)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'type = "choice"',
            'type = "colour"',
            r"small\.toml: intents\[0\]\.slots\[0\]\.type: expected one of text",
        ),
        ('prompt = "Which size?"', "prompt = 3", r"intents\[0\]\.slots\[0\]\.prompt: expected text"),
        ('reprompt = "Small or large?"', "", r"slots\[0\]\.reprompt: expected text, and it is missing"),
        ("hang_up = true", 'hang_up = "yes"', r"intents\[1\]\.hang_up: expected true or false"),
        (
            "hang_up = true",
            "hangup = true",
            r"intents\[1\]\.hangup: expected one of answer, answers, answers_by, confirm",
        ),
        (
            '"One {size} coming',
            '"One {colour} coming',
            r"answer: expected only references to shop, size, not \{col",
        ),
        ('"One {size} coming', '"One {size coming', r"answer: expected text in which every \{ has its \}"),
        ('fallback = "order"', 'fallback = "message"', r"lines\.fallback: expected the name of an intent: order, bye"),
        ('keywords = ["order"]', 'keywords = "order"', r"intents\[0\]\.keywords: expected a list of texts"),
        ('declined = "Then not."', "", r"intents\[0\]\.declined: expected text, because there is a confirm"),
        ('name = "bye"', 'name = "order"', r"intents\[1\]\.name: expected a name that no other intent has"),
        ('small = ["little"]', "small = 1", r"choices\.small: expected a list of texts"),
        ("[phrases]", "[phrase]", r"phrases: expected a table, and it is missing"),
        ("[phrases]", '[phrases]\ngoodby = "Bye"', r"phrases\.goodby: expected one of"),
        ("[facts]", "[facts", r"small\.toml: not valid TOML"),
    ],
)
def test_a_mistake_is_named(file: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    file.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(SettingsError, match=message):
        load_script(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "size"', 'name = "size"\nremember = 1', r"slots\[0\]\.remember: expected true or false"),
        (
            'name = "size"',
            'name = "size"\nrecall = ["which size"]',
            r"slots\[0\]\.recalled: expected recall and recalled",
        ),
        (
            'name = "size"',
            'name = "size"\nrecall = ["which"]\nrecalled = "{colour}"',
            r"intents\[0\]\.size\.recalled: expected no reference to \{colour\}",
        ),
        (
            'name = "size"',
            'name = "size"\nwhen = {colour = ["red"]}',
            r"slots\[0\]\.when\.colour: expected the name of a",
        ),
        ('answer = "Bye."', 'answer = "Bye."\nforgets = ["colour"]', r"intents\[1\]\.forgets: expected names of slots"),
        (
            "hang_up = true",
            'hang_up = true\nhand_over = "desk"',
            r"intents\[1\]\.hand_over: expected no slots and no hang",
        ),
        (
            'answer = "Bye."',
            'answers_by = "size"\nanswer = "Bye."',
            r"answers_by: expected the name of a slot of the type",
        ),
        (
            'answer = "One {size} coming up."',
            'answers_by = "size"\nanswers = {large = "L."}',
            r"answers: expected a text for small too",
        ),
        (
            'declined = "Then not."',
            'declined = "Then not."\nanswers_by = "size"\nanswers = {huge = "No."}',
            r"intents\[0\]\.answers: expected a text for each of small, large",
        ),
        (
            'declined = "Then not."',
            'declined = "Then not."\nderived = [{name = "p", otherwise = "1", cases = [{size = ["x"], value = "2"}]}]',
            r"derived\[0\]\.cases\[0\]\.size: expected a list of some of small, large",
        ),
        (
            'declined = "Then not."',
            'declined = "Then not."\nderived = [{name = "price"}]',
            r"derived\[0\]\.otherwise: expected text, and it is missing",
        ),
        (
            "[facts]",
            '[written]\n"Hello {name}" = ""\n[facts]',
            r"written\.Hello \{name\}: expected only references to facts",
        ),
    ],
)
def test_a_mistake_in_what_is_remembered_is_named(file: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    file.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(SettingsError, match=message):
        load_script(file)


def test_an_answer_may_refer_to_what_its_choice_alone_asks_for(file: Path) -> None:
    """And no other text may."""
    asked = """
  [[intents.slots]]
  name = "gift"
  type = "yes_no"
  when = {size = ["large"]}
  prompt = "As a gift?"
  reprompt = "A gift?"
"""
    small = SMALL.replace(
        'answer = "One {size} coming up."', 'answers_by = "size"\nanswers = {small = "S.", large = "L {gift}"}'
    )
    small = small.replace('large = ["big"]', f'large = ["big"]{asked}')
    file.write_text(small)
    assert load_script(file).intents["order"].answer_to({"size": "large"}) == "L {gift}"
    for old, new in (('"S."', '"S {gift}"'), ('"A {size} one?"', '"A {gift}?"')):
        file.write_text(small.replace(old, new))
        with pytest.raises(SettingsError, match=r"expected only references to shop, size, not \{gift\}"):
            load_script(file)


def test_who_comes_back_is_greeted_in_the_scripts_words() -> None:
    desk = load_script("appointment_desk")
    assert desk.phrases.returning == "Welcome back to Riverside Practice. How can I help you?"
    assert desk.phrases.returning in desk.fixed_phrases()
    assert desk.lines.history in desk.fixed_phrases()


def test_a_script_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: no such file"):
        load_script("nowhere.toml")
    with pytest.raises(SettingsError, match="expected one of appointment_desk"):
        load_script("nobody")


@pytest.mark.parametrize("name", shipped_scripts())
def test_what_ships_is_right(name: str) -> None:
    assert load_script(name).phrases.greeting
