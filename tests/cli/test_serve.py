"""What a start tells whoever started it."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from engine.assembly import PROVIDER_KEYS, Engine
from engine.settings import AgentSettings, Secrets, Server, Settings, StoreSettings

AGENT = AgentSettings(factory="tests.fakes.agents:make_agent", options={"url": "http://127.0.0.1:1"})


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", [("warning", variable) for variable in PROVIDER_KEYS.values()]),
        ("k" * 32, [("info", variable) for variable in PROVIDER_KEYS.values() if variable != "TWILIO_AUTH_TOKEN"]),
    ],
)
async def test_a_start_without_keys_tells_which_to_set(
    key: str, told: list[tuple[str, str]], autojump_clock: object
) -> None:
    settings = Settings(
        server=Server(port=0),
        store=StoreSettings(kind="memory"),
        agents={"desk": AGENT},
        secrets=Secrets(twilio_auth_token=key),
    )
    engine = Engine(settings)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            engine.stop()
    lines = [line for line in logs if line["event"] == "routes_closed"]
    assert [line["log_level"] for line in lines] == [level for level, _ in told]
    assert all(variable in line["why"] for line, (_, variable) in zip(lines, told, strict=True))
