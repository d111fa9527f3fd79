"""The file that keeps saves while the store is down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.sessions.keyring import KeyRing
from engine.sessions.record import Save


class Journal:
    """A bounded file of saves, in order. All of it raises StoreDown when the disk does not do its part."""

    def __init__(self, path: Path, keys: KeyRing, max_bytes: int) -> None:
        self._path = path

    async def append(self, saves: Sequence[Save]) -> None:
        """They are on the disk when this returns."""
