"""What a call owns, as an adapter sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol, TypeVar

T = TypeVar("T")


class ResourceKind(StrEnum):
    """What a call can own: the ``kind`` label of the resource metrics."""

    PROVIDER_SOCKET = "provider_socket"
    SPEECH_CLIENT = "speech_client"
    TTS_CLIENT = "tts_client"
    LLM_CONNECTION = "llm_connection"
    STORE_SESSION = "store_session"
    RECORDER = "recorder"
    HTTP_CLIENT = "http_client"


class Owner(Protocol):
    """A call's ledger as an adapter sees it. Whatever an adapter opens for a call, it opens through this."""

    def own(
        self,
        kind: ResourceKind,
        vendor: str,
        opening: AbstractAsyncContextManager[T],
        *,
        is_closed: Callable[[T], bool] | None = None,
        abort: Callable[[T], None] | None = None,
    ) -> AbstractAsyncContextManager[T]:
        """Open a resource under the call's ledger.

        ``is_closed`` is asked after the close: False counts the resource as leaked. ``abort`` closes at once without
        waiting (a descriptor, say); it is called when the polite close has outlived its deadline.
        """
        ...
