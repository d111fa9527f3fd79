"""What users write in ``[vendors.NAME]`` of a synthesizer."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.catalog import KINDS, Role, find_kind
from engine.settings.checks import structured

MUST = {"elevenlabs": {"voice": "v"}, "cartesia": {"voice": "v"}}


@pytest.mark.parametrize("kind", KINDS[Role.SYNTHESIZER])
def test_a_key_and_a_voice_are_enough_and_the_key_is_never_shown(kind: str) -> None:
    config, _ = find_kind(Role.SYNTHESIZER, kind)
    made = structured({"key": "sk-secret", **MUST.get(kind, {})}, config, "vendors.x")
    assert "sk-secret" not in repr(made)
    assert made.name


def test_whole_numbers_do_for_fractions() -> None:
    config, _ = find_kind(Role.SYNTHESIZER, "elevenlabs")
    options: dict[str, Any] = {"key": "k", "voice": "v", "stability": 1, "wire": "stream", "query": {"seed": "7"}}
    made = structured(options, config, "vendors.x")
    assert made.voice_settings == {"stability": 1}


@pytest.mark.parametrize(("option", "value"), [("wire", "streams"), ("inactivity_s", 200)])
def test_what_the_vendor_does_not_take_is_told_at_the_start(option: str, value: object) -> None:
    config, _ = find_kind(Role.SYNTHESIZER, "elevenlabs")
    with pytest.raises(ValueError, match=option):
        config(key="k", voice="v", **{option: value})
