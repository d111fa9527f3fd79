"""The scripted model as a vendor among others: nothing over the network, and no key."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import cast

from adapters.scripted.model import open_model
from adapters.scripted.script import Script
from engine.events import SessionInfo
from engine.ports import Owner, RawModel


class ScriptVendor:
    """Implements ``engine.ports.ModelVendor``."""

    name = "script"

    def __init__(self, script: Script) -> None:
        self._script = script

    def open(self, session: SessionInfo, owner: Owner) -> AbstractAsyncContextManager[RawModel]:
        # What it says is part of what a raw model may say; channels are invariant.
        opening = open_model(self._script, call_id=session.call_id)
        return cast("AbstractAsyncContextManager[RawModel]", opening)
