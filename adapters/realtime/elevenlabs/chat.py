"""ElevenLabs Agents over a WebSocket for written turns: the vendor's chat mode, in which nothing is spoken.

Each answer is a conversation of its own at the vendor, shown all of ours before its one question: what over HTTP is a
test of the agent (``adapters.realtime.elevenlabs.http``) goes over the same socket as a call here.

Source: the vendor's API reference, the message types it publishes, and the official client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import urlencode

import structlog
import trio

from adapters.realtime.answering import Answer, Put, answering
from adapters.realtime.conversing import LIMITS, MAX_JUNK
from adapters.realtime.elevenlabs.config import ElevenLabsAgentsConfig
from adapters.realtime.elevenlabs.protocol import overrides_of, why_closed, why_of_error
from adapters.realtime.fields import id_of, json_of, needed_number_of
from adapters.realtime.shown import GO_ON, story_of, turns_of
from engine.errors import BadMessage, ModelFailed, Why
from engine.events import Context, ModelPart, Role, SessionInfo, ToolCall
from engine.ports import Owner
from engine.runtime.feed import Feed, Message
from engine.runtime.network import Network, failing
from engine.runtime.vendor_json import dict_of, object_of, packed, text_of

CALLS_S = 0.3
"""After a tool call, for more of them."""
QUIET_S = 30.0
"""The longest silence of the vendor. Whoever asks sets shorter limits of its own."""

log = structlog.get_logger()


class ElevenLabsAgentsChatVendor:
    """Implements ``engine.ports.ModelVendor``."""

    def __init__(self, config: ElevenLabsAgentsConfig, network: Network) -> None:
        self.name = config.name
        self._config = config
        self._network = network

    @asynccontextmanager
    async def open(self, session: SessionInfo, owner: Owner) -> AsyncIterator[AgentChatModel]:
        """See the port."""
        yield AgentChatModel(self._config, self._network, session)


class AgentChatModel:
    """A ``RawModel``: a socket for each reply."""

    def __init__(self, config: ElevenLabsAgentsConfig, network: Network, session: SessionInfo) -> None:
        self._config = config
        self._network = network
        self._session = session
        self._replies = 0

    @property
    def is_closed(self) -> bool:
        return not self._replies

    def open_reply(self, context: Context) -> AbstractAsyncContextManager[Answer]:
        """See the port. The vendor gives no usage."""
        return answering(partial(self._answer, context))

    async def _answer(self, context: Context, put: Put) -> None:
        config, session = self._config, self._session
        log.debug(
            "model_request",
            vendor=config.name,
            session_id=session.session_id,
            call_id=session.call_id,
            messages=len(context),
        )
        wire = ChatWire(config, session, context)
        self._replies += 1
        try:
            with failing(ModelFailed, config.name):
                async with self._network.feed(wire.url, wire.headers, limits=LIMITS) as feed:
                    feed.put(*wire.greeting())
                    await self._read(feed, wire, put)
        finally:
            self._replies -= 1

    async def _read(self, feed: Feed, wire: ChatWire, put: Put) -> None:
        name, junk = self._config.name, 0
        while not wire.is_over:
            message: Message | None = None
            with trio.move_on_after(CALLS_S if wire.has_called else QUIET_S):
                try:
                    message = await feed.receive()
                except trio.EndOfChannel:
                    code = feed.close_code
                    raise ModelFailed(name, f"closed the connection ({code})", why=wire.why_closed(code)) from None
            if message is None:
                if wire.has_called:
                    return
                raise ModelFailed(name, "no answer in time", why=Why.TIMEOUT)
            try:
                parts = wire.receive(message)
                junk = 0
            except BadMessage as exc:
                junk += 1
                if junk >= MAX_JUNK:
                    raise ModelFailed(name, "sends nothing that makes sense", why=Why.NONSENSE) from exc
                continue
            feed.put(*wire.outbox)
            wire.outbox.clear()
            for part in parts:
                await put(part)


class ChatWire:
    """One question and its answer, without I/O."""

    def __init__(self, config: ElevenLabsAgentsConfig, session: SessionInfo, context: Context) -> None:
        self.url = f"{config.url}?{urlencode({'agent_id': config.agent})}"
        self.headers = {"xi-api-key": config.key}
        self.outbox: list[Message] = []
        self.is_over = False
        self.has_called = False
        self._config = config
        self._session = session
        self._context = context
        self._has_asked = False
        self._has_parts = False
        self._why: Why | None = None

    def greeting(self) -> Sequence[Message]:
        override = overrides_of(self._config, self._context, first_message="")
        override["conversation"] = {"text_only": True}
        variables = {"session_id": self._session.session_id}
        first = {
            "type": "conversation_initiation_client_data",
            "conversation_config_override": override,
            "dynamic_variables": variables,
            "user_id": self._session.session_id,
            **self._config.extra,
        }
        return [packed(first)]

    def receive(self, message: Message) -> list[ModelPart]:
        """Raises BadMessage."""
        said = object_of(message)
        match said.get("type"):
            case "conversation_initiation_metadata":
                self._ask()
            case "ping":
                number = int(needed_number_of(dict_of(said, "ping_event"), "event_id"))
                self.outbox.append(packed({"type": "pong", "event_id": number}))
            case "agent_chat_response_part":
                text = text_of(dict_of(said, "text_response_part"), "text")
                self._has_parts = self._has_parts or bool(text)
                return [text] if text else []
            case "agent_response":
                self.is_over = not self.has_called
                text = text_of(dict_of(said, "agent_response_event"), "agent_response").strip()
                return [text] if text and not self._has_parts else []
            case "client_tool_call":
                self.has_called = True
                call = dict_of(said, "client_tool_call")
                arguments = json_of(call, "parameters")
                return [ToolCall(id_of(call, "tool_call_id"), id_of(call, "tool_name"), arguments)]
            case "error":
                self._why = why_of_error(dict_of(said, "error_event"))
            case str():
                pass
            case _:
                raise BadMessage("shape")
        return []

    def why_closed(self, code: int | None) -> Why:
        return self._why or why_closed(code)

    def _ask(self) -> None:
        """All that was said, and then the caller's last words."""
        if self._has_asked:
            return
        self._has_asked = True
        before, question = _split(self._context)
        if before:
            self.outbox.append(packed({"type": "contextual_update", "text": before}))
        self.outbox.append(packed({"type": "user_message", "text": question}))


def _split(context: Context) -> tuple[str, str]:
    turns = turns_of(context)
    question = turns.pop()[1] if turns and turns[-1][0] is Role.CALLER else ""
    told = [story_of(turns)]
    for exchange in context.exchanges:
        results = {result.call_id: result for result in exchange.results}
        for call in exchange.calls:
            result = results.get(call.call_id)
            if result is not None:
                told.append(f"You have called the tool {call.name} with {call.arguments}. The result: {result.text}")
    if context.said.strip():
        told.append(f"You: {context.said.strip()}")
        told.append(GO_ON)
    return "\n".join(text for text in told if text), question or GO_ON
