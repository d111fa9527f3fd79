"""Which test proves what of which adapter: the marker ``proves`` and what it says.

``@pytest.mark.proves("barge-in")`` on a test that is parametrised over adapters; ``@pytest.mark.proves("official
client", adapter="cartesia")`` on one that is not. The README's tables are made of them (``tests.contract.matrix``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

MARK = "proves"


class Column(StrEnum):
    """What may be proven of an adapter."""

    OFFICIAL = "official client"
    """The vendor's own client works with the fake that ours is tested against."""
    OURS = "ours"
    """Our adapter does, too."""
    BARGE_IN = "barge-in"
    RECONNECT = "reconnect"
    """In mid call."""
    CANCELLED = "cancelled"
    """At every step, and nothing is left."""
    DEADLINE = "deadline"
    """A vendor that says nothing is given up in time."""


WHOLE_CALL = "whole call"
"""Of a combination of adapters, over a provider."""
PARAMETERS = ("adapter", "kind", "bench", "way", "name", "provider")
"""Of a test: what may be, or name, the adapter; the first of them that it has."""
COMBINATIONS = ("combination", "trio_of", "kind")
"""The same for whole calls."""
CATALOG_NAMES: Mapping[tuple[str, str], str] = {
    ("ears", "flux"): "deepgram_flux",
    ("ears", "openai"): "openai_transcription",
    ("synthesizers", "elevenlabs multi-stream-input"): "elevenlabs",
    ("synthesizers", "elevenlabs stream"): "elevenlabs HTTP",
    ("synthesizers", "aura"): "deepgram_aura",
    ("synthesizers", "speechmatics"): "speechmatics_speech",
    ("synthesizers", "openai"): "openai_speech",
    ("model_benches", "openai_chat"): "openai",
    ("realtime_benches", "openai"): "openai_realtime",
    ("realtime_benches", "elevenlabs"): "elevenlabs_agents",
    ("test_side_by_side", "http"): "elevenlabs_agents_http",
    ("test_side_by_side", "websocket"): "elevenlabs_agents in text",
}
"""Module of the tests and name there, where that is not the one of ``adapters.catalog.KINDS``."""


@dataclass(frozen=True)
class Proof:
    """A cell of a table. Of a whole call ``row`` is the combination and ``column`` the provider."""

    table: str
    row: str
    column: str


CELLS = "adapters"
CALLS = "whole calls"


def proofs_of(item: pytest.Item) -> Iterator[Proof]:
    """What this test proves if it passes. Raises pytest.UsageError for a mark that says nothing."""
    given: Mapping[str, Any] = item.callspec.params if isinstance(item, pytest.Function) and _has_params(item) else {}
    for mark in item.iter_markers(MARK):
        (what,) = mark.args
        if what == WHOLE_CALL:
            row = mark.kwargs.get("adapter") or _first(COMBINATIONS, given, item)
            provider = mark.kwargs.get("provider") or given.get("provider")
            if provider is None:
                raise pytest.UsageError(f"{item.nodeid}: whole call over which provider?")
            yield Proof(CALLS, str(row), str(provider))
        elif what in set(Column):
            adapters = mark.kwargs.get("adapter") or _first(PARAMETERS, given, item)
            for adapter in (adapters,) if isinstance(adapters, str) else adapters:
                yield Proof(CELLS, adapter, str(what))
        else:
            raise pytest.UsageError(f"{item.nodeid}: proves {what!r}?")


def adapter_of(value: object) -> str:
    """The adapter that a parameter stands for, by its name in the catalog."""
    if isinstance(value, str):
        return value
    name = str(getattr(value, "name", value))
    return CATALOG_NAMES.get((type(value).__module__.rpartition(".")[2], name), name)


def _has_params(item: pytest.Function) -> bool:
    return hasattr(item, "callspec")


def _first(names: tuple[str, ...], given: Mapping[str, Any], item: pytest.Item) -> str:
    for name in names:
        if name in given:
            return adapter_of(given[name])
    raise pytest.UsageError(f"{item.nodeid}: proves something, but of which adapter?")
