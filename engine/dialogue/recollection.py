"""What is worth knowing of a conversation, taken from its own words: for agents without a language model."""

from __future__ import annotations

from collections.abc import Sequence

from engine.events import Message, Recollection, Role

SUMMARY_CHARS = 600


def recollect(messages: Sequence[Message], before: Recollection) -> Recollection:
    """The summary of ``before`` goes on with what the caller said in ``messages``."""
    said = [message.text for message in messages if message.role is Role.CALLER and message.text]
    summary = " ".join(part for part in (before.summary, *said) if part)
    return Recollection(summary[-SUMMARY_CHARS:], before.entities, before.items, before.topics)
