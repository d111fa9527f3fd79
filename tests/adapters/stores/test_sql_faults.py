"""What is told of a PostgreSQL that lets nobody in: where it is and what is the matter, and never a password."""

from __future__ import annotations

import psycopg
import pytest

from adapters.stores.sql_faults import NotLetIn, not_connected

PLACE = "postgresql at db port 5432"
SERVER = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (SERVER + 'FATAL:  password authentication failed for user "pw"', "the password, or the user, is wrong"),
        (SERVER + "fe_sendauth: no password supplied", "wants a password"),
        (SERVER + 'FATAL:  database "nodb" does not exist', "has no such database"),
        (SERVER + 'FATAL:  role "nobody" does not exist', "has no such user"),
        (SERVER + 'FATAL:  role "nologin" is not permitted to log in', "may not log in"),
        (SERVER + 'FATAL:  pg_hba.conf rejects connection for host "h", user "u", database "d"', "pg_hba.conf"),
        (SERVER + 'FATAL:  no pg_hba.conf entry for host "h", user "u", database "d"', "pg_hba.conf"),
        (SERVER + 'FATAL:  permission denied for database "closed"', "does not let this user into the database"),
        (SERVER + "server does not support SSL, but SSL was required", "TLS"),
        ('invalid integer value "hush" for connection option "port"', "the address"),
    ],
)
def test_what_no_waiting_changes_is_told_in_plain_words(said: str, told: str) -> None:
    down = not_connected(psycopg.OperationalError(said), PLACE)
    assert isinstance(down, NotLetIn)
    assert down.detail.startswith(f"{PLACE} ")
    assert told in down.detail
    assert "hush" not in down.detail


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (SERVER + "Connection refused", "cannot be reached"),
        ('connection is bad: connection to server on socket "/x" failed: No such file', "cannot be reached"),
        ("failed to resolve host 'nohost'", "no such host"),
        (SERVER + "FATAL:  the database system is starting up", "is starting"),
        (SERVER + "FATAL:  sorry, too many clients already", "has no connection free"),
        (SERVER + 'FATAL:  too many connections for role "few"', "has no connection free"),
        (SERVER + 'FATAL:  database "deny" is not currently accepting connections', "lets nobody into the database"),
        (SERVER + "FATAL:  Passwort-Authentifizierung fehlgeschlagen", "does not let us in"),
    ],
)
def test_what_may_pass_is_waited_for(said: str, told: str) -> None:
    down = not_connected(psycopg.OperationalError(said), PLACE)
    assert not isinstance(down, NotLetIn)
    assert (down.why, down.detail.startswith(f"{PLACE} "), told in down.detail) == ("refused", True, True)


def test_a_server_that_does_not_answer_at_all_is_told_from_one_that_is_not_there() -> None:
    down = not_connected(psycopg.errors.ConnectionTimeout("connection timeout expired"), PLACE)
    assert (down.why, down.detail) == ("timeout", f"{PLACE} does not answer")
