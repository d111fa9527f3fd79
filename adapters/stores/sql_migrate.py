"""Bringing a database to the schema of this program, inside one transaction that the caller has begun and locked:
killed half-way, nothing has happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory

from adapters.stores.sql_tables import OF_SESSION, Tables

_SCRIPTS = Path(__file__).parent / "migrations"


class WrongSchema(Exception):
    """The database cannot be used as it is; the message says why and never quotes its content."""


def migrate(connection: sa.Connection, at: Tables) -> None:
    """Raises WrongSchema, with nothing changed."""
    scripts = ScriptDirectory(_SCRIPTS)
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": at.version,
            "fn": lambda heads, _: list(_steps(scripts, heads)),
            # Alembic is to begin no transaction of its own: all of it is one, the caller's.
            "transaction_per_migration": False,
        },
    )
    known = {script.revision for script in scripts.walk_revisions()}
    heads = context.get_current_heads()
    if unknown := set(heads) - known:
        raise WrongSchema(
            f"the schema of table {at.name} is of a newer version ({', '.join(sorted(unknown))}) than this program "
            f"knows ({scripts.get_current_head()})"
        )
    if heads != (scripts.get_current_head(),):
        if not heads:
            _check_older(connection, at)
        # Given to each step by name: Alembic's own `op` is one for the whole process, and stores open side by side.
        context.run_migrations(op=Operations(context), table=at.name)


def _steps(scripts: ScriptDirectory, heads: tuple[str, ...]) -> Iterator[MigrationStep]:
    ahead = list(scripts.iterate_revisions("head", heads[0] if heads else "base"))
    for script in reversed(ahead):
        yield MigrationStep.upgrade_from_script(scripts.revision_map, script)


def _check_older(connection: sa.Connection, at: Tables) -> None:
    """The table that is there without us having made it must be one that rows of ours can be added to."""
    inspector = sa.inspect(connection)
    for table in at.metadata.tables:
        if table != at.name and inspector.has_table(table):
            raise WrongSchema(f"there is a table {table} already, which is not this program's")
    if not inspector.has_table(at.name):
        return
    columns = {column["name"]: column for column in inspector.get_columns(at.name)}
    if inspector.get_pk_constraint(at.name)["constrained_columns"] != ["session_id"]:
        raise WrongSchema(f"the table {at.name} is another program's: its primary key is not session_id alone")
    if taken := sorted(columns.keys() & set(OF_SESSION) - {"session_id"}):
        raise WrongSchema(f"the table {at.name} is another program's: it has a column {taken[0]} already")
    if isinstance(columns["session_id"]["type"], sa.Integer) and connection.dialect.name == "sqlite":
        raise WrongSchema(f"the table {at.name} is another program's: its session_id holds numbers only")
