"""Many rows: memory stays bounded, stdin waits for the server, a transaction appears whole, settings are our own."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import connection as Connection

from integration_tests.destination.writing import (
    USERS,
    Json,
    one,
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
from integration_tests.support.catalogs import configured, merged, stream
from integration_tests.support.connector import DESTINATION, Running
from integration_tests.support.databases import Database
from integration_tests.support.pgserver import Cluster, embedded, wait_until

# The budget of design section 6.
BUDGET_MB = 200
LARGEST_ROWS = 5

WAITING = (
    "select count(*) from pg_stat_activity where datname = current_database()"
    " and application_name = 'destination-postgres' and wait_event_type = 'Lock'"
)

# Runs a command and says what the kernel says of its memory. A process of its own, and a small one: a child begins with
# the peak memory of the process that it was forked from.
PEAK = """
import json, os, subprocess, sys
command, given, told = json.loads(sys.argv[1]), *sys.argv[2:]
with open(given, "rb") as stdin, open(told, "wb") as stdout:
    process = subprocess.Popen(command, stdin=stdin, stdout=stdout)
    _, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def peak_mb(db: Database, catalog: Json, lines: Iterable[bytes], home: Path) -> float:
    """The most memory that a sync of ``lines`` was resident with; it must succeed."""
    for name, document in (("config", db.config(schema="public")), ("catalog", catalog)):
        (home / f"{name}.json").write_text(json.dumps(document))
    with (home / "lines").open("wb") as file:
        file.writelines(lines)
    command = [sys.executable, "-m", DESTINATION, "write"]
    command += ["--config", str(home / "config.json"), "--catalog", str(home / "catalog.json")]
    arguments = [json.dumps(command), str(home / "lines"), str(home / "told")]
    done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=False)
    told = (home / "told").read_text()
    assert done.returncode == 0, done.stderr
    exit_code, kilobytes = map(int, done.stdout.split())
    assert exit_code == 0, told[-2000:]
    return kilobytes / 1000


def test_a_thousand_streams_record_by_record(destination_db, tmp_path):
    # Rows of twice the budget, if they were all kept.
    count, rounds = 1000, 10
    streams = [stream(f"s{number}", {"id": "integer", "text": "string"}, key=["id"]) for number in range(count)]
    catalog = merged(
        configured(streams[::10], destination="append_dedup"),
        configured([found for found in streams if found not in streams[::10]], destination="append"),
    )

    def lines() -> Iterator[bytes]:
        for position in range(rounds):
            for number in range(count):
                yield record({"id": position, "text": "x" * 12_000}, f"s{number}")
                if number % 97 == 0:
                    yield state(position, f"s{number}")
            yield state(position, None)
        yield from (status(f"s{number}") for number in range(count))

    peak = peak_mb(destination_db, catalog, lines(), tmp_path)
    counts = " union all ".join(f"select count(*) from public.s{number}" for number in range(count))
    assert destination_db.rows(f"select count, count(*) from ({counts}) u group by 1") == [(rounds, count)]
    assert peak < BUDGET_MB


def test_rows_of_10_mb_in_several_streams(destination_db, tmp_path):
    size_mb, names = 10, ["a", "b", "c", "d"]
    # Eight bytes of JSON each, three in the table.
    pairs = size_mb * 125_000
    streams = [stream(name, {"id": "integer", "text": "string"}, key=["id"]) for name in names]
    catalog = merged(configured(streams[:2], destination="append_dedup"), configured(streams[2:], destination="append"))

    def lines() -> Iterator[bytes]:
        for position in range(3):
            for name in names:
                yield record({"id": position, "text": "é\n" * pairs}, name)
                yield record({"id": -position - 1, "text": "small"}, name)
        yield state(1, None)
        yield from (status(name) for name in names)

    peak = peak_mb(destination_db, catalog, lines(), tmp_path)
    for name in names:
        found = destination_db.rows(f"select id, octet_length(text) from public.{name} order by 1")
        assert found == [*((-id_, 5) for id_ in (3, 2, 1)), *((id_, 3 * pairs) for id_ in range(3))]
    assert peak < BUDGET_MB + LARGEST_ROWS * size_mb


@contextlib.contextmanager
def session(db: Database) -> Iterator[Connection]:
    """A session whose statements are one transaction until it rolls back."""
    with contextlib.closing(db.connect()) as found:
        found.autocommit = False
        yield found


def start(db: Database, catalog: Json, **options: object) -> Running:
    config = db.config(**{"schema": "public", **options})
    return connector.start(DESTINATION, "write", config=config, catalog=catalog)


class Feeder:
    """Writes to a connector's stdin in a thread, and counts what the pipe has taken."""

    def __init__(self, running: Running, parts: Iterable[bytes]) -> None:
        self.taken = 0
        self._thread = threading.Thread(target=self._feed, args=(running, parts), daemon=True)
        self._thread.start()

    def _feed(self, running: Running, parts: Iterable[bytes]) -> None:
        for part in parts:
            if not running.write(part):
                return
            self.taken += len(part)

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        wait_until(lambda: self.is_done, 60, "everything has been taken")


def test_stdin_waits_for_a_server_that_is_blocked(destination_db):
    sync(destination_db, one(), b"")
    total, flush_bytes = 30_000, 1 << 20
    parts = [records({"id": number, "name": "x" * 1000} for number in range(i, i + 100)) for i in range(0, total, 100)]
    with session(destination_db) as blocker, blocker.cursor() as cursor:
        cursor.execute("lock table public.users in share mode")
        with start(destination_db, one(), flush_bytes=flush_bytes) as running:
            feeder = Feeder(running, parts)
            wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the lock")
            wait_until(standing(feeder), 60, "the destination reads no more")
            assert not feeder.is_done
            # A flush on its way, the next one complete, a chunk and the pipe's own megabyte.
            assert feeder.taken < 8 * flush_bytes
            blocker.rollback()
            feeder.wait()
            running.write(status())
            assert running.finish().exit_code == 0
    assert destination_db.rows("select count(*), count(distinct id) from public.users") == [(total, total)]


def standing(feeder: Feeder, looks: int = 25):
    """A condition: over so many looks, nothing more was taken."""
    seen: list[int] = []

    def condition() -> bool:
        seen.append(feeder.taken)
        return len(seen) > looks and len(set(seen[-looks:])) == 1

    return condition


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_a_transaction_of_the_source_is_never_seen_in_part(destination_db, destination):
    rows, transactions = 1000, 40
    catalog = one(destination=destination)
    sync(destination_db, catalog, b"")
    # Each is about 0.6 MB in raw and final, and a flush may end anywhere at 2 MB.
    parts = [
        records({"id": key, "name": f"{number} {'x' * 200}"} for key in range(rows)) + state(number)
        for number in range(transactions)
    ]
    query = (
        "select (select count(*) from airbyte_internal.public_raw__stream_users), count(*),"
        " count(distinct split_part(name, ' ', 1)) from public.users"
    )
    seen = set()
    with start(destination_db, catalog, flush_bytes=1 << 20) as running:
        feeder = Feeder(running, parts)
        while not feeder.is_done:
            seen.update(destination_db.rows(query))
        running.write(status())
        assert running.finish().exit_code == 0
    seen.update(destination_db.rows(query))
    assert len(seen) > 3
    for raw, final, versions in seen:
        assert raw % rows == 0
        assert (final, versions) == ((raw, raw // rows) if destination == "append" else (min(raw, rows), min(raw, 1)))


@pytest.mark.parametrize("destination", ["append", "append_dedup"])
def test_a_deadlock_over_two_streams_doubles_nothing(destination_db, destination):
    catalog = configured([USERS, {**USERS, "name": "vendors"}], destination=destination)
    lines = [record({"id": 1, "name": "a"}, name) for name in ("users", "vendors")]
    sync(destination_db, catalog, b"".join(lines))
    running = start(destination_db, catalog, flush_seconds=0.5)
    with running, session(destination_db) as blocker, blocker.cursor() as cursor:
        running.write(state(0, None))
        running.wait_for(lambda message: message["type"] == "STATE")
        # The destination goes by the tables' names. We hold the second and want the first, and are the more patient.
        cursor.execute("set deadlock_timeout = '20s'; lock table public.vendors in access exclusive mode")
        running.write(b"".join(lines) + state(1, None))
        wait_until(lambda: destination_db.value(WAITING) == 1, 30, "the flush waits for the lock")
        cursor.execute("lock table public.users in access exclusive mode")
        blocker.rollback()
        running.wait_for(lambda message: message["type"] == "STATE", count=2)
        running.write(status() + status("vendors"))
        outcome = running.finish()
    assert outcome.exit_code == 0
    assert any("tried again: sqlstate=40P01" in log["message"] for log in outcome.logs)
    for name in ("users", "vendors"):
        assert raw_count(destination_db, f"public_raw__stream_{name}") == 2
        assert destination_db.value(f"select count(*) from public.{name}") == (2 if destination == "append" else 1)


# Fails as many times as the sequence is below its start; a sequence is not rolled back.
FAILING = """
create sequence public.tries;
create function public.fail() returns trigger language plpgsql as $$
begin
  if nextval('public.tries') <= {times} then
    raise exception 'not now' using errcode = 'serialization_failure';
  end if;
  return null;
end $$;
create trigger fail after insert on public.users for each statement execute procedure public.fail()
"""


@pytest.mark.parametrize("times", [2, 1000])
def test_a_serialisation_failure_is_tried_again_and_not_for_ever(destination_db, times):
    sync(destination_db, one(), b"")
    destination_db.execute(FAILING.format(times=times))
    outcome = write(destination_db, one(), record({"id": 1, "name": "a"}) + state(1) + status())
    assert outcome.exit_code == (0 if times == 2 else 1)
    assert len(outcome.states) == (1 if times == 2 else 0)
    assert users(destination_db) == ([(1, "a")] if times == 2 else [])
    assert raw_count(destination_db) == len(outcome.states)
    if outcome.error is not None:
        assert outcome.error["failure_type"] == "transient_error"


# What a role, a database or a pooler's last client may have left in the session.
ODD_SETTINGS = {
    "timezone": "Asia/Kathmandu",
    "datestyle": "German, DMY",
    "intervalstyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "search_path": "evil, pg_catalog",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "statement_timeout": "60s",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "transform_null_equals": "on",
    "client_min_messages": "debug1",
    "row_security": "on",
    "quote_all_identifiers": "on",
    "log_statement": "all",
}
EVIL = """
create schema evil;
create function evil.now() returns timestamptz language sql as $$ select timestamptz 'epoch' $$;
create function evil.bool_or(boolean) returns boolean language sql as $$ select false $$;
create table evil.pg_class (oid oid, relname name, relnamespace oid, relkind "char");
create function evil.older(timestamptz, timestamptz) returns boolean language sql as $$ select true $$;
create operator evil.> (leftarg = timestamptz, rightarg = timestamptz, procedure = evil.older)
"""


@pytest.fixture
def odd_role(destination_db) -> Iterator[str]:
    """A role with ODD_SETTINGS that may create schemas; its password is its name."""
    role = f"odd_{destination_db.name}"
    destination_db.execute(EVIL)
    destination_db.execute(f"create role {role} login password '{role}'")
    destination_db.execute(f"grant create on database {destination_db.name} to {role}")
    destination_db.execute(f"grant usage on schema evil to {role}")
    destination_db.execute(f"grant all on schema public to {role}")
    for setting, value in ODD_SETTINGS.items():
        listed = value if setting == "search_path" else f"'{value}'"
        destination_db.execute(f"alter role {role} set {setting} = {listed}")
    yield role
    destination_db.execute(f"drop owned by {role}")
    destination_db.execute(f"drop role {role}")


def test_what_the_session_is_set_to_does_not_matter_and_stays_as_it_is(destination_db, odd_role):
    columns = {"id": "integer", "at": "timestamptz", "local": "timestamp", "day": "date", "n": "number", "o": "object"}
    streams = [stream(name, columns, key=["id"], cdc=True) for name in ("kept", "newest")]
    catalog = merged(configured(streams[:1], destination="append"), configured(streams[1:]))
    data = {"id": 1, "at": "2023-02-01T12:00:00", "local": "2023-02-01T12:00:00", "day": "2023-02-01", "n": 0.1}
    data |= {"o": {"a": "\\'"}, "_ab_cdc_lsn": 5}
    late = {**data, "day": "2022-12-31", "_ab_cdc_lsn": 4}
    lines = records([data, late], "kept") + records([data], "newest") + state(1, None) + records([late], "newest")
    logged = len(destination_db.server.log_tail(1 << 30))
    # A transaction each: what the first has left meets the second.
    sync(destination_db, catalog, lines, username=odd_role, password=odd_role, flush_bytes=1)
    # Meets tables that are there.
    sync(destination_db, catalog, b"", username=odd_role, password=odd_role)
    destination_db.execute("set timezone = 'UTC'")
    destination_db.execute("set datestyle = 'ISO, YMD'")
    shown = ("2023-02-01 12:00:00+00", "2023-02-01 12:00:00", "2023-02-01", "0.1", {"a": "\\'"})
    for name, days in (("kept", ["2022-12-31", "2023-02-01"]), ("newest", ["2023-02-01"])):
        found = destination_db.rows(
            f"select at::text, local::text, day::text, n::text, o from public.{name} order by day"
        )
        assert found == [(*shown[:2], day, *shown[3:]) for day in days]
    raw = "airbyte_internal.public_raw__stream_kept"
    assert destination_db.value(f"select count(*) from {raw} where _airbyte_loaded_at > now() - interval '1 h'") == 2
    statements = of_the_destination(destination_db.server.log_tail(1 << 30)[logged:])
    assert any(statement.startswith("set local") for statement in statements)
    assert [statement for statement in statements if re.match(SESSION_STATE, statement)] == []


# What would outlive a transaction, and meet the pooler's next client. The driver's own word, when it connects, is about
# a setting that poolers keep track of.
SESSION_STATE = (
    r"set (?!local |datestyle to 'iso'$)|prepare|listen|declare .* with hold|create temp|discard|"
    r".*pg_(try_)?advisory_lock"
)


def of_the_destination(log: str) -> list[str]:
    """The statements that a log shows of it, one by one, in lower case."""
    found: list[str] = []
    is_ours = False
    for line in log.splitlines():
        if not line.startswith("\t"):
            is_ours = "destination-postgres LOG:  statement: " in line
        if is_ours:
            found += [part.strip().lower() for part in line.split("statement: ")[-1].split(";")]
    return found


def test_the_middle_of_a_line_is_no_end_of_a_transaction(destination_db):
    """More rows than a flush may have, and less than twice as many; the last one comes in pieces. Still one commit."""
    rows = [{"id": key, "name": "x" * 50_000} for key in range(100)]
    lines = records([*rows, {"id": -1, "name": "y" * 2_500_000}])
    outcome = sync(destination_db, one(), lines + state(1), flush_bytes=8 << 20)
    committed = [log["message"] for log in outcome.logs if log["message"].startswith("committed")]
    assert len(committed) == 1, committed


def test_more_streams_than_the_server_has_locks_for_in_one_transaction():
    """Five locks and more a stream; so small a server has about a thousand."""
    count = 400
    streams = [stream(f"s{number}", {"id": "integer"}, key=["id"], cdc=True) for number in range(count)]
    rows = [record({"id": 1, "_ab_cdc_lsn": 1}, f"s{number}") for number in range(count)]
    few_locks = {"max_locks_per_transaction": "16", "max_connections": "20", "max_wal_senders": "4"}
    with Cluster(embedded(18), settings=few_locks) as cluster, Database(cluster) as database:
        sync(database, configured(streams), b"".join(rows) + state(1, None))
        counts = " union all ".join(f"select count(*) from public.s{number}" for number in range(100))
        assert database.rows(f"select count, count(*) from ({counts}) u group by 1") == [(1, 100)]


@pytest.mark.parametrize(("given", "used"), [("off", "on"), ("local", "local")])
def test_what_is_acknowledged_survives_the_server(destination_db, given, used):
    sync(destination_db, one(), b"")
    destination_db.execute(
        "create table public.seen (setting text);"
        "create function public.look() returns trigger language plpgsql as $$ begin"
        " insert into public.seen values (current_setting('synchronous_commit')); return null; end $$;"
        "create constraint trigger look after insert on public.users deferrable initially deferred"
        " for each row execute procedure public.look()"
    )
    destination_db.execute(f"alter database {destination_db.name} set synchronous_commit = {given}")
    sync(destination_db, one(), record({"id": 1, "name": "a"}))
    assert destination_db.rows("select setting from public.seen") == [(used,)]


def test_rows_that_a_policy_hides_are_not_taken_for_missing(destination_db, odd_role):
    login = {"username": odd_role, "password": odd_role}
    sync(destination_db, one(destination="append_dedup"), record({"id": 1, "name": "a"}), **login)
    destination_db.execute(
        "alter table public.users enable row level security; alter table public.users force row level security;"
        "create policy adding on public.users for insert with check (true);"
        "create policy seeing on public.users for select using (id > 1)"
    )
    outcome = write(
        destination_db, one(destination="append_dedup"), record({"id": 1, "name": "b"}) + state(1) + status(), **login
    )
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"
    assert "42501" in outcome.error["internal_message"]
    assert outcome.states == []
    assert users(destination_db) == [(1, "a")]
