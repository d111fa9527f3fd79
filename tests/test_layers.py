"""Imports point one way. This is the map of the house; a new folder, or a new arrow, is decided here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

BASE = {"engine", "engine.events", "engine.errors", "engine.machine"}
PURE = {"engine.audio", "engine.dialogue"}
PORTS = {"engine.ports", "engine.settings"}
CALL = {f"engine.calls.{name}" for name in ("gate", "meters", "registry", "slots", "returning", "text_link")}
"""What the parts of a call share, whatever is said in it."""
MAY_IMPORT: dict[str, set[str]] = {
    "engine": set(),
    "engine.events": set(),
    "engine.errors": set(),
    "engine.machine": set(),
    "engine.audio": BASE,
    "engine.dialogue": BASE,
    "engine.ports": BASE | PURE,
    "engine.settings": BASE,
    "engine.observe": BASE | PURE | {"engine.ports"},
    "engine.runtime": BASE | {"engine.ports", "engine.observe"},
    "engine.vendors": BASE | PURE | PORTS | {"engine.observe", "engine.runtime"},
    "engine.tools": BASE | PURE | PORTS | {"engine.observe", "engine.runtime"},
    "engine.storage": BASE | PURE | PORTS | {"engine.observe", "engine.runtime"},
    "engine.sessions": BASE | PURE | PORTS | {"engine.observe", "engine.runtime", "engine.storage"},
    "engine.calls": BASE
    | PURE
    | PORTS
    | {f"engine.{name}" for name in ("observe", "runtime", "storage", "sessions", "calls.talks", "calls.outbound")}
    | CALL,
    "engine.calls.gate": set(),
    "engine.calls.meters": BASE | PURE | PORTS | {"engine.observe"},
    "engine.calls.text_link": BASE | PURE | PORTS | {"engine.runtime"},
    "engine.calls.registry": BASE
    | PORTS
    | {"engine.observe", "engine.runtime", "engine.calls.returning", "engine.calls.slots"},
    "engine.calls.slots": BASE | PORTS | {"engine.calls.returning"},
    "engine.calls.returning": BASE | PURE,
    "engine.calls.talks": BASE
    | PURE
    | PORTS
    | {f"engine.{name}" for name in ("observe", "runtime", "sessions")}
    | (CALL - {"engine.calls.registry", "engine.calls.slots"}),
    "engine.calls.outbound": BASE
    | PORTS
    | {"engine.observe", "engine.runtime"}
    | {f"engine.calls.{name}" for name in ("registry", "slots", "returning")},
    "engine.phone": BASE | PURE | {"engine.runtime"},
    "engine.converse": BASE
    | PURE
    | {f"engine.{name}" for name in ("settings", "storage", "sessions", "phone", "runtime", "observe")},
    "engine.web": BASE
    | PURE
    | PORTS
    | {f"engine.{name}" for name in ("observe", "runtime", "storage", "sessions", "calls", "calls.outbound")}
    | CALL,
    "engine.assembly": BASE
    | PURE
    | PORTS
    | {f"engine.{name}" for name in ("observe", "runtime", "storage", "sessions", "calls", "web", "vendors", "tools")}
    | {"engine.calls.outbound", "adapters"}
    | CALL,
    "engine.cli": BASE
    | PURE
    | PORTS
    | {
        f"engine.{name}"
        for name in ("observe", "runtime", "storage", "sessions", "phone", "converse", "web", "assembly")
    },
    "engine.__main__": {"engine.cli"},
    "adapters": BASE | PURE | {"engine.ports", "engine.observe", "engine.runtime"},
}
"""Package or module to what it may import of ours, besides itself."""

NO_TRIO = ("engine.events", "engine.errors", "engine.audio", "engine.dialogue", "engine.settings")


def modules() -> list[Path]:
    return sorted([*ROOT.glob("engine/**/*.py"), *ROOT.glob("adapters/**/*.py")])


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """The longest name on the map that it belongs to."""
    return max((name for name in MAY_IMPORT if module == name or module.startswith(f"{name}.")), key=len)


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """What it imports, with the names: ``trio.lowlevel`` and ``engine.ports.Codec``."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def is_allowed(module: str, imported: str) -> bool:
    if not imported.startswith(("engine", "adapters")):
        return True
    package, target = package_of(module), package_of(imported)
    if target == "engine" and imported != "engine.__version__":
        target = f"engine.{imported.split('.')[1]}"
    return target == package or target in MAY_IMPORT[package]


def test_a_module_imports_only_what_its_place_allows() -> None:
    bad = [
        f"{name_of(path)} imports {imported}"
        for path in modules()
        for imported in imports_of(path)
        if not is_allowed(name_of(path), imported)
    ]
    assert bad == []


def test_adapters_do_not_import_each_others_packages() -> None:
    bad = []
    for path in sorted(ROOT.glob("adapters/*/**/*.py")):
        own = ".".join(name_of(path).split(".")[:2])
        others = [name for name in imports_of(path) if name.startswith("adapters.") and not name.startswith(own)]
        bad += [f"{name_of(path)} imports {name}" for name in others]
    assert bad == []


def test_pure_packages_do_not_import_trio() -> None:
    pure = [path for path in modules() if name_of(path).startswith(NO_TRIO)]
    assert pure
    assert [name_of(path) for path in pure if any(name.split(".")[0] == "trio" for name in imports_of(path))] == []


def test_every_part_of_the_house_is_on_the_map() -> None:
    parts = {
        f"engine.{path.stem}" for path in ROOT.glob("engine/*") if path.stem not in ("__init__", "py", "__pycache__")
    }
    assert parts <= set(MAY_IMPORT), parts - set(MAY_IMPORT)
