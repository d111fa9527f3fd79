"""The command ``offhook``. Each subcommand is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import sys

from cyclopts import App, Parameter

from engine import __version__
from engine.errors import OffhookError, SettingsError

BAD_SETTINGS = 2
INTERRUPTED = 130

app = App(
    name="offhook",
    help="Answers phone calls for voice agents, many at once, and lets go of everything when the caller hangs up.",
    version=__version__,
    default_parameter=Parameter(negative="", show_default=lambda value: str(value) if value else None),
)
# Helps stand here and not with their functions, so that this one need not import them.
app.command(
    "engine.cli.demo:demo",
    help="""Answer one spoken test call here and now, with no account and no key.

    Starts the engine with the embedded speech on a free port and places a call at it over the provider's own wire:
    signed webhook, media socket, audio both ways. Shows the conversation as it happens, then proves that nothing of
    the call is left. Exit code 1 when anything failed.""",
)
app.command(
    "engine.cli.serve:serve",
    help="""Run the engine until SIGTERM or Ctrl-C.

    Without a settings file the embedded agent answers on 127.0.0.1:8080. Calls are taken once /readyz says so. The
    first signal drains: new calls are refused, live ones finish; a second one ends everything at once. Exit code 0
    after a drain, 1 when the engine gave up by itself, 2 when the settings are wrong.""",
)
app.command(
    "engine.cli.call:call",
    help="""Place a call at a running engine, speak to it, and show what it answers.

    Webhooks are signed when TWILIO_AUTH_TOKEN or VONAGE_SIGNATURE_SECRET is set. Exit code 1 when a call was refused,
    not answered, or not spoken to by the rules of its provider, 2 when it could not be placed as asked.""",
)
app.command(
    "engine.cli.doctor:doctor",
    help="""Check settings, port, file descriptors, providers and speech on this machine.

    Exit code 1 when a check failed, 2 when the settings cannot be read.""",
)


def main() -> None:
    """Entry point. Exit codes: 0, 1 (something failed), 2 (settings or usage)."""
    try:
        code = app(result_action="return_value")
    except (OffhookError, BaseExceptionGroup, KeyboardInterrupt) as exc:
        code = _code_of(exc)
    sys.exit(code if isinstance(code, int) else 0)


def _code_of(exc: BaseException) -> int:
    """Says what went wrong, in a line. What is no error of ours is raised again: it wants its traceback."""
    if _is_interrupt(exc):
        return INTERRUPTED
    error = _only_error(exc)
    if error is None:
        raise exc
    print(f"offhook: {error}", file=sys.stderr)
    return BAD_SETTINGS if isinstance(error, SettingsError) else 1


def _is_interrupt(exc: BaseException) -> bool:
    """Ctrl-C, which trio raises in whichever nursery was running. What broke in its wake is of no interest."""
    return isinstance(exc, KeyboardInterrupt) or (
        isinstance(exc, BaseExceptionGroup) and exc.subgroup(KeyboardInterrupt) is not None
    )


def _only_error(exc: BaseException) -> OffhookError | None:
    """The error of ours that it is, or that the nurseries on its way wrapped; None if there is more to it."""
    if isinstance(exc, BaseExceptionGroup):
        return _only_error(exc.exceptions[0]) if len(exc.exceptions) == 1 else None
    return exc if isinstance(exc, OffhookError) else None
