"""The vendors of an agent, as its settings name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from adapters.catalog import KINDS, SEGMENTED, Role, find_kind
from adapters.speech.hearing.segmented import Activity
from engine.errors import SettingsError
from engine.observe.labels import VENDORS
from engine.runtime.network import Network
from engine.settings import Settings
from engine.settings.checks import structured
from engine.settings.vendors import KEY_VARIABLES, VendorTable, used_vendors, vendor_table

OF_KIND: Mapping[str, Mapping[str, Any]] = {"compatible": {"compatible": True, "name": "compatible"}}
"""What a kind has by default that its configuration, which is another kind's too, has not."""
ALSO_GIVEN: Mapping[str, tuple[str, ...]] = {"compatible": ("url",)}
"""What must be given, where the configuration has a default for another kind."""


def vendor_labels(settings: Settings) -> tuple[str, ...]:
    """Every vendor that a metric may name."""
    labels = dict.fromkeys(VENDORS)
    for table in used_vendors(settings):
        for role, kinds in KINDS.items():
            if table.kind in kinds:
                config, _ = find_kind(role, table.kind)
                default = next(item.default for item in fields(config) if item.name == "name")
                labels[str(_of_table(table).get("name", default))] = None
    return tuple(labels)


def vendor_url(table: VendorTable) -> str:
    """Where it is asked; empty for one that is nowhere."""
    role = next(role for role, kinds in KINDS.items() if table.kind in kinds)
    config, _ = find_kind(role, table.kind)
    default = next((item.default for item in fields(config) if item.name == "url"), "")
    return str(table.options.get("url", default))


class Vendors:
    """Makes each vendor of the settings once, however many agents use it."""

    def __init__(self, settings: Settings, network: Network, activity: Activity | None = None) -> None:
        """``activity`` tells when a caller speaks; without it loudness does."""
        self._settings = settings
        self._network = network
        self._activity = activity
        self._made: dict[tuple[Role, str], Any] = {}

    def vendor(self, agent: str, role: Role, name: str) -> Any:
        """A vendor of this role. Raises SettingsError naming the setting at fault."""
        if (role, name) not in self._made:
            try:
                self._made[role, name] = self._make(role, vendor_table(self._settings, name))
            except SettingsError as exc:
                raise SettingsError(f"agents.{agent}.{role}: {exc}") from None
        return self._made[role, name]

    def _make(self, role: Role, table: VendorTable) -> Any:
        kinds = KINDS[role]
        if table.kind not in kinds:
            raise SettingsError(f"{table.name!r} cannot be a {role}; these can: {', '.join(kinds)}")
        config, vendor = find_kind(role, table.kind)
        parts = (configured(config, table, self._settings.secrets.vendor_keys), self._network)
        return vendor(*parts, self._activity) if table.kind in SEGMENTED else vendor(*parts)


def configured(config: type[Any], table: VendorTable, keys: Mapping[str, str]) -> Any:
    """The vendor's configuration. Raises SettingsError naming the key of ``[vendors.NAME]``, or the variable."""
    known = {item.name: item for item in fields(config)}
    options = _of_table(table)
    key = keys.get(table.key_variable, "")
    if "key" in known:
        # A server of one's own may ask for none; the vendor itself always does.
        if not key and (_must_be_given(known["key"]) or (KEY_VARIABLES[table.kind] and "url" not in options)):
            variable = table.key_variable or f"vendors.{table.name}.key_variable"
            raise SettingsError(f"vendor {table.name!r} needs a key: set {variable} in the environment")
        options["key"] = key
    for name, item in known.items():
        is_wanted = _must_be_given(item) or name in ALSO_GIVEN.get(table.kind, ())
        if is_wanted and name != "key" and options.get(name, "") == "":
            raise SettingsError(f"vendors.{table.name}.{name}: must be given")
    return structured(options, config, f"vendors.{table.name}")


def _of_table(table: VendorTable) -> dict[str, Any]:
    """Its options. One that is not called as its kind has a name of its own: what is told of it, and its breaker, are
    not another table's."""
    own = {"name": table.name} if table.name != table.kind else {}
    return {**OF_KIND.get(table.kind, {}), **own, **table.options}


def _must_be_given(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
