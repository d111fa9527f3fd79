"""Who answers: by dialled number, however it is spelt (B8)."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from engine.observe.timeline import What
from engine.ports import IncomingCall, Mode
from tests.fakes.puppet import PuppetAgent
from tests.fakes.stage import Caller, stage


async def test_the_dialled_number_decides_which_agent_answers(autojump_clock: MockClock) -> None:
    desk, sales = PuppetAgent(name="desk"), PuppetAgent(name="sales", greeting="Sales, hello.")
    async with stage(desk, sales, lines={"+1 (555) 010-0002": "sales"}) as on:
        for dialled, greeting in (("+15550100002", "Sales, hello."), ("+15550100001", "Hello, this is the desk.")):
            call_id = f"CA{dialled[1:]}"
            token = await on.supervisor.admit("twilio", IncomingCall(call_id, "+15550100009", dialled))
            async with on.socket() as socket, trio.open_nursery() as nursery:
                caller = Caller(socket, call_id, "MZ1")
                nursery.start_soon(caller.listen)
                await caller.start(str(token))
                await trio.sleep(3)
                await caller.hang_up()
                await on.over(caller)
                nursery.cancel_scope.cancel()
            assert on.texts(What.SAID)[-1] == greeting


async def test_a_relay_is_wanted_by_the_agent_that_would_answer(autojump_clock: MockClock) -> None:
    desk, relayed = PuppetAgent(), PuppetAgent(name="relayed")
    relayed.mode = Mode.RELAY
    async with stage(desk, relayed, lines={"+15550100002": "relayed"}) as on:
        wanted = [on.supervisor.wants_relay(IncomingCall("CA1", "", f"+1555010000{n}")) for n in (1, 2)]
        assert wanted == [False, True]
