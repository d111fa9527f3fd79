"""The tests of an agent of ElevenLabs, over HTTP: created with a conversation, run, asked for, deleted.

A test of the type ``llm`` runs the agent's language model on its ``chat_history`` and keeps what it answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tests.fakes.clouds.loopback import Request, Response
from tests.fakes.clouds.thinking import Shown, think

Said = dict[str, Any]
_FIELDS = {
    "type",
    "name",
    "chat_history",
    "success_condition",
    "success_examples",
    "failure_examples",
    "dynamic_variables",
    "conversation_initiation_source",
    "environment",
    "from_conversation_metadata",
    "parent_folder_id",
}
_TURN = {"role", "message", "time_in_call_secs", "tool_calls", "tool_results", "interrupted"}
_TEST = re.compile(r"/v1/convai/agent-testing/(\w+)")
_RUN = re.compile(r"/v1/convai/agents/(\w+)/run-tests")
_INVOCATION = re.compile(r"/v1/convai/test-invocations/(\w+)")


class AgentTests:
    """``kept``: tests that are there now. ``asked``: every test that was run, as it was then."""

    def __init__(self, agent: str, faults: list[str]) -> None:
        self.kept: dict[str, Said] = {}
        self.asked: list[Said] = []
        self._agent = agent
        self._faults = faults
        self._invocations: dict[str, tuple[Said, int]] = {}
        self._ids = 0

    def answer(self, request: Request, pending_polls: int, says: Sequence[str] | None) -> Response:
        body = orjson.loads(request.body or b"{}")
        way = (request.method, request.path)
        if way == ("POST", "/v1/convai/agent-testing/create"):
            return self._keep(self._new_id("test"), body)
        if match := _TEST.fullmatch(request.path):
            return self._on_test(request.method, match[1], body)
        if request.method == "POST" and (match := _RUN.fullmatch(request.path)):
            return self._run(match[1], body, pending_polls, says)
        if request.method == "GET" and (match := _INVOCATION.fullmatch(request.path)):
            return self._invocation(match[1])
        return self._refuse(404, "not_found")

    def _on_test(self, method: str, test_id: str, body: Said) -> Response:
        if test_id not in self.kept:
            return self._refuse(404, "test_not_found")
        if method == "PUT":
            return self._keep(test_id, body)
        if method == "DELETE":
            del self.kept[test_id]
            return _json({})
        return _json({"id": test_id, **self.kept[test_id]})

    def _keep(self, test_id: str, body: Said) -> Response:
        turns = body.get("chat_history") or []
        is_well = body.get("type") == "llm" and body.get("name") and not set(body) - _FIELDS
        is_well = is_well and turns and (turns[-1].get("role") == "user" or turns[-1].get("tool_results"))
        if not is_well or not all(_is_turn(turn) for turn in turns):
            return self._refuse(422, "invalid test")
        self.kept[test_id] = body
        return _json({"id": test_id})

    def _run(self, agent: str, body: Said, pending_polls: int, says: Sequence[str] | None) -> Response:
        tests = [test.get("test_id") for test in body.get("tests", ())]
        if agent != self._agent or len(tests) != 1 or tests[0] not in self.kept:
            return self._refuse(404, "agent or test")
        test = self.kept[tests[0]]
        self.asked.append(test)
        invocation_id = self._new_id("inv")
        run = {
            "test_run_id": self._new_id("run"),
            "test_invocation_id": invocation_id,
            "agent_id": agent,
            "test_id": tests[0],
            "status": "passed",
            "agent_responses": _responses(test, says),
        }
        self._invocations[invocation_id] = ({"id": invocation_id, "agent_id": agent, "test_runs": [run]}, pending_polls)
        return self._invocation(invocation_id)

    def _invocation(self, invocation_id: str) -> Response:
        if invocation_id not in self._invocations:
            return self._refuse(404, "invocation")
        invocation, polls = self._invocations[invocation_id]
        if polls <= 0:
            return _json(invocation)
        self._invocations[invocation_id] = (invocation, polls - 1)
        runs = [{**run, "status": "pending", "agent_responses": None} for run in invocation["test_runs"]]
        return _json({**invocation, "test_runs": runs})

    def _new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}_{self._ids}"

    def _refuse(self, status: int, what: str) -> Response:
        self._faults.append(what)
        return Response(status, {"content-type": "application/json"}, orjson.dumps({"detail": {"status": what}}))


def shown_in(test: Said) -> Shown:
    turns = test["chat_history"]
    last = max(place for place, turn in enumerate(turns) if turn["role"] == "user" and turn.get("message"))
    roles = {"user": "user", "agent": "assistant"}
    variables = test.get("dynamic_variables") or {}
    system = [("system", str(variables[name])) for name in ("context",) if variables.get(name)]
    said = [(roles[turn["role"]], turn["message"]) for turn in turns if turn.get("message")]
    results = [result["result_value"] for turn in turns[last:] for result in turn.get("tool_results") or ()]
    return Shown([*system, *said], frozenset(), results)


def _responses(test: Said, says: Sequence[str] | None) -> list[Said]:
    thought = think(shown_in(test))
    pieces = thought.pieces if says is None else says
    calls = [
        {
            "request_id": f"call_{number}",
            "tool_name": name,
            "params_as_json": arguments,
            "tool_has_been_called": False,
            "type": "client",
        }
        for number, (name, arguments) in enumerate(thought.calls)
    ]
    text = "".join(pieces).strip()
    return [{"role": "agent", "message": text, "tool_calls": calls, "tool_results": [], "time_in_call_secs": 1}]


def _is_turn(turn: Mapping[str, Any]) -> bool:
    is_well = turn.get("role") in ("user", "agent") and isinstance(turn.get("time_in_call_secs"), int)
    return is_well and not set(turn) - _TURN


def _json(value: object) -> Response:
    return Response(headers={"content-type": "application/json"}, body=orjson.dumps(value))
