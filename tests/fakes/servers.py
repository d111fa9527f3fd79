"""A real Redis and a real PostgreSQL for tests, each started once per pytest process, on a free port of this machine.

``redis_server`` and ``postgresql_server`` are fixtures for tests anywhere: whatever a test did to the server, stopped,
killed or paused it, the next one finds it running. Both keep their data when they are stopped or killed and started
again. Where the program is missing the test is skipped, or fails if OFFHOOK_REQUIRE_SERVERS is 1.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

HOST = "127.0.0.1"
START_S = 20.0
STOP_S = 10.0


class Server:
    """One server process. Every method blocks until what it says is so."""

    def __init__(self, directory: Path, port: int, command: Sequence[str], user: str | None = None) -> None:
        self.host = HOST
        self.port = port
        self.directory = directory
        self._command = list(command)
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._is_paused = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.is_running:
            return
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                **_as_user(self._user),
            )
        self._wait_until(self._answers, START_S)

    def stop(self) -> None:
        """In good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """At once: Redis by SIGKILL, PostgreSQL by the signal that is to it what a crash is."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """From here on it takes connections and answers nothing."""
        self._is_paused = True
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._signal_all(signal.SIGCONT)

    def restore(self) -> None:
        """Running, whatever was done to it."""
        self.resume()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if not self.is_running or self._process is None:
            return
        self.resume()
        self._process.send_signal(how)
        self._process.wait(STOP_S)

    def _signal_all(self, what: signal.Signals) -> None:
        for pid in (self.pid, *self._children()) if self.is_running else ():
            with suppress(ProcessLookupError):
                os.kill(pid, what)

    def _children(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def _answers(self) -> bool:
        raise NotImplementedError

    def _wait_until(self, is_so: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            if not self.is_running or time.monotonic() > deadline:
                log = (self.directory / "log").read_text("utf-8", "replace")
                raise RuntimeError(f"{Path(self._command[0]).name} does not answer: {log[-2000:]}")
            time.sleep(0.01)


# --- Redis --------------------------------------------------------------------------------------------------

Reply = Any
"""bytes, int, None, or a list of those."""


class RedisError(Exception):
    """What the server answered after a minus."""


class RedisServer(Server):
    """Redis with an append-only file. ``options`` are further ones of redis-server's command line."""

    def __init__(self, directory: Path, program: str, options: Sequence[str] = ()) -> None:
        port = free_port()
        command = [program, "--bind", HOST, "--port", str(port), "--dir", str(directory), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"]
        command += ["--rdbcompression", "no"]  # so that its files can be searched
        super().__init__(directory, port, [*command, *options])
        self.password = options[list(options).index("--requirepass") + 1] if "--requirepass" in options else ""

    def command(self, *words: str | bytes | float) -> Reply:
        """One command on a connection of its own. Raises RedisError and OSError."""
        with socket.create_connection((self.host, self.port), timeout=STOP_S) as plug, plug.makefile("rb") as answers:
            if self.password:
                plug.sendall(_packed(("AUTH", self.password)))
                _reply(answers)
            plug.sendall(_packed(words))
            return _reply(answers)

    def restore(self) -> None:
        super().restore()
        self.command("REPLICAOF", "NO", "ONE")
        self.command("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")

    def appended(self) -> bytes:
        """What the append-only file holds, as bytes to search in."""
        return b"".join(path.read_bytes() for path in sorted((self.directory / "appendonlydir").iterdir()))

    def wipe(self) -> None:
        self.command("FLUSHALL")

    def everything(self) -> bytes:
        """All keys and values, as bytes to search in."""
        found: list[bytes] = []
        for key in self.command("KEYS", "*"):
            found += [key, *_flat(self._value(key))]
        return b"\0".join(found)

    def _value(self, key: bytes) -> Reply:
        match self.command("TYPE", key):
            case b"string":
                return self.command("GET", key)
            case b"hash":
                return self.command("HGETALL", key)
            case b"list":
                return self.command("LRANGE", key, 0, -1)
            case b"set":
                return self.command("SMEMBERS", key)
            case b"zset":
                return self.command("ZRANGE", key, 0, -1)
            case other:
                raise AssertionError(f"a key of type {other!r}")

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING") == b"PONG")
        except (OSError, EOFError, RedisError):
            return False


def _packed(words: Sequence[str | bytes | float]) -> bytes:
    plain = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(plain) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in plain)


def _reply(answers: Any) -> Reply:
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError("Redis hung up")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"+":
        return rest
    size = int(rest)
    if kind == b":":
        return size
    if size < 0:
        return None
    if kind == b"*":
        return [_reply(answers) for _ in range(size)]
    return answers.read(size + 2)[:-2]


def _flat(value: Reply) -> list[bytes]:
    return [value] if isinstance(value, bytes) else list(value)


@contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """A Redis of one's own, with further options of its command line."""
    with _scratch(None) as directory:
        server = RedisServer(directory, _program("redis-server"), options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


# --- PostgreSQL ---------------------------------------------------------------------------------------------

POSTGRESQL_HOMES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
OWNER = "offhook"


class PostgresqlServer(Server):
    """PostgreSQL whose texts sort as in English, so that nothing relies on the order of bytes by chance."""

    def __init__(self, directory: Path, postgres: str, user: str | None) -> None:
        port = free_port()
        self._databases = 0
        data = directory / "data"
        command = [postgres, "-D", str(data), "-p", str(port), "-h", HOST, "-k", str(directory)]
        for setting in ("fsync=off", "max_connections=60", "shared_buffers=16MB", "max_wal_size=256MB"):
            command += ["-c", setting]
        super().__init__(directory, port, command, user)
        initdb = [str(Path(postgres).with_name("initdb")), "-D", str(data), "-U", OWNER, "-A", "trust", "--no-sync"]
        initdb += ["-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=directory, **_as_user(user))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{OWNER}@{self.host}:{self.port}/{database}"

    def new_database(self) -> str:
        """The address of an empty one."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def empty(self, url: str) -> None:
        """Every row of this database's tables goes; the tables stay, and what the migrations know of them."""
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            tables = [f'"{name}"' for (name,) in rows if not name.endswith("_version")]
            # Faster for few rows than TRUNCATE.
            connection.execute(
                "; ".join(["SET session_replication_role = replica", *map("DELETE FROM {}".format, tables)])
            )

    def execute(self, statement: str, *values: object, url: str = "") -> list[tuple[Any, ...]]:
        """One statement, committed; by default in the database ``postgres``."""
        with psycopg.connect(url or self.url(), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def terminate_backends(self) -> int:
        """Cuts every client off. Returns how many there were."""
        others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        return len(self.execute(f"SELECT pg_terminate_backend(pid) {others}"))

    def _end(self, how: signal.Signals) -> None:
        # SIGTERM would wait until every client has gone.
        super()._end(signal.SIGINT if how == signal.SIGTERM else signal.SIGQUIT)

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.Error:
            return False


@contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL of one's own; initialising it takes a second or two."""
    homes = [str(path) for home in POSTGRESQL_HOMES for path in sorted(Path("/").glob(home[1:]), reverse=True)]
    postgres = _program("postgres", homes)
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        with suppress(KeyError):
            user = pwd.getpwnam("postgres").pw_name
        if user is None:
            _missing("PostgreSQL's user postgres")
    with _scratch(user) as directory:
        server = PostgresqlServer(directory, postgres, user)
        try:
            server.start()
            yield server
        finally:
            server.kill()


# --- fixtures -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def session_redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_server(session_redis: RedisServer) -> Iterator[RedisServer]:
    """An empty Redis."""
    session_redis.wipe()
    yield session_redis
    session_redis.restore()


@pytest.fixture(scope="session")
def session_postgresql() -> Iterator[PostgresqlServer]:
    with running_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_server(session_postgresql: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A PostgreSQL; ``new_database()`` gives an empty database."""
    yield session_postgresql
    session_postgresql.restore()


# --- tools --------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _program(name: str, homes: Sequence[str] = ()) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *homes]))
    return found or _missing(name)


def _missing(what: str) -> NoReturn:
    if os.environ.get("OFFHOOK_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing (Debian: apt install redis-server postgresql)")


@contextmanager
def _scratch(user: str | None) -> Iterator[Path]:
    """A directory for one server; short, because a Unix socket's path may not be long."""
    with tempfile.TemporaryDirectory(prefix="offhook-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if user:
            shutil.chown(directory, user, user)
        yield directory


def _as_user(user: str | None) -> dict[str, Any]:
    return {"user": user, "group": user, "extra_groups": []} if user else {}
