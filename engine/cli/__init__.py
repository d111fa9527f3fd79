"""The command ``offhook``. Each subcommand is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from cyclopts import App, Parameter

from engine import __version__
from engine.cli.usage import NotThere
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

    Webhooks are signed with TWILIO_AUTH_TOKEN, VONAGE_SIGNATURE_SECRET, PLIVO_AUTH_TOKEN, SIGNALWIRE_SIGNING_KEY or
    TELNYX_PRIVATE_KEY, if it is set. Exit code 1 when a call was refused, not answered, or not spoken to by the rules
    of its provider, 2 when it could not be placed as asked.""",
)
app.command(
    "engine.cli.doctor:doctor",
    help="""Check settings, port, file descriptors, providers, keys, store, tools, vendors, recording, outbound calls
    and speech on this machine.

    Exit code 1 when a check failed, 2 when the settings cannot be read.""",
)
app.command(
    "engine.cli.vendors:vendors",
    help="""List the kinds of speech and language vendors, and the variables their keys are in; or what one kind takes
    in the settings, ready to be pasted.""",
)
app.command(
    "engine.cli.trace:trace",
    help="""Show what happened in a session: every creation and reuse, every request to a model with what it was shown
    and what came back, as a timeline.

    Reads the store that the settings name; no engine need run. With --url it asks a running one instead. The session
    is given by its id, by the id of a call of it, or by the caller's number, which means its latest one.""",
)
app.command(
    "engine.cli.trace:validate",
    help="""Check that in a session the model was always shown a complete context, in order, well formed, and with one
    opening.

    Takes what `offhook trace` takes. Exit code 0 when everything is in order, 1 when something is not, 2 when there is
    no such session.""",
)
history = App(name="history", help="Look at, search, export, edit and branch what was said, out of the store.")
app.command(history)
history.command(
    "engine.cli.history:show",
    help="Print a session: what is known of it, and its messages with their ids.",
)
history.command(
    "engine.cli.history:search",
    help="Find messages that hold all of the words, newest first. Exit code 1 when there are none.",
)
history.command(
    "engine.cli.history:export",
    help="Write a session as a document: Markdown for people, JSON for programs.",
)
history.command(
    "engine.cli.history:edit",
    help="Change the text of a message. The original is kept beside it, and marked.",
)
history.command(
    "engine.cli.history:branch",
    help="Begin a new session that has everything up to a message, and goes on from there.",
)
privacy = App(name="privacy", help="People's control over what is kept of them: export, deletion, and who did it.")
app.command(privacy)
privacy.command(
    "engine.cli.privacy:export",
    help="Write all that is kept of a number as JSON, nothing masked: it is for the person whose it is.",
)
privacy.command(
    "engine.cli.privacy:delete",
    help="""Erase a number: afterwards no byte of the caller is left in the store and in its journal.

    Asks first, unless --yes says that nobody need be asked. Beside a running engine use --url: then it is the engine
    that does it, which also ends what a live call remembers.""",
)
privacy.command(
    "engine.cli.privacy:audit",
    help="Show who exported, deleted or changed what, newest first. Numbers are not kept, only their fingerprints.",
)
store = App(name="store", help="The store that the settings name: its state, its keys, its upkeep.")
app.command(store)
store.command(
    "engine.cli.store:info",
    help="Show what the store is, whether it is encrypted, how much is in it, and what waits in the journal.",
)
store.command(
    "engine.cli.store:migrate",
    help="""Bring the store's tables to this version, with all rows in them; also an older program's table of sessions
    is taken over. The engine does the same when it starts; this is for doing it before.""",
)
store.command(
    "engine.cli.store:reencrypt",
    help="""Seal everything with the first of ENCRYPTION_KEYS that is not sealed with it yet.

    May run beside the engine, be stopped and be run again. Afterwards older keys can go, unless it says that something
    still needs them. Exit code 1 when there was something that no key opens.""",
)
store.command(
    "engine.cli.store:new_key",
    help="Print a new entry for ENCRYPTION_KEYS. Put it before the others, and it seals from then on.",
)
store.command(
    "engine.cli.store:purge",
    help="Let go of the bytes of sessions that have expired. The engine does so every hour.",
)
app.command(
    "engine.cli.dial:dial",
    help="""Have a running engine call a number.

    Only numbers that [outbound] of its settings allows are called. The API key is in API_KEY and needs the scope calls.
    With --wait the command stays until the call is over. Exit code 0 when somebody was reached, or the call is under
    way; 1 when it was refused or nobody was reached.""",
)
calls = App(name="calls", help="The live calls of a running engine: list, speak into, connect elsewhere, end.")
app.command(calls)
calls.command("engine.cli.calls:ls", help="List the calls that live now, the oldest first.")
calls.command(
    "engine.cli.calls:say",
    help="Have the agent of a call say something, as soon as nothing else is being said.",
)
calls.command(
    "engine.cli.calls:hangup",
    help="End a call: with --say after these last words, else at once. One that still rings is given up.",
)
calls.command(
    "engine.cli.calls:transfer",
    help="Connect the caller to one of the agent's transfers, or to a number that [outbound] allows.",
)
app.command(
    "engine.cli.converse:converse",
    help="""Hold test conversations: turns with what must come back and what must be remembered.

    Without --url an engine is started for each, in this process, on a store of its own; with it the engine needs the
    agents of the script, and of "all" those are held that it has. Without a script the ones that ship with Offhook are
    listed; "all" means all of these; --print shows how one is written. The keys of a turn: say, over (text, sms or
    voice), expect and expect_not (words or /patterns/ of the answer), remembers, agent, in_call, new_call, restart,
    greeting and greeting_not.

    Checked besides: the session id stays the same, the opening is said once, `offhook validate` finds nothing. Exit
    code 1 when something failed, 2 when a script or the settings are wrong, or the engine cannot hold it.""",
)


def main() -> None:
    """Entry point. Exit codes: 0, 1 (something failed), 2 (settings or usage)."""
    try:
        code = app(result_action="return_value")
    except (OffhookError, BaseExceptionGroup, KeyboardInterrupt) as exc:
        code = _code_of(exc)
    if code == INTERRUPTED:
        _leave_at_once()
    sys.exit(code if isinstance(code, int) else 0)


def _leave_at_once() -> NoReturn:
    """A thread may be inside a library that loads a model or computes: the process taken down around it aborts."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)


def _code_of(exc: BaseException) -> int:
    """Says what went wrong, in a line. What is no error of ours is raised again: it wants its traceback."""
    if _is_interrupt(exc):
        return INTERRUPTED
    error = _only_error(exc)
    if error is None:
        raise exc
    print(f"offhook: {error}", file=sys.stderr)
    return BAD_SETTINGS if isinstance(error, SettingsError | NotThere) else 1


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
