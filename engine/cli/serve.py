"""``offhook serve``: the engine, until it is told to stop."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import structlog
import trio

from engine.assembly import Engine
from engine.observe.logs import LogOutput, configure_logs
from engine.runtime.garbage import FullCollections
from engine.settings import Settings, load_settings, with_server

log = structlog.get_logger()


def serve(
    *, config: Path | None = None, host: str | None = None, port: int | None = None, insecure_dev: bool = False
) -> int:
    """Run the engine until SIGTERM or Ctrl-C.

    Parameters
    ----------
    config
        Settings file; default ./offhook.toml if there is one.
    host
        Address to listen on, over the settings' server.host.
    port
        Port to listen on, over the settings' server.port; 0 picks a free one.
    insecure_dev
        Accept unsigned webhooks of every provider. Only on a loopback address.
    """
    settings = with_server(load_settings(config), host=host, port=port)
    collections = FullCollections()
    return run(Engine(settings, insecure_dev=insecure_dev, on_started=collections.start), collections)


def run(engine: Engine, collections: FullCollections) -> int:
    """An engine in a process of its own, with its signals and its log. 1 when it gave up by itself."""
    metrics = engine.metrics
    metrics.fill()
    with LogOutput(sys.stderr, on_drop=metrics.log_records_dropped_total.inc) as output:
        _configure(engine.settings, output, engine)
        trio.run(_run, engine, collections)
    return 1 if engine.has_given_up else 0


def _configure(settings: Settings, output: LogOutput, engine: Engine) -> None:
    counted = engine.metrics.log_records_total
    configure_logs(
        json={"json": True, "console": False}.get(settings.log.format),
        level=settings.log.level,
        output=output,
        count=lambda level: counted.labels(level).inc(),
    )


async def _run(engine: Engine, collections: FullCollections) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, engine, nursery.cancel_scope)
        nursery.start_soon(collections.run, lambda: not engine.registry.live_slots())
        await engine.run()
        nursery.cancel_scope.cancel()


async def until_signalled(engine: Engine) -> None:
    """Until the first signal, which drains the engine that somebody else runs."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            engine.stop()
            return


async def _obey_signals(
    engine: Engine, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first signal drains, the second ends everything at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        is_first = True
        async for number in signals:
            log.info("signal", name=signal.Signals(number).name, is_first=is_first)
            if not is_first:
                engine.cut()
                everything.cancel()
                return
            engine.stop()
            is_first = False
