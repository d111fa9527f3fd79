"""The command ``offhook``. Each subcommand is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import sys

from cyclopts import App

from engine import __version__
from engine.errors import OffhookError, SettingsError

BAD_SETTINGS = 2

app = App(
    name="offhook",
    help="Answers phone calls for voice agents, many at once, and lets go of everything when the caller hangs up.",
    version=__version__,
)
app.command("engine.cli.demo:demo", help="Answer one spoken test call here and now, with no account and no key.")
app.command("engine.cli.serve:serve", help="Run the engine.")
app.command("engine.cli.call:call", help="Call a running engine, as Twilio or Vonage would.")
app.command("engine.cli.doctor:doctor", help="Check settings, port, limits and speech on this machine.")


def main() -> None:
    """Entry point. Exit codes: 0, 1 (something failed), 2 (settings or usage)."""
    try:
        code = app(result_action="return_value")
    except SettingsError as exc:
        print(f"offhook: {exc}", file=sys.stderr)
        code = BAD_SETTINGS
    except OffhookError as exc:
        print(f"offhook: {exc}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
