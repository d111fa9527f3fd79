"""What is worth knowing of a conversation, taken from its own words: for agents without a language model."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dialogue.facts import find_facts
from engine.events import Message, Recollection, Role

SUMMARY_CHARS = 600


def key_facts(text: str) -> list[str]:
    """What must not be lost of a text, word for word, what matters most first: ``order SKU-4471``, ``3 May``."""
    facts: dict[str, str] = {}
    for fact in sorted(find_facts(" ".join(text.split())), key=lambda fact: fact.kind):
        facts.setdefault(fact.text.lower(), fact.text)
    return list(facts.values())


def recollect(messages: Sequence[Message], before: Recollection) -> Recollection:
    """The summary of ``before`` goes on with what the caller said in ``messages``."""
    said = [message.text for message in messages if message.role is Role.CALLER and message.text]
    summary = " ".join(part for part in (before.summary, *said) if part)
    return Recollection(summary[-SUMMARY_CHARS:], before.entities, before.items, before.topics)
