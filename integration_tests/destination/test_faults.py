"""Faults of the server, the network and of others who use it: the right failure type, nothing acknowledged is lost,
nothing is seen by halves, and the next sync goes on. Killed at named points: test_kills; closed stdout: test_acks."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration_tests.destination.writing import (
    Json,
    is_state,
    one,
    own_tables,
    raw_count,
    record,
    records,
    state,
    status,
    sync,
    users,
    write,
)
from integration_tests.support import connector
from integration_tests.support.binaries import open_directory, owner
from integration_tests.support.catalogs import configured, merged, stream
from integration_tests.support.connector import DESTINATION, Outcome, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until
from integration_tests.support.proxy import Point, Proxy

MODES = ["append", "append_dedup"]
WIDER = stream("users", {"id": "integer", "name": "string", "more": "string"}, key=["id"])
WAITING = (
    "select count(*) from pg_stat_activity where application_name = 'destination-postgres' and wait_event_type = 'Lock'"
)


def start(db: Database, catalog: Json, **options: Any) -> Running:
    config = db.config(**{"schema": "public", "flush_rows": 1, **options})
    return connector.start(DESTINATION, "write", config=config, catalog=catalog)


def expect_transient(outcome: Outcome) -> None:
    assert outcome.exit_code == 1, outcome
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "transient_error"


def expect_first_row_only(db: Database, outcome: Outcome) -> None:
    assert len(outcome.states) == 1
    assert users(db) == [(1, "a")]
    assert raw_count(db) == 1


def expect_going_on(db: Database, catalog: Json, **options: Any) -> None:
    """From the state behind the first row."""
    sync(db, catalog, record({"id": 2, "name": "b"}) + state(2), **options)
    assert users(db) == [(1, "a"), (2, "b")]
    assert raw_count(db) == 2
    assert own_tables(db) == set()


@contextlib.contextmanager
def locked(db: Database, mode: str) -> Iterator[Any]:
    """Somebody else's transaction that holds a lock on the final table, until ``rollback()`` or the block's end."""
    other = db.connect()
    other.autocommit = False
    try:
        with other.cursor() as cursor:
            cursor.execute(f"lock table public.users in {mode} mode")
        yield other
    finally:
        other.close()


class Stall:
    """What a proxy does at a point: it lets nothing through any more, until it is cut."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._end = threading.Event()

    def __call__(self, pid: int) -> None:
        self.begun.set()
        self._end.wait(120)
        raise OSError("cut")

    def cut(self) -> None:
        self._end.set()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_the_server_goes_down_in_the_middle_of_a_copy(destination_db, mode, how):
    catalog, server, stall = one(destination=mode), destination_db.server, Stall()
    if not isinstance(server, Cluster):
        pytest.skip("a server that cannot be restarted")
    with (
        Proxy(server.host, server.port) as proxy,
        start(destination_db, catalog, host=proxy.host, port=proxy.port) as running,
    ):
        running.write(record({"id": 1, "name": "a"}) + state(1))
        running.wait_for(is_state)
        proxy.arm(Point("copy data"), action=stall)
        running.write(record({"id": 2, "name": "b"}) + state(2))
        assert stall.begun.wait(30)
        # Here, since a server ends with the thread that has started it.
        getattr(server, how)()
        stall.cut()
        outcome = running.finish()
    server.start()
    expect_transient(outcome)
    expect_first_row_only(destination_db, outcome)
    expect_going_on(destination_db, catalog)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["cut", "SIGTERM"])
def test_the_network_stalls_in_the_middle_of_a_copy(destination_db, mode, end):
    catalog, server, stall = one(destination=mode), destination_db.server, Stall()
    with (
        Proxy(server.host, server.port) as proxy,
        start(destination_db, catalog, host=proxy.host, port=proxy.port) as running,
    ):
        running.write(record({"id": 1, "name": "a"}) + state(1))
        running.wait_for(is_state)
        proxy.arm(Point("copy data"), action=stall)
        # More than the buffers on the way hold.
        lines = records({"id": number, "name": "b" * 1000} for number in range(2, 20_000)) + state(2)
        threading.Thread(target=running.write, args=(lines,), daemon=True).start()
        assert stall.begun.wait(30)
        if end == "SIGTERM":
            running.terminate()
            wait_until(lambda: running.exit_code is not None, 30, "the connector has ended")
        stall.cut()
        outcome = running.finish()
    if end == "cut":
        expect_transient(outcome)
    else:
        assert outcome.exit_code == 128 + signal.SIGTERM
    expect_first_row_only(destination_db, outcome)
    expect_going_on(destination_db, catalog)


def test_a_client_that_vanished_is_noticed_soon(destination_db):
    """Else its transaction would hold for two hours what the next attempt needs."""
    sync(destination_db, one(), b"")
    destination_db.execute(
        "create table public.told (name text, value text);"
        "create function public.tell() returns trigger language plpgsql as $$ begin"
        " insert into public.told select n, current_setting(n) from unnest(array["
        " 'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout']) n;"
        " return new; end $$;"
        "create trigger tell before insert on public.users for each row execute function public.tell()"
    )
    sync(destination_db, one(), record({"id": 1, "name": "a"}))
    told = dict(destination_db.rows("select name, value from public.told"))
    assert (told["tcp_keepalives_idle"], told["tcp_keepalives_interval"], told["tcp_keepalives_count"]) == (
        "15",
        "5",
        "3",
    )
    assert told["tcp_user_timeout"] in ("30000", "30s")


@pytest.fixture
def small_disk(destination_db) -> Iterator[Path]:
    """Where new tables of ``destination_db`` go: a file system of 24 MB."""
    home = open_directory("pg-small-")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", str(home)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    space = f"small_{destination_db.name}"
    try:
        place = home / "tables"
        place.mkdir(mode=0o700)
        owner().take(place)
        destination_db.execute(f"create tablespace {space} location '{place}'")
        destination_db.execute(f"alter database {destination_db.name} set default_tablespace = '{space}'")
        yield home
        destination_db.execute("drop schema public, airbyte_internal cascade")
        destination_db.execute(f"alter database {destination_db.name} reset default_tablespace")
        # What was dropped goes with the next checkpoint.
        destination_db.execute("checkpoint")
        destination_db.execute(f"drop tablespace {space}")
    finally:
        # Lazily: where the test failed, the server still has its files open.
        subprocess.run(["umount", "--lazy", str(home)], check=True)
        home.rmdir()


@pytest.mark.parametrize("mode", MODES)
def test_the_disk_is_full(destination_db, small_disk, mode):
    catalog = one(destination=mode)
    sync(destination_db, catalog, record({"id": 1, "name": "a"}) + state(1))
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        # All but some megabytes.
        for _ in range(shutil.disk_usage(small_disk).free // (1 << 20) - 3):
            file.write(b"x" * (1 << 20))
    draw = random.Random(1)
    wide = [{"id": number, "name": draw.randbytes(1000).hex()} for number in range(2, 3_000)]
    # One flush, of more than there is room for.
    options = {"flush_rows": 100_000, "flush_bytes": 1 << 25, "flush_seconds": 60}
    outcome = write(destination_db, catalog, records(wide) + state(2) + status(), **options)
    assert outcome.exit_code == 1
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "disk is full" in outcome.error["message"]
    assert outcome.states == []
    assert users(destination_db) == [(1, "a")]
    assert raw_count(destination_db) == 1
    filler.unlink()
    expect_going_on(destination_db, catalog)


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_holds_up_a_change_of_columns_and_is_waited_for(destination_db, mode):
    sync(destination_db, one(destination=mode), record({"id": 1, "name": "a"}) + state(1))
    wider = one(WIDER, mode)
    with (
        locked(destination_db, "access share") as reader,
        start(destination_db, wider, lock_timeout_seconds=0.5) as running,
    ):
        running.write(record({"id": 2, "name": "b", "more": "c"}) + state(2) + status())
        running.wait_for(lambda message: "tried again: sqlstate=55P03" in str(message.get("log")))
        # Who comes in between gets through.
        destination_db.execute("set statement_timeout = '20s'")
        assert users(destination_db) == [(1, "a")]
        reader.rollback()
        outcome = running.finish()
    assert outcome.exit_code == 0, outcome
    assert users(destination_db, "id, more") == [(1, None), (2, "c")]


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_that_stays_ends_the_sync_and_nothing_is_changed(destination_db, mode):
    sync(destination_db, one(destination=mode), record({"id": 1, "name": "a"}) + state(1))
    wider, lines = one(WIDER, mode), record({"id": 2, "name": "b", "more": "c"}) + state(2) + status()
    with locked(destination_db, "access share"):
        outcome = write(destination_db, wider, lines, lock_timeout_seconds=0.1)
        expect_transient(outcome)
        assert outcome.error is not None
        assert "lock" in outcome.error["message"]
        assert outcome.states == []
        assert users(destination_db, "*")[0][:2] == (1, "a")
        assert "more" not in column_names(destination_db)
    assert write(destination_db, wider, lines).exit_code == 0
    assert users(destination_db, "id, more") == [(1, None), (2, "c")]


def column_names(db: Database) -> set[str]:
    query = "select attname from pg_attribute where attrelid = 'public.users'::regclass and attnum > 0"
    return {name for (name,) in db.rows(query)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("option", "sqlstate"), [("lock_timeout_seconds", "55P03"), ("statement_timeout_seconds", "57014")]
)
def test_rows_that_wait_too_long_for_a_lock_end_the_sync(destination_db, mode, option, sqlstate):
    catalog = one(destination=mode)
    sync(destination_db, catalog, record({"id": 1, "name": "a"}) + state(1))
    with (
        locked(destination_db, "access exclusive"),
        start(destination_db, catalog, **{option: 0.3}) as running,
    ):
        running.write(record({"id": 2, "name": "b"}) + state(2))
        outcome = running.finish()
    expect_transient(outcome)
    assert outcome.error is not None
    assert sqlstate in outcome.error["internal_message"]
    assert outcome.states == []
    assert users(destination_db) == [(1, "a")]
    expect_going_on(destination_db, catalog)


def test_a_transaction_of_ours_takes_as_long_as_it_takes(destination_db):
    if destination_db.server.major < 17:
        pytest.skip("transaction_timeout came with 17")
    catalog = one()
    sync(destination_db, catalog, record({"id": 1, "name": "a"}) + state(1))
    long = WAITING + " and clock_timestamp() - xact_start > interval '1 s'"
    with locked(destination_db, "share") as other:
        # Behind it: it would be ended itself.
        destination_db.execute(f"alter database {destination_db.name} set transaction_timeout = '300ms'")
        with start(destination_db, catalog) as running:
            running.write(record({"id": 2, "name": "b"}) + state(2) + status())
            wait_until(lambda: destination_db.value(long) == 1, 30, "the flush waits for long")
            other.rollback()
            outcome = running.finish()
    assert outcome.exit_code == 0, outcome
    assert users(destination_db) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("mode", MODES)
def test_without_a_timeout_rows_wait_as_long_as_it_takes(destination_db, mode):
    catalog = one(destination=mode)
    sync(destination_db, catalog, record({"id": 1, "name": "a"}) + state(1))
    destination_db.execute(f"alter database {destination_db.name} set lock_timeout = '10ms'")
    with locked(destination_db, "share") as other, start(destination_db, catalog) as running:
        running.write(record({"id": 2, "name": "b"}) + state(2) + status())
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the lock")
        other.rollback()
        outcome = running.finish()
    assert outcome.exit_code == 0, outcome
    assert not any("tried again" in log["message"] for log in outcome.logs)
    assert users(destination_db) == [(1, "a"), (2, "b")]


def test_a_deadlock_that_never_ends_is_given_up(destination_db):
    """A trigger raises what the server would: each attempt is the victim."""
    catalog = one()
    sync(destination_db, catalog, record({"id": 1, "name": "a"}) + state(1))
    destination_db.execute(
        "create function public.lose() returns trigger language plpgsql as"
        " $$ begin raise exception using errcode = '40P01'; end $$;"
        "create trigger lose before insert on public.users for each row execute function public.lose()"
    )
    outcome = write(destination_db, catalog, record({"id": 2, "name": "b"}) + state(2) + status())
    expect_transient(outcome)
    assert outcome.states == []
    assert users(destination_db) == [(1, "a")]
    destination_db.execute("drop trigger lose on public.users")
    expect_going_on(destination_db, catalog)


def test_read_only_after_a_failover():
    """The address leads to a standby for a while, then that is promoted."""
    catalog = one(destination="append_dedup")
    with Cluster(embedded(18)) as primary, Database(primary) as db:
        sync(db, catalog, record({"id": 1, "name": "a"}) + state(1))
        with primary.standby() as standby:
            moved = {"host": standby.host, "port": standby.port}
            primary.kill()
            lines = record({"id": 2, "name": "b"}) + state(2) + status()
            outcome = write(db, catalog, lines, **moved)
            expect_transient(outcome)
            assert outcome.error is not None
            assert "read-only" in outcome.error["message"]
            assert outcome.states == []
            checked = connector.run(DESTINATION, "check", config=db.config(schema="public", **moved))
            assert checked.connection_status["status"] == "FAILED"
            assert "read-only" in checked.connection_status["message"]
            with contextlib.closing(standby.connect(db.name)) as session, session.cursor() as cursor:
                cursor.execute("select pg_promote()")
                assert write(db, catalog, lines, **moved).exit_code == 0
                cursor.execute("select id, name from public.users order by 1")
                assert cursor.fetchall() == [(1, "a"), (2, "b")]
            primary.start()


@pytest.mark.parametrize("mode", MODES)
def test_two_connections_at_once_into_one_schema(destination_db, mode):
    """Both find it empty: whoever is second uses what the first has made."""
    names = ["one", "two"]
    catalogs = [one(stream(name, {"id": "integer"}, key=["id"]), mode) for name in names]
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(start(destination_db, catalog)) for catalog in catalogs]
        for number in range(5):
            for name, running in zip(names, both, strict=True):
                running.write(record({"id": number}, name) + state(number, name))
        for name, running in zip(names, both, strict=True):
            running.write(status(name))
            running.close_stdin()
        outcomes = [running.finish() for running in both]
    for name, outcome in zip(names, outcomes, strict=True):
        assert outcome.exit_code == 0, outcome
        assert len(outcome.states) == 5
        assert destination_db.rows(f"select id from public.{name} order by 1") == [(number,) for number in range(5)]


@pytest.mark.parametrize("internal", [("shared", "shared"), ("one", "two")], ids=["one ledger", "two ledgers"])
@pytest.mark.parametrize("mode", MODES)
def test_two_connections_at_once_into_one_table(destination_db, mode, internal):
    """The first is held up between its final and its raw rows: the second must not add a key that it does not see."""
    catalog = one(destination=mode)
    options = [{"raw_data_schema": name} for name in internal]
    for each in options:
        sync(destination_db, catalog, b"", **each)
    raw = f"{internal[0]}.public_raw__stream_users"
    other = destination_db.connect()
    other.autocommit = False
    with (
        contextlib.closing(other),
        start(destination_db, catalog, **options[0]) as first,
        start(destination_db, catalog, **options[1]) as second,
    ):
        for running in (first, second):
            running.write(state(0))
            running.wait_for(is_state)
        with other.cursor() as cursor:
            cursor.execute(f"lock table {raw} in share mode")
        first.write(record({"id": 1, "name": "first"}) + state(1))
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the first waits for its raw table")
        second.write(record({"id": 1, "name": "second"}, emitted_at=1_800_000_000_000) + state(1))
        wait_until(
            lambda: destination_db.value(WAITING) == 2 or sum(map(is_state, second.messages)) == 2,
            30,
            "the second waits, too, or is done",
        )
        other.rollback()
        for running in (first, second):
            running.wait_for(is_state, count=2)
            running.write(status())
        assert [running.finish().exit_code for running in (first, second)] == [0, 0]
    wanted = [(1, "second")] if mode == "append_dedup" else [(1, "first"), (1, "second")]
    assert users(destination_db) == wanted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "points",
    [
        [Point("done", "^CREATE INDEX"), Point("done", "^COMMIT", delivered=True)],
        [Point("copy data"), Point("done", "^COMMIT", delivered=True)],
    ],
    ids=["before rows are filled", "before the columns take their places"],
)
def test_two_connections_at_once_fill_one_column(destination_db, mode, points):
    """The first is held up until the second has done all of it."""
    before, now = (
        one(stream("users", {"id": "integer", "name": kind}, key=["id"]), mode) for kind in ("string", "integer")
    )
    sync(destination_db, before, record({"id": 1, "name": "7"}) + state(1))
    server, held, go_on = destination_db.server, threading.Event(), threading.Event()

    def hold(_: int) -> None:
        held.set()
        go_on.wait(60)

    with Proxy(server.host, server.port) as proxy:
        proxy.arm(*points, action=hold)
        with start(destination_db, now, host=proxy.host, port=proxy.port) as running:
            assert held.wait(30)
            sync(destination_db, now, record({"id": 2, "name": 8}) + state(2))
            go_on.set()
            running.write(record({"id": 3, "name": 9}) + state(3) + status())
            outcome = running.finish()
    if outcome.exit_code:
        expect_transient(outcome)
        sync(destination_db, now, record({"id": 3, "name": 9}) + state(3))
    assert users(destination_db) == [(1, 7), (2, 8), (3, 9)]
    assert raw_count(destination_db) == 3


@pytest.mark.parametrize("mode", MODES)
def test_many_streams_of_two_connections_do_not_wait_for_each_other_for_ever(destination_db, mode):
    """The same tables, in different orders of the catalogs and of the records."""
    names = [f"s{number}" for number in range(6)]
    streams = [stream(name, {"id": "integer", "by": "string"}, key=["id"]) for name in names]
    catalogs = [configured(streams, destination=mode), configured(streams[::-1], destination=mode)]
    sync(destination_db, merged(catalogs[0]), b"")
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(start(destination_db, catalog)) for catalog in catalogs]
        for number in range(20):
            for by, (running, order) in enumerate(zip(both, (names, names[::-1]), strict=True)):
                lines = b"".join(record({"id": number, "by": str(by)}, name) for name in order)
                running.write(lines + state(number, None))
        for running in both:
            running.write(b"".join(map(status, names)))
            running.close_stdin()
        outcomes = [running.finish() for running in both]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes
    for name in names:
        count = destination_db.value(f"select count(*) from public.{name}")
        assert count == (20 if mode == "append_dedup" else 40)
