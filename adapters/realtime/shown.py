"""What a speech-to-speech model is shown of a session that goes on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from engine.events import Context, Message, Role

GO_ON = (
    "[Your answer broke off there for technical reasons; the caller has heard it so far. "
    "Go on from exactly that point and say nothing of it again.]"
)
INTERRUPTED = " —"
_ABOUT_INTERRUPTED = 'Where one of your messages ends in "—", the caller cut in there and did not hear the rest.'
_NAMES = {Role.CALLER: "Caller", Role.AGENT: "You"}


def instructions_of(context: Context) -> str:
    """The instructions and system messages as one text."""
    texts = [context.instructions, *(message.text for message in context if message.role is Role.SYSTEM)]
    if any(message.interrupted for message in context):
        texts.append(_ABOUT_INTERRUPTED)
    return "\n\n".join(text.strip() for text in texts if text.strip())


def turns_of(context: Context) -> list[tuple[Role, str]]:
    """What the two sides said, oldest first."""
    said = [(message.role, _text(message)) for message in context if message.role is not Role.SYSTEM]
    return [(role, text) for role, text in said if text]


def story_of(turns: Sequence[tuple[Role, str]]) -> str:
    """What the two sides said as one text for a model that takes no messages; empty if nothing was."""
    lines = [f"{_NAMES[role]}: {text}" for role, text in turns]
    if not lines:
        return ""
    head = "What was said in this conversation before. It goes on from here; do not greet the caller again."
    return "\n".join([head, *lines])


def _text(message: Message) -> str:
    text = message.text.strip()
    return text + INTERRUPTED if message.interrupted and text else text
