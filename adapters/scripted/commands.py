"""What callers say about the conversation itself: repeat, help, leave it. Works on plain text. Pure."""

from __future__ import annotations

import re

from adapters.scripted.spoken import is_keys, mentions_any, yes_or_no

_SHORT_WORDS = 6
"""A command is short; in a longer utterance its words mean something else."""
_BARE_YES_WORDS = 3
_WHAT = frozenset(["what", "sorry", "sorry what", "excuse me", "huh", "hm"])
_REPEAT = (
    "repeat", "say that again", "say it again", "pardon", "come again", "what did you say", "what was that",
    "say that once more", "say it once more", "tell me again", "did not hear", "did not catch",
)  # fmt: skip
_HELP = ("help", "what can you do", "what can i say", "options", "menu")
_LEAVE = ("never mind", "start over", "forget it", "forget that", "forget about it", "start again", "changed my mind")
_RESET = ("start over", "start again", "forget that", "forget it", "forget about it", "never mind")
_POLITE = (
    r"(?:(?:please|ok|okay|yes|well|so|and|now|just|sorry|um|uh|hello|hi|hey|thanks|thank you|"
    r"good (?:morning|afternoon|evening)|(?:can|could|would|will) (?:you|we)|let us|lets|may i|"
    r"you (?:should|can)|i (?:want|would like)(?: you)? to)\b ?)*"
)
_IT = r"(?: (?:it|that|this|the same|the same thing|my (?:last )?(?:question|request)))?"
_ONCE_MORE = r"(?: again| once again| once more| one more time)"
_AGAIN = re.compile(
    rf"{_POLITE}(?:(?:try|do|run|retry|check|look){_IT}{_ONCE_MORE}|retry{_IT}|{_ONCE_MORE.replace(' ', ' ?')}"
    r"|(?:the )?same again|give it another try|another try)(?: please| thanks| thank you| now| for me)*"
)
_HISTORY = (
    "chat history", "conversation history", "message history", "call history", "our history", "my history",
    "look at the history", "check the history", "the earlier messages", "previous messages", "previous conversation",
    "our last conversation", "what did we talk about", "what we talked about", "what have we talked about",
    "what were we talking about", "what did we discuss", "what we discussed", "what did i say", "what i said",
    "what have i said", "what did i ask", "what i asked", "what have i asked", "what did i tell you",
    "what i told you", "what did i want", "what did we say", "what did i write", "what i wrote", "scroll up",
)  # fmt: skip
_KNOWN = (
    "what do you know about me", "what do you know of me", "what you know about me", "what have you noted",
    "what did you note", "what do you remember", "what do you have about me", "what do you have on me",
    "do you remember me", "do you know who i am", "do you still know me", "what is known about me",
)  # fmt: skip
_GO_ON = (
    "go on", "continue", "carry on", "keep going", "go ahead", "where were we", "where did we stop",
    "where did we leave off", "where we left off", "where we stopped", "pick up where", "finish that", "finish it",
)  # fmt: skip
_LONGEST_QUESTION_WORDS = 14
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


def asks_again(said: str) -> bool:
    """ "Try again": what was asked for last is to be done once more."""
    return _AGAIN.fullmatch(said) is not None


def asks_for_history(said: str) -> bool:
    return len(said.split()) <= _LONGEST_QUESTION_WORDS and mentions_any(said, _HISTORY)


def asks_what_is_known(said: str) -> bool:
    return len(said.split()) <= _LONGEST_QUESTION_WORDS and mentions_any(said, _KNOWN)


def goes_on(said: str) -> bool:
    """Wants to go on with what was begun."""
    return _is_short(said) and mentions_any(said, _GO_ON)


def resets(said: str) -> bool:
    return _is_short(said) and mentions_any(said, _RESET)


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
