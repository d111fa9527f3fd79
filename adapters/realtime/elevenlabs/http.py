"""ElevenLabs Agents over HTTP, for written turns: what took the place of ``simulate-conversation``, which is no more.

Each answer is a test of the agent: the whole conversation as its ``chat_history``, run once, its ``agent_responses``
taken. The vendor keeps what it has run.

Source: the vendor's API reference and the official client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import structlog
import trio

from adapters.realtime.answering import Answer, Put, answering
from adapters.realtime.fields import id_of
from adapters.realtime.shown import GO_ON, instructions_of, turns_of
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import Context, Exchange, Role, SessionInfo, ToolCall
from engine.ports import Owner
from engine.runtime.network import Network, failing, refused
from engine.runtime.vendor_json import MAX_TEXT, dicts_of, packed, text_of, word_of

FORGET_S = 1.0
"""For the vendor to delete the test, when the session's block is left."""
CONDITION = "The agent answers."
"""The vendor wants one; what it thinks of the answer is not looked at."""
_ROLES = {Role.CALLER: "user", Role.AGENT: "agent"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ElevenLabsAgentsHttpConfig:
    """``[vendors.NAME]`` of kind ``elevenlabs_agents_http``."""

    key: str = field(repr=False)
    agent: str
    """The agent's id at the vendor."""
    name: str = "elevenlabs_agents_http"
    """Metric label."""
    url: str = "https://api.elevenlabs.io"
    context_variable: str = "context"
    """The dynamic variable of the agent's prompt that holds the instructions and what is known of the caller."""
    poll_s: float = 0.3
    """Between two looks at whether the answer is there."""
    longest_s: float = 30.0
    """An answer that is not there by then does not come."""


class ElevenLabsAgentsHttpVendor:
    """Implements ``engine.ports.ModelVendor``."""

    def __init__(self, config: ElevenLabsAgentsHttpConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    @asynccontextmanager
    async def open(self, session: SessionInfo, owner: Owner) -> AsyncIterator[AgentTestModel]:
        """See the port. Leaving the block deletes the test at the vendor; a cancel does not wait for it."""
        headers = {"xi-api-key": self._config.key, "content-type": "application/json"}
        async with self._network.owned_client(self.name, owner, self._config.url, headers) as client:
            model = AgentTestModel(self._config, client, session)
            yield model
            await model.forget()


class AgentTestModel:
    """A ``RawModel``: one test, changed for each reply."""

    def __init__(self, config: ElevenLabsAgentsHttpConfig, client: httpx.AsyncClient, session: SessionInfo) -> None:
        self._config = config
        self._client = client
        self._session = session
        self._test_id = ""

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[Answer]:
        """See the port. The answer comes as a whole; the vendor gives no usage."""
        return answering(partial(self._answer, context))

    async def forget(self) -> None:
        """Delete the test at the vendor, within a second."""
        if self._test_id:
            with trio.move_on_after(FORGET_S), suppress(httpx.HTTPError):
                await self._client.delete(f"/v1/convai/agent-testing/{quote(self._test_id)}")

    async def _answer(self, context: Context, put: Put) -> None:
        session, config = self._session, self._config
        log.debug(
            "model_request",
            vendor=config.name,
            session_id=session.session_id,
            call_id=session.call_id,
            messages=len(context),
        )
        with failing(ModelFailed, config.name):
            try:
                await self._keep(agent_test(config, session, context))
                run = await self._run()
                for part in parts_of(run):
                    await put(part)
            except BadMessage as exc:
                raise ModelFailed(config.name, f"not its protocol ({exc.kind})", why=Why.NONSENSE) from exc

    async def _keep(self, test: Mapping[str, Any]) -> None:
        if self._test_id:
            await self._ask("PUT", f"agent-testing/{quote(self._test_id)}", test)
        else:
            self._test_id = id_of(await self._ask("POST", "agent-testing/create", test), "id")

    async def _run(self) -> dict[str, Any]:
        """The run once it is done. Raises ModelFailed."""
        config = self._config
        tests = {"tests": [{"test_id": self._test_id}]}
        with trio.move_on_after(config.longest_s):
            invocation = await self._ask("POST", f"agents/{quote(config.agent)}/run-tests", tests)
            while True:
                run = next(iter(dicts_of(invocation, "test_runs")), {})
                match run.get("status"):
                    case "passed" | "failed":
                        return run
                    case "pending":
                        pass
                    case status:
                        raise ModelFailed(config.name, f"the run is over ({word_of(status)})", why=Why.CUT)
                await trio.sleep(config.poll_s)
                invocation = await self._ask("GET", f"test-invocations/{quote(id_of(invocation, 'id'))}")
        raise ModelFailed(config.name, "no answer in time", why=Why.TIMEOUT)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else packed(body).encode()
        response = await self._client.request(method, f"/v1/convai/{path}", content=content)
        value = _parsed(response.content)
        if response.status_code != 200:
            detail = value.get("detail")
            code = detail.get("status") if isinstance(detail, dict) else ""
            raise refused(ModelFailed, self._config.name, response, word_of(code) if code else "")
        if not value:
            raise BadMessage("json")
        return value


def agent_test(config: ElevenLabsAgentsHttpConfig, session: SessionInfo, context: Context) -> dict[str, Any]:
    """The conversation as a test of the agent."""
    turns = [_turn(role, text) for role, text in turns_of(context)]
    turns += map(_exchanged, context.exchanges)
    if context.said.strip():
        turns += [_turn(Role.AGENT, context.said), _turn(Role.CALLER, GO_ON)]
    variables = {"session_id": session.session_id, config.context_variable: instructions_of(context)}
    return {
        "type": "llm",
        "name": f"offhook {session.session_id}",
        "chat_history": turns,
        "success_condition": CONDITION,
        "dynamic_variables": variables,
    }


def parts_of(run: dict[str, Any]) -> list[str | ToolCall]:
    """What the agent answered. Raises BadMessage."""
    parts: list[str | ToolCall] = []
    for number, turn in enumerate(dicts_of(run, "agent_responses")):
        if turn.get("role") != "agent":
            continue
        if text := text_of(turn, "message").strip():
            parts.append(f" {text}" if parts else text)
        for place, call in enumerate(dicts_of(turn, "tool_calls")):
            call_id = call.get("request_id")
            arguments = call.get("params_as_json")
            parts.append(
                ToolCall(
                    call_id if isinstance(call_id, str) and call_id else f"call_{number}_{place}",
                    id_of(call, "tool_name"),
                    arguments if isinstance(arguments, str) and len(arguments) <= MAX_TEXT else "{}",
                )
            )
    if not parts:
        raise BadMessage("shape")
    return parts


def _turn(role: Role, text: str) -> dict[str, Any]:
    return {"role": _ROLES[role], "message": text, "time_in_call_secs": 0}


def _exchanged(exchange: Exchange) -> dict[str, Any]:
    names = {call.call_id: call.name for call in exchange.calls}
    calls = [
        {
            "request_id": call.call_id,
            "tool_name": call.name,
            "params_as_json": call.arguments,
            "tool_has_been_called": True,
            "type": "client",
        }
        for call in exchange.calls
    ]
    results = [
        {
            "request_id": result.call_id,
            "tool_name": names.get(result.call_id, ""),
            "result_value": result.text,
            "is_error": result.is_error,
            "tool_has_been_called": True,
            "type": "client",
        }
        for result in exchange.results
    ]
    return {**_turn(Role.AGENT, exchange.said), "tool_calls": calls, "tool_results": results}


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
