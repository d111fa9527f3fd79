"""Sessions with their messages and traces. An older program's table of sessions is taken over as it stands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade(op: Operations, table: str) -> None:
    name, double = op.get_bind().dialect.name, sa.Double
    text = sa.Text(collation="C") if name == "postgresql" else sa.Text()
    number = sa.BigInteger() if name == "postgresql" else sa.Integer()
    columns: list[sa.Column[object]] = [
        sa.Column("key", text),
        sa.Column("subject", text),
        sa.Column("version", sa.BigInteger),
        sa.Column("started_at", double),
        sa.Column("last_at", double),
        sa.Column("expires_at", double),
        sa.Column("body", sa.LargeBinary),
    ]
    if sa.inspect(op.get_bind()).has_table(table):
        _take_over(op, table)
        for column in columns:
            op.add_column(table, column)
    else:
        op.create_table(table, sa.Column("session_id", text, primary_key=True, nullable=False), *columns)
    op.create_index(f"{table}_by_key", table, ["key"], unique=True)
    op.create_index(f"{table}_by_subject", table, ["subject"])
    op.create_index(f"{table}_by_expiry", table, ["expires_at"])

    op.create_table(
        f"{table}_messages",
        sa.Column("position", number, primary_key=True, autoincrement=True),
        sa.Column("session_id", text, _session(table, "messages"), nullable=False),
        sa.Column("message_id", text, nullable=False),
        sa.Column("at", double, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("text", text, nullable=False),
    )
    op.create_index(f"{table}_messages_by_id", f"{table}_messages", ["session_id", "message_id"], unique=True)
    op.create_index(f"{table}_messages_in_order", f"{table}_messages", ["session_id", "position"])
    op.create_table(
        f"{table}_traces",
        sa.Column("position", number, primary_key=True, autoincrement=True),
        sa.Column("session_id", text, _session(table, "traces"), nullable=False),
        sa.Column("at", double, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index(f"{table}_traces_in_order", f"{table}_traces", ["session_id", "position"])
    op.create_table(
        f"{table}_tombstones",
        sa.Column("subject", text, primary_key=True, nullable=False),
        sa.Column("at", double, nullable=False),
    )
    op.create_table(
        f"{table}_meta",
        sa.Column("name", text, primary_key=True, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        f"{table}_audit",
        sa.Column("position", number, primary_key=True, autoincrement=True),
        sa.Column("at", double, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )


def _session(table: str, of: str) -> sa.ForeignKey:
    return sa.ForeignKey(f"{table}.session_id", name=f"{table}_{of}_of", ondelete="CASCADE")


def _take_over(op: Operations, table: str) -> None:
    """Make room in the older program's table: rows of ours leave its columns empty."""
    inspector = sa.inspect(op.get_bind())
    theirs = [column for column in inspector.get_columns(table) if column["name"] != "session_id"]
    strict = [column["name"] for column in theirs if not column["nullable"]]
    if op.get_bind().dialect.name == "postgresql":
        for name in strict:
            op.alter_column(table, name, nullable=True)
        # Of one collation with the columns that refer to it: PostgreSQL does not compare across two.
        op.alter_column(table, "session_id", type_=sa.Text(collation="C"), postgresql_using="session_id::text")
    elif strict:
        # SQLite can only change a column by copying its table.
        with op.batch_alter_table(table, recreate="always") as batch:
            for name in strict:
                batch.alter_column(name, nullable=True)
