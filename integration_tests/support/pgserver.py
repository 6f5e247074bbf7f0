"""A private PostgreSQL server that can be started, stopped, killed and restarted, and that never outlives us."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import parse_dsn

from integration_tests.support.binaries import Binaries, embedded, installed, open_directory, owner

__all__ = ["Binaries", "Cluster", "ExternalServer", "Server", "embedded", "installed", "wait_until"]

HOST = "127.0.0.1"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 60.0
_POLL_S = 0.02

# Odd on purpose: nothing that we build may depend on a server's defaults.
_ODD = {
    "timezone": "Asia/Kathmandu",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "0",
    "bytea_output": "escape",
}
_SIZES = {
    "wal_level": "logical",
    "max_connections": "60",
    "max_replication_slots": "24",
    "max_wal_senders": "24",
    "max_prepared_transactions": "8",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
}
_FAST = {"fsync": "off", "full_page_writes": "off"}

# Runs postgres as the given user (uid gid, or - -) and binds its life to ours: the kernel sends SIGQUIT (an immediate
# shutdown) when the starting process dies, however it dies. A launcher instead of preexec_fn, which is unsafe (and
# warned about) in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
uid, gid, parent, program, *arguments = sys.argv[1:]
if uid != "-":
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)
    if os.getppid() != int(parent):
        sys.exit(1)
os.execv(program, [program, *arguments])
"""


class Server(Protocol):
    """What tests may ask of any server, private or given."""

    @property
    def major(self) -> int: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    def log_tail(self) -> str: ...
    def connect(self, database: str = "postgres", **options: Any) -> Connection: ...
    def config(self, database: str, **more: Any) -> dict[str, Any]: ...


class Cluster:
    """A private server on loopback: SCRAM with a random password, ``wal_level=logical``, odd defaults.

    ``settings`` override any server setting; ``durable`` keeps fsync on (crash tests of the machine, not of the
    processes). ``also_listens``: at which other
    addresses, ``socket_directory``: where it has a Unix socket, too. A killed server keeps its port and its data;
    ``stop`` removes the data.
    """

    def __init__(
        self,
        binaries: Binaries,
        *,
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
        also_listens: str = "",
        socket_directory: Path | None = None,
    ) -> None:
        self.binaries = binaries
        self.host = HOST
        self.port = _free_port()
        self.user = "postgres"
        self.password = secrets.token_urlsafe(18)
        self._also_listens = f",{also_listens}" if also_listens else ""
        self._socket_directory = socket_directory
        self._settings = {**_SIZES, **_ODD, **_locales(), **({} if durable else _FAST), **(settings or {})}
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def major(self) -> int:
        return self.binaries.major

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise RuntimeError("the server is not started")
        return self._process.pid

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server (the first time: create it) and wait until it accepts connections."""
        if self.running:
            return
        atexit.register(self.stop)
        if self._home is None:
            self._home = self._create()
        for _ in range(5):
            self._launch()
            if self._wait_ready():
                return
            # Somebody took the port between our asking and the server's binding.
            self.port = _free_port()
        raise RuntimeError(f"the server did not start:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop the server and remove its data."""
        atexit.unregister(self.stop)
        self._end(signal.SIGINT)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def restart(self) -> None:
        """An orderly restart: same port, same data."""
        self._end(signal.SIGINT)
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster and every process of the server; return when they are gone."""
        if self._process is None:
            return
        # Stopped first, so that it cannot fork another child while we look.
        self._process.send_signal(signal.SIGSTOP)
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait(STOP_DEADLINE_S)
        self._process = None
        wait_until(lambda: not any(map(_lives, children)), STOP_DEADLINE_S, "the killed server's processes are gone")

    def save(self) -> None:
        """Keep a copy of the data as they are now, replication slots included, for ``restore``."""
        self._end(signal.SIGINT)
        _copy(self._data, self.home / "saved")
        self.start()

    def restore(self, position: str) -> None:
        """Go back to the data of ``save``, and forward from there to ``position`` (an LSN) on a new timeline."""
        self._end(signal.SIGINT)
        former = self._data.rename(self.home / f"former-{time.monotonic_ns()}")
        _copy(self.home / "saved", self._data)
        (self._data / "recovery.signal").touch()
        owner().take(self._data / "recovery.signal")
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.write(f'restore_command = \'cp "{former}/pg_wal/%f" "%p"\'\n')
            conf.write(f"recovery_target_lsn = '{position}'\nrecovery_target_action = 'promote'\n")
        self.start()
        wait_until(self._is_primary, START_DEADLINE_S, "the restored server is promoted")

    def rewind(self) -> None:
        """Go back to the data of ``save`` as if nothing had been since, like a disk that is set back."""
        self._end(signal.SIGINT)
        self._data.rename(self.home / f"former-{time.monotonic_ns()}")
        _copy(self.home / "saved", self._data)
        self.start()

    def standby(self, settings: Mapping[str, str] | None = None) -> Cluster:
        """A hot standby that streams from this server, not started yet; this server is restarted for its copy."""
        standby = Cluster(self.binaries, settings=settings)
        standby.password = self.password
        standby._home = open_directory("pg-standby-")
        self._end(signal.SIGINT)
        _copy(self._data, standby._data)
        self.start()
        (standby._data / "standby.signal").touch()
        owner().take(standby._data / "standby.signal")
        with (standby._data / "postgresql.conf").open("a") as conf:
            dsn = f"host={self.host} port={self.port} user={self.user} password={self.password}"
            given = {"primary_conninfo": dsn, "hot_standby_feedback": "on", **(settings or {})}
            conf.writelines(f"{key} = '{value}'\n" for key, value in given.items())
        return standby

    def _is_primary(self) -> bool:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("select not pg_is_in_recovery()")
            return bool((cursor.fetchone() or [False])[0])

    @property
    def log(self) -> str:
        """The whole of the server's log."""
        return self._log.read_text(errors="replace")

    def log_tail(self, size: int = 8_000) -> str:
        """The end of the server's log."""
        if self._home is None or not self._log.exists():
            return ""
        return self._log.read_bytes()[-size:].decode(errors="replace")

    def connect(self, database: str = "postgres", **options: Any) -> Connection:
        """A new autocommit connection as the superuser; ``options`` are psycopg2's."""
        parameters = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        connection: Connection = psycopg2.connect(**{**parameters, "dbname": database, **options})
        connection.autocommit = True
        return connection

    def config(self, database: str, **more: Any) -> dict[str, Any]:
        """A connector's configuration for ``database``; ``more`` is added or wins."""
        return {
            "host": self.host,
            "port": self.port,
            "database": database,
            "username": self.user,
            "password": self.password,
            "ssl_mode": {"mode": "disable"},
            **more,
        }

    @property
    def home(self) -> Path:
        """The server's private directory (data and log)."""
        if self._home is None:
            raise RuntimeError("the server is not started")
        return self._home

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _log(self) -> Path:
        return self.home / "server.log"

    def _create(self) -> Path:
        home = open_directory("pg-cluster-")
        password_file = home / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        owner().take(password_file)
        options = ["--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", "--no-sync"]
        files = [f"--pgdata={home / 'data'}", f"--pwfile={password_file}"]
        program = self.binaries.program("initdb")
        done = owner().run(program, f"--username={self.user}", *options, *files, environment=_environment())
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            raise RuntimeError(f"initdb failed: {done.stderr}")
        password_file.unlink()
        with (home / "data" / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in self._settings.items())
        return home

    def _launch(self) -> None:
        # By default TCP only: a socket's path in a deep temporary directory would be too long for the kernel.
        given = {
            "port": str(self.port),
            "listen_addresses": self.host + self._also_listens,
            "unix_socket_directories": str(self._socket_directory or ""),
            "log_line_prefix": "%m [%p] %a ",
            # Not in /dev/shm, where a killed server would leave it behind.
            "dynamic_shared_memory_type": "mmap",
        }
        ids = [str(part) if part is not None else "-" for part in (owner().uid, owner().gid)]
        options = [part for key, value in given.items() for part in ("-c", f"{key}={value}")]
        command = [*ids, str(os.getpid()), self.binaries.program("postgres"), "-D", str(self._data), *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
                # Ctrl-C at a terminal is for us, not for the server: we stop it when we are done with it.
                start_new_session=True,
            )

    def _wait_ready(self) -> bool:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if not self.running:
                return False
            try:
                self.connect(connect_timeout=2).close()
            except psycopg2.OperationalError:
                time.sleep(_POLL_S)
            else:
                return self.running
        raise TimeoutError(f"the server was not ready within {START_DEADLINE_S:.0f} s:\n{self.log_tail()}")

    def _end(self, signum: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signum)
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None


class ExternalServer:
    """The server behind ``PG_TEST_DSN``: the same interface without start, stop and kill."""

    running = True

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._parts = parse_dsn(dsn)
        self.host = self._parts.get("host", HOST)
        self.port = int(self._parts.get("port", "5432"))
        with contextlib.closing(self.connect()) as connection:
            self.major = connection.server_version // 10_000

    def log_tail(self) -> str:
        """Nothing: the server's log is not ours to read."""
        return ""

    def connect(self, database: str = "postgres", **options: Any) -> Connection:
        """A new autocommit connection; ``options`` are psycopg2's."""
        connection: Connection = psycopg2.connect(self._dsn, **{"dbname": database, **options})
        connection.autocommit = True
        return connection

    def config(self, database: str, **more: Any) -> dict[str, Any]:
        """A connector's configuration for ``database``; ``more`` is added or wins."""
        return {
            "host": self.host,
            "port": self.port,
            "database": database,
            "username": self._parts.get("user", "postgres"),
            "password": self._parts.get("password", ""),
            "ssl_mode": {"mode": self._parts.get("sslmode", "prefer")},
            **more,
        }


def wait_until(condition: Callable[[], object], deadline_s: float, what: str) -> None:
    """Return as soon as ``condition()`` is true; TimeoutError naming ``what`` after ``deadline_s``."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(_POLL_S)


def _copy(origin: Path, target: Path) -> None:
    shutil.copytree(origin, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        owner().take(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    # No PG* variable of the user may reach the server; messages in English whatever the machine speaks.
    kept = {name: os.environ[name] for name in ("LOCPATH",) if name in os.environ}
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", **kept}


def _locales() -> dict[str, str]:
    # A comma as decimal point where the machine has such a locale; most containers have none.
    try:
        answer = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False)
    except OSError:
        return {}
    odd = next((name for name in answer.stdout.split() if name.lower() in {"de_de.utf8", "fr_fr.utf8"}), None)
    return {"lc_monetary": odd, "lc_numeric": odd, "lc_time": odd} if odd else {}


def _lives(process: psutil.Process) -> bool:
    # A killed child that its new parent has not reaped yet (some containers' pid 1 never does) is gone for us.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
