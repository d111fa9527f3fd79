"""Words of one sound from two recognisers."""

from __future__ import annotations

import pytest

from engine.vendors.merging import merged


@pytest.mark.parametrize(
    ("kept", "text", "whole"),
    [
        ("I would like", "a table", "I would like a table"),
        ("I would like a table", "a table for two", "I would like a table for two"),
        ("I would like a table,", "Table for two", "I would like a table, for two"),
        ("book a table", "ble for two", "book a table ble for two"),  # too little to be sure
        ("book a table for", "ble for two", "book a table for two"),
        ("book a table for t", "table for two", "book a table for two"),
        ("book a table for tw", "table for two", "book a table for two"),
        ("book a table for t", "ook a table for two", "book a table for two"),
        ("at seven in t", "ven in the evening", "at seven in the evening"),
        ("no no", "no no no", "no no no"),
        ("ninety two", "", "ninety two"),
        ("", "hello", "hello"),
        ("my name is", "is is it", "my name is is it"),
    ],
)
def test_each_word_is_there_once(kept: str, text: str, whole: str) -> None:
    assert merged(kept, text) == whole
