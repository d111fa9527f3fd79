"""Reading a settings file's tables so that every error names the file, the key and what was expected."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

from engine.errors import SettingsError


class Table:
    """One table of the file. Every key must be asked for, so that a misspelt one is found."""

    def __init__(self, raw: Any, file: str, at: str) -> None:
        self._raw, self._file, self._at, self._asked = raw, file, at, set[str]()
        if not isinstance(raw, dict):
            raise self.wrong("", "a table")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default, "text")
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.wrong(key, "text")
        try:
            references(value)
        except ValueError:
            raise self.wrong(key, "text in which every { has its }") from None
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key, [], "a list of texts")
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.wrong(key, "a list of texts")
        return tuple(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, False, "true or false")
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def count(self, key: str, default: int) -> int:
        value = self._get(key, default, "a whole number above 0")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(key, "a whole number above 0")
        return value

    def table(self, key: str, *, needed: bool = False) -> Table:
        return Table(self._get(key, None if needed else {}, "a table"), self._file, self._path(key))

    def tables(self, key: str) -> Iterator[Table]:
        value = self._get(key, [], "a list of tables")
        if not isinstance(value, list):
            raise self.wrong(key, "a list of tables")
        for number, item in enumerate(value):
            yield Table(item, self._file, f"{self._path(key)}[{number}]")

    def names(self) -> tuple[str, ...]:
        """The keys of a table whose keys are names of the author's choice."""
        return tuple(self._raw)

    def done(self) -> None:
        """Raises SettingsError for a key nobody asked for."""
        for key in self._raw.keys() - self._asked:
            raise self.wrong(key, f"one of {', '.join(sorted(self._asked))}")

    def wrong(self, key: str, expected: str) -> SettingsError:
        return SettingsError(f"{self._file}: {self._path(key) or 'the file'}: expected {expected}")

    def _get(self, key: str, default: Any, expected: str) -> Any:
        self._asked.add(key)
        value = self._raw.get(key, default)
        if value is None:
            raise self.wrong(key, f"{expected}, and it is missing")
        return value

    def _path(self, key: str) -> str:
        return f"{self._at}.{key}".strip(".") if key else self._at


def references(text: str) -> set[str]:
    """The names in braces. Raises ValueError for a brace that is not closed."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
