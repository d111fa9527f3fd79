"""``[tools.NAME]`` of the settings becomes what an agent's model may call; what is wrong is told at the start."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from engine.assembly.tools import Tools, tool_labels
from engine.errors import SettingsError
from engine.observe.metrics import Metrics
from engine.runtime.network import Network
from engine.settings import Settings, load_settings
from engine.tools.http import HttpTool
from tests.tools.scripted import Control

SECRET = "whsec_" + "a" * 44

GOOD = """
[agents.desk]
tools = ["hang_up", "transfer", "hand_over", "slots", "area", "crm"]
transfers = { sales = "+15550107777", "front desk" = "sip:desk@example.com" }

[agents.billing]
tools = ["recall"]

[tools.slots]
description = "What is free on a day."
url = "https://shop.example.com/slots"
method = "GET"
headers = { Authorization = "Bearer ${SHOP_KEY}" }
secret_variable = "SHOP_SECRET"
tells_caller = true
timeout_s = 2
[tools.slots.parameters]
required = ["day"]
[tools.slots.parameters.properties.day]
type = "string"

[tools.area]
python = "tests.assembly.test_tools:area"

[tools.crm]
mcp = ["crm-server", "--quiet"]
env = { CRM_KEY = "${SHOP_KEY}" }
only = ["find"]

[tools.unused]
python = "nowhere:at_all"
"""


def area(radius: float) -> float:
    """Of a circle."""
    return 3 * radius * radius


def loaded(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "offhook.toml"
    path.write_text(text)
    return load_settings(path, environ)


def made(settings: Settings) -> Tools:
    return Tools(settings, Metrics(tools=tool_labels(settings)), Network())


async def test_an_agent_has_the_tools_that_its_settings_name(tmp_path: Path) -> None:
    tools = made(loaded(tmp_path, GOOD, SHOP_KEY="canary", SHOP_SECRET=SECRET))
    desk = tools.toolbox("desk").usable(Control())
    assert list(desk) == ["hang_up", "transfer", "hand_over", "slots", "area"]
    assert desk["transfer"].spec.parameters["properties"]["to"]["enum"] == ["sales", "front desk"]
    assert desk["hand_over"].spec.parameters["properties"]["agent"]["enum"] == ["billing"]
    slots = desk["slots"]
    assert isinstance(slots, HttpTool)
    assert slots.spec.parameters == {
        "type": "object",
        "properties": {"day": {"type": "string"}},
        "required": ["day"],
    }
    assert (slots.method, slots.tells_caller, slots.timeout_s) == ("GET", True, 2.0)
    assert slots.headers == {"Authorization": "Bearer canary"}
    assert len(slots.key) == 33
    assert desk["area"].spec.description == "Of a circle."
    assert "canary" not in repr(slots)
    assert list(tools.toolbox("billing").usable(Control())) == ["recall"]


async def test_a_server_is_told_its_own_environment(tmp_path: Path) -> None:
    config = made(loaded(tmp_path, GOOD, SHOP_KEY="canary", SHOP_SECRET=SECRET)).servers["crm"].config
    assert config.command == ("crm-server", "--quiet")
    assert config.env == {"CRM_KEY": "canary"}
    assert config.only == ("find",)
    assert "canary" not in repr(config)


async def test_metrics_know_every_tool_of_the_settings(tmp_path: Path) -> None:
    labels = tool_labels(loaded(tmp_path, GOOD, SHOP_KEY="k", SHOP_SECRET=SECRET))
    assert labels[-4:] == ("slots", "area", "crm", "unused")
    assert "hang_up" in labels


AGENT = '[agents.desk]\ntools = ["x"]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[agents.desk]\ntools = ["fly"]', "agents.desk.tools: there is no tool 'fly'; there are: hang_up, transfer"),
        ("[tools.hang_up]\npython = 'a:b'", "tools.hang_up: hang_up is built in"),
        ("[tools.'a b']\npython = 'a:b'", "tools.a b: expected a name"),
        ("[tools.x]\ndescription = 'd'", "tools.x: expected exactly one of url, python and mcp, got none"),
        ("[tools.x]\nurl = 'https://a.b'\nmcp = 'c'", "got url and mcp"),
        ("[tools.x]\nurl = 'https://a.b'", "tools.x.description: must be given"),
        (
            "[tools.x]\nurl = 'https://a.b'\ndescription = 'd'\nparameters = { type = 'string' }",
            "JSON Schema of an object",
        ),
        ("[tools.x]\nurl = 'https://a.b'\ndescription = 'd'\nmethod = 'FETCH'", "tools.x.method: expected one of GET"),
        ("[tools.x]\npython = 'a:b'\nheaders = { A = 'b' }", "tools.x.headers: is of no use with python"),
        ("[tools.x]\npython = 'a:b'\nonly = 'a'", "tools.x.only: is of no use"),
        ("[tools.x]\nmcp = 'server'\nheaders = { A = 'b' }", "tools.x.headers: is of no use"),
        ("[tools.x]\nmcp = 'https://a.b/mcp'\nenv = { A = 'b' }", "tools.x.env: is of no use"),
        ("[tools.x]\npython = 'a:b'\ntimeout_s = 60", "tools.x.timeout_s: expected at most"),
        ("[tools.x]\npython = 'a:b'\ncolour = 'red'", "tools.x.colour: there is no such setting"),
        ("[agents.desk.transfers]\nsales = '5550100'", "agents.desk.transfers.sales: expected a number such as"),
        ("[agents.desk]\nfailure_transfer = 'people'", "agents.desk.failure_transfer"),
    ],
)
def test_settings_that_make_no_sense_name_the_key(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        (
            "url = 'https://a.b'\ndescription = 'd'\nheaders = { A = '${KEY}' }",
            {},
            "tools.x.headers: set KEY in the environment",
        ),
        ("url = 'https://a.b'\ndescription = 'd'\nsecret_variable = 'S'", {}, "tools.x.secret_variable: set S in the"),
        ("url = 'https://a.b'\ndescription = 'd'\nsecret_variable = 'S'", {"S": "short"}, "S: expected whsec_"),
        ("url = 'http://a.b'\ndescription = 'd'", {}, "tools.x.url: expected an address such as"),
        ("url = 'https://10.0.0.1/'\ndescription = 'd'", {}, "allow_private allows it"),
        ("python = 'nowhere:at_all'", {}, "tools.x.python: 'nowhere:at_all' cannot be imported"),
    ],
)
async def test_a_tool_that_cannot_be_used_is_told_at_the_start(
    text: str, environ: dict[str, str], says: str, tmp_path: Path
) -> None:
    settings = loaded(tmp_path, f"{AGENT}[tools.x]\n{text}", **environ)
    with pytest.raises(SettingsError) as caught:
        made(settings)
    assert says in str(caught.value)
    assert "short" not in str(caught.value)


async def test_without_the_package_there_are_no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec

    def missing(name: str, *more: Any) -> Any:
        return None if name == "mcp" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(SettingsError, match=r"tools.x.*pip install offhook\[mcp\]"):
        made(loaded(tmp_path, f"{AGENT}[tools.x]\nmcp = 'server'"))


async def test_a_private_address_may_be_allowed(tmp_path: Path) -> None:
    text = f"{AGENT}[tools.x]\nurl = 'http://10.0.0.1/'\ndescription = 'd'\nallow_private = true"
    assert "x" in made(loaded(tmp_path, text)).toolbox("desk").usable(Control())
