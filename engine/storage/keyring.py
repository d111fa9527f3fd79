"""Keys of the store: what is written to it is sealed with the first, and opened with whichever sealed it.

A record is one of two kinds, side by side in one store:

* sealed: ``01``, length of the key's id, the id, nonce (12 bytes), AES-256-GCM of the text with its tag. Associated
  data: the kind, the key's id and the record's identity, so that a record moved to another place does not open.
* plain, when there are no keys: ``00``, CRC-32 of identity and text, text.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import OffhookError, SettingsError

VARIABLE = "ENCRYPTION_KEYS"
KEY_BYTES = 32
MAX_ENTRIES = 64

_PLAIN = b"\x00"
_SEALED = b"\x01"
_NONCE_BYTES = 12
_CRC_BYTES = 4
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Unreadable(OffhookError):
    """A record does not open: another key, another place, damage, or a newer version. The message never quotes it."""


class KeyRing:
    """The keys in use. Shared by all who read and write; nothing in it is shown by ``repr``."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """``keys``: 32 bytes by id, in their order; none: no encryption."""
        self._keys = {name: AESGCM(key) for name, key in keys.items()}

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Entries ``id:base64 of 32 bytes``, separated by commas or white space; the first seals, all open. Empty: no
        encryption. Raises SettingsError that names the entry at fault by its place."""
        return cls(_parsed(text))

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._keys)}>"

    @property
    def is_encrypting(self) -> bool:
        return bool(self._keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """The first one seals."""
        return tuple(self._keys)

    def replace(self, text: str) -> None:
        """Exchange all keys for those of this text, as in ``parse``; what follows is sealed with the first of them.

        Raises SettingsError, and changes nothing then. There is no way to none while running: a file found empty
        must not turn encryption off.
        """
        keys = _parsed(text)
        if self._keys and not keys:
            raise SettingsError(f"{VARIABLE}: expected at least one key: encryption is not switched off while running")
        self._keys = {name: AESGCM(key) for name, key in keys.items()}

    def seal(self, plain: bytes, identity: str) -> bytes:
        """The record of this text, that opens only under the same identity."""
        place = _place(identity)
        for name, key in self._keys.items():
            head = _SEALED + bytes([len(name)]) + name.encode()
            nonce = secrets.token_bytes(_NONCE_BYTES)
            return head + nonce + key.encrypt(nonce, plain, head + place)
        return _PLAIN + _crc(place, plain) + plain

    def open(self, sealed: bytes, identity: str) -> bytes:
        """The text of a record, sealed or plain. Raises Unreadable."""
        place = _place(identity)
        if sealed[:1] == _PLAIN:
            crc, plain = sealed[1 : 1 + _CRC_BYTES], sealed[1 + _CRC_BYTES :]
            if crc != _crc(place, plain):
                raise Unreadable("damaged, or not of this place")
            return plain
        name, start = _key_id(sealed)
        key = self._keys.get(name)
        if key is None:
            raise Unreadable("sealed with a key that is not there")
        nonce, text = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
        try:
            return key.decrypt(nonce, text, sealed[:start] + place)
        except (InvalidTag, ValueError):  # the latter where it is cut off within the nonce
            raise Unreadable("damaged, not of this place, or sealed with another key") from None

    def is_current(self, sealed: bytes) -> bool:
        """It is what ``seal`` would make now: under the first key, or plain when there is none."""
        if not self._keys:
            return sealed[:1] == _PLAIN
        try:
            return _key_id(sealed)[0] == self.ids[0]
        except Unreadable:
            return False


class KeyFile:
    """A file of keys that somebody may exchange while the engine runs (``ENCRYPTION_KEYS_FILE``)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> str | None:
        """Its text if it is another file than at the last call, by time, size and inode; at the first call always. None
        also while it cannot be read: then the next call tries again."""
        try:
            now = os.stat(self._path)
            seen = (now.st_mtime_ns, now.st_size, now.st_ino)
            if seen == self._seen:
                return None
            text = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        self._seen = seen
        return text


def new_key() -> str:
    """An entry for ``KeyRing.parse``, with a new id and a new key."""
    name = f"k{secrets.token_hex(4)}"
    return f"{name}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def _parsed(text: str) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    entries = [entry for entry in re.split(r"[,\s]+", text) if entry]
    if len(entries) > MAX_ENTRIES:
        raise SettingsError(f"{VARIABLE}: expected at most {MAX_ENTRIES} keys")
    for place, entry in enumerate(entries, 1):
        name, colon, encoded = entry.partition(":")
        if not colon or not _ID.fullmatch(name):
            raise SettingsError(f"{VARIABLE}: entry {place}: expected id:key, the id of letters, digits, '_', '.', '-'")
        if name in keys:
            raise SettingsError(f"{VARIABLE}: entry {place}: its id is another one's too")
        keys[name] = _key(encoded, place)
    return keys


def _key(encoded: str, place: int) -> bytes:
    try:
        key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{VARIABLE}: entry {place}: expected the base64 of {KEY_BYTES} bytes after the id")
    return key


def _key_id(sealed: bytes) -> tuple[str, int]:
    """The id of the key that sealed it, and where the nonce begins."""
    if sealed[:1] != _SEALED or len(sealed) < 2:
        raise Unreadable("no record, or of a newer version")
    start = 2 + sealed[1]
    try:
        return sealed[2:start].decode("ascii"), start
    except UnicodeDecodeError:
        raise Unreadable("damaged") from None


def _place(identity: str) -> bytes:
    return b"\0" + identity.encode("utf-8", "surrogatepass")


def _crc(place: bytes, plain: bytes) -> bytes:
    return zlib.crc32(plain, zlib.crc32(place)).to_bytes(_CRC_BYTES, "big")
