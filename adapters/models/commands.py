"""What callers say about the conversation itself: repeat, help, leave it. Works on plain text. Pure."""

from __future__ import annotations

import re

from adapters.models.spoken import is_keys, mentions_any, yes_or_no

_SHORT_WORDS = 6
"""A command is short; in a longer utterance its words mean something else."""
_BARE_YES_WORDS = 3
_WHAT = frozenset(["what", "sorry", "sorry what", "excuse me", "huh", "hm"])
_REPEAT = (
    "repeat", "say that again", "say it again", "pardon", "come again", "what did you say", "what was that",
    "once more", "did not hear", "did not catch",
)  # fmt: skip
_HELP = ("help", "what can you do", "what can i say", "options", "menu")
_LEAVE = ("never mind", "start over", "forget it", "start again", "changed my mind")
_KEEP = ("keep it", "keep my appointment", "keep the appointment", "leave it as it is")
_DECLINE = (
    "do not want to", "do not want it", "do not want an", "do not want any", "would rather not", "rather not say",
)  # fmt: skip
_NOTHING_ELSE = re.compile(
    r"(?:(?:well|um|uh|oh|okay|ok|thanks|thank you|i think)\b ?)*"
    r"(?:no|nope|nah|not (?:really|now|today|at the moment)|i do not think so|i am (?:fine|good)|never mind)\b"
)
_GREETING = re.compile(
    r"(?:(?:hello|hi|hey|good (?:morning|afternoon|evening)|thank you|thanks|there|and|okay|ok)\b ?)+"
)
_NO_WORDS = frozenset(["no", "nope", "nah", "not", "thank", "thanks", "you", "really", "now"])


def asks_to_repeat(said: str) -> bool:
    return said in _WHAT or (_is_short(said) and mentions_any(said, _REPEAT))


def asks_for_help(said: str) -> bool:
    return _is_short(said) and mentions_any(said, _HELP)


def leaves(said: str, *, free_text: bool = False) -> bool:
    """Wants out of what was begun. ``free_text``: anything was asked for, so only a plain word counts."""
    starts = any(said.startswith(phrase) for phrase in _LEAVE)
    if free_text or not _is_short(said):
        return starts
    return mentions_any(said, (*_LEAVE, *_KEEP))


def declines(said: str) -> bool:
    """A plain no to a question that has no yes and no: the caller does not want to say."""
    return mentions_any(said, _DECLINE) or (said.startswith("n") and set(said.split()) <= _NO_WORDS)


def answers_offer(text: str, said: str) -> bool | None:
    """Yes or no to "anything else?": nothing more is in it, so that a long sentence with "no" ends no call."""
    if "?" in text or not said:
        return None
    if is_keys(said):
        return yes_or_no(said)
    if _NOTHING_ELSE.match(said):
        return False
    is_bare = len(said.split()) <= _BARE_YES_WORDS and yes_or_no(said)
    return True if is_bare else None


def after_greeting(said: str) -> str:
    """What is left when "hello" or "thanks" was only the beginning; empty if nothing is."""
    return _GREETING.sub("", said, count=1) if _GREETING.match(said) else said


def _is_short(said: str) -> bool:
    return len(said.split()) <= _SHORT_WORDS
