"""Vendors of the settings: every kind can be made, and what is wrong is named by its key."""

from __future__ import annotations

import pytest

from adapters.catalog import KINDS, Role, find_kind
from engine.assembly.kinds import describe_kind, kinds_of_vendors
from engine.assembly.vendors import Vendors, configured, vendor_labels
from engine.errors import SettingsError
from engine.runtime.network import Network
from engine.settings import AgentSettings, Secrets, Settings
from engine.settings.vendors import KEY_VARIABLES, VendorTable

ALL = [(role, kind) for role, kinds in KINDS.items() for kind in kinds]
NEEDED_OF_KIND: dict[str, dict[str, object]] = {"compatible": {"url": "http://127.0.0.1:11434/v1"}}
NEEDED: dict[str, object] = {"model": "m", "voice": "v", "agent": "a", "command": ["cat"]}


def table(kind: str, **options: object) -> VendorTable:
    return VendorTable(kind, kind, KEY_VARIABLES[kind], options)


def needed(role: Role, kind: str) -> dict[str, object]:
    config, _ = find_kind(role, kind)
    given = {name: value for name, value in NEEDED.items() if name in config.__dataclass_fields__}
    return given | NEEDED_OF_KIND.get(kind, {})


def test_each_kind_is_known_to_the_settings_and_the_catalog() -> None:
    assert set(kinds_of_vendors()) == set(KEY_VARIABLES)


@pytest.mark.parametrize(("role", "kind"), ALL)
def test_each_kind_can_be_made_with_no_more_than_a_key_and_what_must_be_given(role: Role, kind: str) -> None:
    config, make = find_kind(role, kind)
    keys = {KEY_VARIABLES[kind]: "k"}
    vendor = make(configured(config, table(kind, **needed(role, kind)), keys), Network())
    assert vendor.name
    with pytest.raises(SettingsError, match=rf"vendors\.{kind}\.modle: there is no such setting"):
        configured(config, table(kind, modle="m", **needed(role, kind)), keys)
    if KEY_VARIABLES[kind]:
        with pytest.raises(SettingsError, match=rf"set {KEY_VARIABLES[kind]} in the environment"):
            configured(config, table(kind, **needed(role, kind)), {})


@pytest.mark.parametrize("kind", sorted(KEY_VARIABLES))
def test_each_kind_describes_itself_without_its_key(kind: str) -> None:
    described = describe_kind(kind)
    assert described["settings"]
    assert "key" not in [setting["name"] for setting in described["settings"]]


def test_a_vendor_of_the_wrong_kind_is_named_with_those_that_would_do() -> None:
    vendors = Vendors(Settings(agents={"desk": AgentSettings(transcriber=("openai",))}), Network())
    with pytest.raises(
        SettingsError, match=r"agents\.desk\.transcriber: 'openai' cannot be a transcriber; these can: sp"
    ):
        vendors.vendor("desk", Role.TRANSCRIBER, "openai")


def test_one_vendor_is_made_for_all_agents_that_use_it() -> None:
    settings = Settings(
        agents={"a": AgentSettings(model=("mine",)), "b": AgentSettings(model=("mine",))},
        vendors={"mine": {"kind": "compatible", "model": "m", "name": "llama", "url": "http://127.0.0.1:8080/v1"}},
        secrets=Secrets(),
    )
    vendors = Vendors(settings, Network())
    assert vendors.vendor("a", Role.MODEL, "mine") is vendors.vendor("b", Role.MODEL, "mine")
    assert "llama" in vendor_labels(settings)


def test_a_compatible_server_is_nobodys_but_the_one_that_is_named() -> None:
    """Without an address its caller's words would go to the vendor whose protocol it speaks."""
    config, _ = find_kind(Role.MODEL, "compatible")
    for url in ({}, {"url": ""}):
        with pytest.raises(SettingsError, match=r"vendors\.compatible\.url: must be given"):
            configured(config, table("compatible", model="m", **url), {})
    described = {item["name"]: item["default"] for item in describe_kind("compatible")["settings"]}
    assert (described["url"], described["name"], described["compatible"]) == ("must be given", "compatible", True)


def test_what_a_kind_says_of_its_own_settings_is_passed_on() -> None:
    config, _ = find_kind(Role.TRANSCRIBER, "deepgram_flux")
    with pytest.raises(SettingsError, match=r"vendors\.deepgram_flux: end_threshold must be 0\.5 to 1"):
        configured(config, table("deepgram_flux", end_threshold=7.0), {"DEEPGRAM_API_KEY": "k"})


def test_a_kind_is_told_in_every_role_that_it_can_have() -> None:
    assert describe_kind("elevenlabs_agents")["role"] == "model, realtime"
    assert describe_kind("cartesia")["role"] == "synthesizer"


def test_two_tables_of_one_kind_are_two_vendors() -> None:
    """Else the breaker of the one that is down would keep the other from being asked."""
    url = "http://127.0.0.1:8080/v1"
    settings = Settings(
        agents={"a": AgentSettings(model=("small", "big", "compatible"))},
        vendors={
            "small": {"kind": "compatible", "model": "m", "url": url},
            "big": {"kind": "compatible", "model": "m", "url": url},
            "compatible": {"model": "m", "url": url},
        },
    )
    vendors = Vendors(settings, Network())
    names = [vendors.vendor("a", Role.MODEL, name).name for name in settings.agents["a"].model]
    assert names == ["small", "big", "compatible"]
    assert set(names) <= set(vendor_labels(settings))
