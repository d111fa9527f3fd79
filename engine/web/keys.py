"""Keys of the HTTP API: who may do what. The keys themselves are not kept, only their hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import SettingsError

MIN_CHARS = 16
EXPECTED = "expected name:scope+scope:key"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]*")


class Scope(StrEnum):
    """What a key is good for."""

    TURN = "turn"
    """Written turns."""
    HISTORY = "history"
    """To read sessions, search, edit, branch, hand over and export them."""
    ADMIN = "admin"
    """To look at callers by their numbers, and at the audit log."""
    PRIVACY = "privacy"
    """To export and to delete all of a caller."""
    METRICS = "metrics"
    CALLS = "calls"
    """To make calls, and to reach into live ones: hang up, say, transfer."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    name: str
    """Who it is, for the audit log."""
    scopes: frozenset[Scope]
    digest: bytes = field(repr=False)


class ApiKeys:
    """All keys. Truthy if there are any."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: Sequence[ApiKey] = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, scope: Scope) -> bool:
        """A key with this scope exists."""
        return any(scope in key.scopes for key in self._keys)

    def find(self, presented: str) -> ApiKey | None:
        """Takes the same time whatever is presented: hashes of one length are compared, and always all of them."""
        digest, found = _digest(presented), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def parse_keys(text: str) -> ApiKeys:
    """``name:scope+scope:key``, separated by commas or spaces. Raises SettingsError that names the position of the
    entry at fault and nothing of what it says."""
    keys: list[ApiKey] = []
    for position, entry in enumerate(re.split(r"[\s,]+", text.strip(", \t\r\n")) if text.strip(", \t\r\n") else [], 1):
        where = f"API_KEYS: entry {position}"
        key = _parse_entry(where, entry)
        if any(key.name == other.name for other in keys):
            raise SettingsError(f"{where}: expected a name of its own, it is used twice")
        if any(key.digest == other.digest for other in keys):
            raise SettingsError(f"{where}: expected a key of its own, it is used twice")
        keys.append(key)
    return ApiKeys(keys)


def _parse_entry(where: str, entry: str) -> ApiKey:
    parts = entry.split(":", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]):
        raise SettingsError(f"{where}: {EXPECTED}, with a name of letters, digits, dots and dashes")
    name, words, key = parts
    known = {scope.value for scope in Scope}
    if not set(words.split("+")) <= known:
        raise SettingsError(f"{where}: expected scopes out of {', '.join(Scope)}, joined by +")
    if len(key) < MIN_CHARS or not _KEY.fullmatch(key):
        raise SettingsError(f"{where}: expected a key of at least {MIN_CHARS} plain characters")
    return ApiKey(name, frozenset(Scope(word) for word in words.split("+")), _digest(key))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
