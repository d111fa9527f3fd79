"""The language models of the contract suite: each with the fake cloud that judges it, on memory streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from adapters.models.anthropic import AnthropicConfig, AnthropicModelVendor
from adapters.models.openai_chat import OpenAiChatConfig, OpenAiChatModelVendor
from adapters.models.openai_responses import OpenAiResponsesConfig, OpenAiResponsesModelVendor
from engine.events import Context, Message, Modality, ModelPart, Role, SessionInfo, ToolSpec
from engine.ports import ModelVendor, RawModel, ResourceKind
from engine.runtime.network import Network
from tests.fakes.clouds.anthropic_messages import AnthropicMessages
from tests.fakes.clouds.loopback import dialled
from tests.fakes.clouds.openai_chat import Dialect, OpenAiChat
from tests.fakes.clouds.openai_responses import OpenAiResponses
from tests.fakes.clouds.thinking import KEY, ModelCloud

T = TypeVar("T")
SESSION = SessionInfo("s1", "desk", Modality.VOICE, call_id="CA1")
WEATHER = ToolSpec("weather", "How it is", {"type": "object", "properties": {"city": {"type": "string"}}})


@dataclass(frozen=True)
class Bench:
    """One vendor's adapter and its fake."""

    name: str
    make_cloud: Callable[[], ModelCloud]
    make_vendor: Callable[[Network, str], ModelVendor]
    error_event: bytes
    """In the middle of an answer: the vendor is overloaded."""
    filtered: str
    """Its word for an end because of what was said."""
    length: str
    """Its word for an end because the answer became too long."""
    is_cut_by_close: bool = True
    """An answer that ends before its last event is none."""


def _chat(network: Network, key: str) -> ModelVendor:
    return OpenAiChatModelVendor(OpenAiChatConfig(key=key, model="m", url="http://cloud/v1"), network)


def _compatible(network: Network, key: str) -> ModelVendor:
    config = OpenAiChatConfig(model="m", url="http://cloud/v1/", compatible=True, key=key, name="ollama")
    return OpenAiChatModelVendor(config, network)


def _responses(network: Network, key: str) -> ModelVendor:
    return OpenAiResponsesModelVendor(OpenAiResponsesConfig(key=key, model="m", url="http://cloud/v1"), network)


def _anthropic(network: Network, key: str) -> ModelVendor:
    return AnthropicModelVendor(AnthropicConfig(key=key, model="m", url="http://cloud"), network)


def _odd() -> ModelCloud:
    """Everything done differently that a server is known to do."""
    dialect = Dialect(
        usage="choice",
        has_index=False,
        has_ids=False,
        whole_calls=True,
        repeats_role=True,
        null_content=True,
        stops_with_calls=False,
        reasons="reasoning_content",
        says_done=False,
        float_created=True,
        has_comments=True,
        plain_errors=True,
        alternates=True,
    )
    return OpenAiChat(dialect=dialect)


_OPENAI_ERROR = b'data: {"error": {"message": "busy", "type": "server_error", "code": null}}\n\n'
_RESPONSES_ERROR = b'event: error\ndata: {"type": "error", "code": "server_error", "message": "busy"}\n\n'
_ANTHROPIC_ERROR = (
    b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
)
BENCHES = [
    Bench("openai_chat", OpenAiChat, _chat, _OPENAI_ERROR, "content_filter", "length"),
    Bench("compatible", _odd, _compatible, _OPENAI_ERROR, "content_filter", "length"),
    Bench("openai_responses", OpenAiResponses, _responses, _RESPONSES_ERROR, "content_filter", "max_output_tokens"),
    Bench("anthropic", AnthropicMessages, _anthropic, _ANTHROPIC_ERROR, "refusal", "max_tokens"),
]


class Book:
    """An owner that keeps what it was given."""

    def __init__(self) -> None:
        self.open = 0
        self.leaks = 0

    @asynccontextmanager
    async def own(
        self,
        kind: ResourceKind,
        vendor: str,
        opening: AbstractAsyncContextManager[T],
        *,
        is_closed: Callable[[T], bool] | None = None,
        abort: Callable[[T], None] | None = None,
    ) -> AsyncIterator[T]:
        async with opening as resource:
            self.open += 1
            try:
                yield resource
            finally:
                self.open -= 1
        self.leaks += is_closed is not None and not is_closed(resource)


@dataclass
class Rig:
    """One cloud, one vendor, one call's model."""

    cloud: ModelCloud
    vendor: ModelVendor
    model: RawModel
    book: Book

    async def parts(self, context: Context) -> list[ModelPart]:
        async with self.model.open_reply(context) as parts:
            return [part async for part in parts]


@asynccontextmanager
async def rigged(bench: Bench, nursery: trio.Nursery, *, key: str = KEY) -> AsyncIterator[Rig]:
    cloud, book = bench.make_cloud(), Book()
    vendor = bench.make_vendor(dialled(cloud, nursery), key)
    async with vendor.open(SESSION, book) as model:
        yield Rig(cloud, vendor, model, book)
    assert model.is_closed
    assert (book.open, book.leaks) == (0, 0)


def asked(*words: str, **more: Any) -> Context:
    """A conversation that ends in these words of the caller, with answers in between."""
    messages = []
    for word in words:
        messages += [Message(Role.CALLER, word), Message(Role.AGENT, "I see.")]
    return Context(tuple(messages[:-1]), session_id="s1", **more)


def text_of(parts: list[ModelPart]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
