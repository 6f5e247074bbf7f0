"""Random writers over a handful of tables, each drawn from a seed: what real applications do to a table, and more.

Every writer draws from its own random.Random; how their transactions interleave is the machine's to decide, so a seed
makes a failure likely to come again, not certain.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import psycopg2

from integration_tests.support.databases import Database
from integration_tests.support.pgserver import wait_until

WRITERS = 4
PARTITIONED_SINCE = 13
# Between two transactions of a writer. Nightly they give the syncs no rest; else two processors have something left to
# end a story soon.
PAUSE_S = 0.01 if "WORKLOAD_SEEDS" in os.environ else 0.03
# … where they are far ahead.
_LONG_PAUSE_S = 0.5
ROWS = 2000 if "WORKLOAD_SEEDS" in os.environ else 400
# By day the stories are shorter, not simpler.
_SHARE = 1.0 if "WORKLOAD_SEEDS" in os.environ else 0.5
# Keys are drawn from a wider range than there are rows: some statements find nothing, some find room to insert.
KEYS = ROWS * 3 // 2
DOCUMENTS = 60
# Long enough to be stored out of line and to stay so: an update that leaves it alone does not log it.
BODY_REPEATS = 250

# Table -> columns as text that must read the same at the source and at the destination.
FOLLOWED = {
    "accounts": "id::text, balance::text, coalesce(note, '-'), at::timestamptz::text",
    "transfers": "account::text, nr::text, amount::text",
    "documents": "id::text, version::text, title, md5(body)",
    "journal": "id::text, writer::text, amount::text",
    "counters": "id::text, version::text",
}
# Every replica identity, partitions, what is truncated again and again.
HARD = {
    "full_rows": "id::text, version::text, md5(body)",
    "by_index": "id::text, code::text, version::text, md5(body)",
    "scratch": "id::text, version::text",
    "evolving": "id::text, version::text",
}
# Since 13.
PARTITIONED = {"parts": "id::text, version::text"}
# Without a key: read whole each time.
KEYLESS = {"keyless": "writer::text, amount::text"}
# Selected only by a later sync.
LATE = {"late": "id::text, version::text"}

_TABLES = f"""
create table accounts (id int primary key, balance numeric not null, note text, at timestamptz not null);
create table transfers (account int, nr int, amount numeric not null, primary key (account, nr));
create table documents (id int primary key, version int not null, title text, body text);
alter table documents alter body set storage external;
create table journal (id bigserial primary key, writer int not null, amount numeric not null);
create table counters (id int primary key, version int not null);
create table full_rows (id int primary key, version int not null, body text);
alter table full_rows alter body set storage external, replica identity full;
create table by_index (id int primary key, code int not null, version int not null, body text);
create unique index by_index_code on by_index (code);
alter table by_index alter body set storage external, replica identity using index by_index_code;
create table scratch (id int primary key, version int not null);
create table evolving (id int primary key, version int not null, price numeric(12, 4) default 1.2345);
create table keyless (writer int, amount int);
insert into full_rows select i, 0, repeat(md5(i::text), {BODY_REPEATS}) from generate_series(1, {DOCUMENTS}) i;
insert into by_index select i, i, 0, repeat(md5(i::text), {BODY_REPEATS}) from generate_series(1, {DOCUMENTS}) i;
insert into scratch select i, 1 from generate_series(1, {ROWS // 10}) i;
insert into evolving select i, 1 from generate_series(1, {ROWS // 10}) i;
insert into keyless select i % 7, i % 5 from generate_series(1, 100) i;
create table late (id int primary key, version int not null);
create table unselected (id bigserial primary key, filler text);
create table unpublished (id bigserial primary key, filler text);
insert into accounts select i, 100, null, now() from generate_series(1, {ROWS}) i;
insert into transfers select i, 0, 100 from generate_series(1, {ROWS}) i;
insert into documents select i, 0, 'title ' || i, repeat(md5(i::text), {BODY_REPEATS}) from generate_series(1, {DOCUMENTS}) i;
insert into counters select i, 1 from generate_series(1, {ROWS // 10}) i;
insert into late select i, 1 from generate_series(1, {ROWS // 10}) i;
"""  # noqa: E501

_PARTS = f"""
create table parts (id int, version int not null, primary key (id)) partition by range (id);
create table parts_low partition of parts for values from (0) to (100);
create table parts_high partition of parts for values from (100) to (400);
insert into parts select i, 1 from generate_series(1, {ROWS // 10}) i;
"""

_NOTES = [None, "x", 'a "quoted" \\ note\n', "\t", "é€😀"]
# An expected end of a statement among concurrent writers: the transaction is rolled back, the writer goes on.
_LOST_RACES = (
    psycopg2.errors.UniqueViolation,
    psycopg2.errors.LockNotAvailable,
    psycopg2.errors.DeadlockDetected,
)


def seeds(count: int) -> range:
    """The seeds of a run: ``count`` in ``make test``; WORKLOAD_SEEDS of them, from WORKLOAD_FIRST_SEED on, if set."""
    first = int(os.environ.get("WORKLOAD_FIRST_SEED", "1"))
    return range(first, first + int(os.environ.get("WORKLOAD_SEEDS", str(count))))


def create_tables(database: Database, seed: int) -> None:
    """The tables with their first rows; with every other seed decoding has little memory and goes over the disk."""
    database.execute(_TABLES)
    if database.server.major >= PARTITIONED_SINCE:
        database.execute(_PARTS)
    if seed % 2 and database.server.major >= 13:
        database.execute(f"alter database {database.name} set logical_decoding_work_mem = '64kB'")


def evolve(database: Database, draw: random.Random, number: int) -> str:
    """One change of the columns of ``evolving``, or of the partitions of ``parts``, beside the writers; what it was."""
    choices = [
        f"alter table evolving add column c{number} int default {number}",
        f"alter table evolving add column c{number} text; update evolving set c{number} = 'backfill ' || id",
        "alter table evolving drop column price; alter table evolving add column price numeric(12, 4) default 9",
        f"alter table evolving alter price type numeric(12, {draw.randint(1, 4)})",
        f"alter table evolving rename price to price{number};"
        f"alter table evolving add column price numeric(12, 4) default {number}",
    ]
    if database.server.major >= PARTITIONED_SINCE:
        first = 1000 * (number + 1)
        choices += [
            f"create table parts_{number} partition of parts for values from ({first}) to ({first + 10});"
            f"insert into parts select i, 1 from generate_series({first}, {first + 5}) i",
            f"create table parts_{number} (id int primary key, version int not null);"
            f"insert into parts_{number} select i, 1 from generate_series({first}, {first + 5}) i;"
            f"alter table parts attach partition parts_{number} for values from ({first}) to ({first + 10})",
        ]
    script = draw.choice(choices)

    def is_done() -> bool:
        try:
            database.execute(f"begin; set local lock_timeout = '500ms'; {script}; commit")
        except _LOST_RACES:
            database.execute("rollback")
            return False
        return True

    wait_until(is_done, 60, "the change gets its lock")
    return script


class Writer(threading.Thread):
    """Commits, rolls back and prepares transactions drawn from its seed until it is told to stop."""

    def __init__(
        self, database: Database, number: int, seed: int, is_ahead: Callable[[], bool], *, comes_back: bool
    ) -> None:
        super().__init__(name=f"writer {number} of seed {seed}", daemon=True)
        self._comes_back = comes_back
        self._is_ahead = is_ahead
        self._database = database
        self._number = number
        self._draw = random.Random(f"{seed}/{number}")
        weighted = _WITH_PARTITIONS if database.server.major >= PARTITIONED_SINCE else _OPERATIONS_BY_WEIGHT
        self._operations, self._weights = list(weighted), list(weighted.values())
        self._stop_asked = threading.Event()
        self.over = 0
        self.lost_races = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                try:
                    self._write()
                except (psycopg2.OperationalError, psycopg2.InterfaceError):
                    if not self._comes_back:
                        raise
                    self._stop_asked.wait(0.2)
            if self._comes_back:
                self._forget_prepared()
        except BaseException as error:  # noqa: BLE001 - shown by Workload.stop()
            self.failure = error

    def _write(self) -> None:
        """Transactions in one session, until the end."""
        self._forget_prepared()
        session = self._database.connect(application_name=self.name)
        with contextlib.closing(session), session.cursor() as cursor:
            # A writer that idles in its transaction holds locks: who meets them gives up.
            cursor.execute("set lock_timeout = '100ms'")
            while not self._stop_asked.is_set():
                self._attempt(cursor)
                self.over += 1
                pause_s = _LONG_PAUSE_S if self._is_ahead() else PAUSE_S
                self._stop_asked.wait(self._draw.expovariate(1 / pause_s))

    def _forget_prepared(self) -> None:
        """Roll back what a session that was lost has left."""
        with contextlib.closing(self._database.connect()) as session, session.cursor() as cursor:
            own = f"{self._database.name} {self._number} %"
            cursor.execute("select gid from pg_prepared_xacts where gid like %s", (own,))
            for (gid,) in cursor.fetchall():
                cursor.execute("rollback prepared %s", (gid,))

    def ask_to_stop(self) -> None:
        """Let the transaction under way be the last."""
        self._stop_asked.set()

    def _attempt(self, cursor: Any) -> None:
        try:
            self._transaction(cursor)
        except _LOST_RACES:
            self.lost_races += 1
            cursor.execute("rollback")

    def _transaction(self, cursor: Any) -> None:
        draw = self._draw
        cursor.execute("begin")
        if draw.random() < 0.005:
            _write_much(cursor, draw, self._number)
        for _ in range(draw.choice([1, 1, 2, 5, 20])):
            self._step(cursor)
            if draw.random() < 0.01:
                # Open for a while: others begin and commit meanwhile, syncs begin and end.
                self._stop_asked.wait(draw.uniform(0.05, 0.5))
        ending = draw.random()
        if ending < 0.15:
            cursor.execute("rollback")
        elif ending < 0.20:
            self._commit_prepared(cursor)
        else:
            cursor.execute("commit")

    def _step(self, cursor: Any) -> None:
        draw = self._draw
        (operation,) = draw.choices(self._operations, self._weights)
        if draw.random() < 0.8:
            operation(cursor, draw, self._number)
            return
        cursor.execute("savepoint s")
        try:
            operation(cursor, draw, self._number)
        except _LOST_RACES:
            cursor.execute("rollback to savepoint s")
            return
        cursor.execute(draw.choice(["rollback to savepoint s", "release savepoint s"]))

    def _commit_prepared(self, cursor: Any) -> None:
        gid = f"{self._database.name} {self._number} {self.over}"
        cursor.execute("prepare transaction %s", (gid,))
        self._stop_asked.wait(self._draw.uniform(0, 0.2))
        cursor.execute("rollback prepared %s" if self._draw.random() < 0.2 else "commit prepared %s", (gid,))


class Workload:
    """Four writers that run from ``with`` on; a failure of one is raised at its end. Where they ``come_back``, a server
    that is away is none.

    ``burst``: after so many transactions since the last wait for some they go slowly. On a machine that has little time
    to give, a sync would else take the longer, the longer it takes.
    """

    def __init__(self, database: Database, seed: int, *, burst: float = math.inf, come_back: bool = False) -> None:
        self._burst = self._limit = burst
        self._writers = [
            Writer(database, number, seed, self._is_ahead, comes_back=come_back) for number in range(WRITERS)
        ]

    def __enter__(self) -> Workload:
        for writer in self._writers:
            writer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def wait_for_transactions(self, count: int) -> None:
        """Until ``count`` more transactions (by day half as many) are over: something for the next sync to read."""
        goal = self._over() + round(count * _SHARE)
        self._limit = goal + self._burst
        wait_until(lambda: self._over() >= goal or self._has_failed(), 60, "the writers go on")

    def stop(self) -> None:
        """Wait until the last transactions are over."""
        for writer in self._writers:
            writer.ask_to_stop()
        for writer in self._writers:
            writer.join(60)
        assert [writer.failure for writer in self._writers] == [None] * WRITERS
        assert not any(writer.is_alive() for writer in self._writers)

    def __str__(self) -> str:
        return f"{self._over()} transactions, {sum(writer.lost_races for writer in self._writers)} lost a race"

    def _is_ahead(self) -> bool:
        return self._over() > self._limit

    def _over(self) -> int:
        return sum(writer.over for writer in self._writers)

    def _has_failed(self) -> bool:
        return any(writer.failure is not None or not writer.is_alive() for writer in self._writers)


def _key(draw: random.Random, number: int, keys: int = KEYS) -> int:
    # Mostly a writer's own rows, so that transactions of many steps seldom meet; now and then anybody's.
    key = draw.randint(1, keys)
    return key if draw.random() < 0.1 else key - key % WRITERS + number


def _transfer(cursor: Any, draw: random.Random, number: int) -> None:
    account, amount = _key(draw, number), draw.randint(-9999, 9999) / 100
    cursor.execute(
        "update accounts set balance = balance + %s, note = %s, at = clock_timestamp() where id = %s",
        (amount, draw.choice(_NOTES), account),
    )
    cursor.execute(
        "insert into transfers select %s, coalesce(max(nr), 0) + 1, %s from transfers where account = %s",
        (account, amount, account),
    )


def _open_account(cursor: Any, draw: random.Random, number: int) -> None:
    cursor.execute(
        "insert into accounts values (%s, %s, 'new', now()) on conflict (id) do nothing",
        (_key(draw, number), draw.randint(0, 10**12) / 1000),
    )


def _close_account(cursor: Any, draw: random.Random, number: int) -> None:
    account = _key(draw, number)
    cursor.execute("delete from transfers where account = %s", (account,))
    cursor.execute("delete from accounts where id = %s", (account,))


def _reopen_account(cursor: Any, draw: random.Random, number: int) -> None:
    account = _key(draw, number)
    cursor.execute("delete from accounts where id = %s", (account,))
    cursor.execute("insert into accounts values (%s, 1, 'again', now())", (account,))


def _move_keys(cursor: Any, draw: random.Random, number: int) -> None:
    account = _key(draw, number)
    cursor.execute(
        "update accounts a set id = id + 10000 where id = %s"
        " and not exists (select from accounts b where b.id = a.id + 10000)",
        (account,),
    )
    cursor.execute("update transfers set nr = nr + 10000 where account = %s and nr < 10000", (account,))


def _move_document(cursor: Any, draw: random.Random, number: int) -> None:
    # There and back again: a key that was left is used anew, by a row whose body is not logged.
    document = _key(draw, number, DOCUMENTS)
    cursor.execute(
        "update documents set id = case when id > 1000 then id - 1000 else id + 1000 end where id = %s"
        " or id = %s + 1000",
        (document, document),
    )


def _retitle(cursor: Any, draw: random.Random, number: int) -> None:
    cursor.execute(
        "update documents set version = version + 1, title = %s where id = %s",
        (draw.choice(_NOTES), _key(draw, number, DOCUMENTS)),
    )


def _rewrite(cursor: Any, draw: random.Random, number: int) -> None:
    cursor.execute(
        "update documents set version = version + 1, body = repeat(md5(%s), %s) where id = %s",
        (str(draw.random()), BODY_REPEATS, _key(draw, number, DOCUMENTS)),
    )


def _replace_document(cursor: Any, draw: random.Random, number: int) -> None:
    document = _key(draw, number, DOCUMENTS)
    cursor.execute("delete from documents where id in (%s, %s + 1000)", (document, document))
    cursor.execute(
        "insert into documents values (%s, 0, 'replaced', repeat(md5(%s), %s))",
        (document, str(draw.random()), BODY_REPEATS),
    )


def _note(cursor: Any, draw: random.Random, number: int) -> None:
    cursor.execute(
        "insert into journal (writer, amount) select %s, i from generate_series(1, %s) i",
        (number, draw.choice([1, 1, 1, 10])),
    )


def _count(table: str) -> Callable[[Any, random.Random, int], None]:
    def operation(cursor: Any, draw: random.Random, number: int) -> None:
        cursor.execute(
            f"insert into {table} as t values (%s, 1) on conflict (id) do update set version = t.version + 1",
            (_key(draw, number, ROWS // 10),),
        )

    return operation


def _forget(table: str) -> Callable[[Any, random.Random, int], None]:
    def operation(cursor: Any, draw: random.Random, number: int) -> None:
        cursor.execute(f"delete from {table} where id = %s", (_key(draw, number, ROWS // 10),))

    return operation


def _rewrite_row(table: str) -> Callable[[Any, random.Random, int], None]:
    def operation(cursor: Any, draw: random.Random, number: int) -> None:
        key = _key(draw, number, DOCUMENTS)
        cursor.execute(f"update {table} set version = version + 1 where id = %s", (key,))
        if draw.random() < 0.3:
            cursor.execute(
                f"update {table} set body = repeat(md5(%s), %s) where id = %s",
                (str(draw.random()), draw.choice([1, BODY_REPEATS]), key),
            )

    return operation


def _move_full_row(cursor: Any, draw: random.Random, number: int) -> None:
    key = _key(draw, number, DOCUMENTS)
    cursor.execute(
        "update full_rows set id = case when id > 1000 then id - 1000 else id + 1000 end where id in (%s, %s)",
        (key, key + 1000),
    )


def _move_code(cursor: Any, draw: random.Random, number: int) -> None:
    # The primary key moves by itself, the identity by itself, or both.
    key = _key(draw, number, DOCUMENTS)
    change = draw.choice(["code = code + 1000", "id = id + 1000", "id = id + 1000, code = code + 1000"])
    cursor.execute(
        f"update by_index b set {change} where id = %s and not exists"
        " (select from by_index c where c.id = b.id + 1000 or c.code = b.code + 1000)",
        (key,),
    )


def _move_part(cursor: Any, draw: random.Random, number: int) -> None:
    key = _key(draw, number, ROWS // 20)
    cursor.execute(
        "update parts p set id = id + 100 where id = %s and not exists (select from parts q where q.id = p.id + 100)",
        (key,),
    )


def _keep_no_key(cursor: Any, draw: random.Random, number: int) -> None:
    cursor.execute("insert into keyless values (%s, %s), (%s, 1)", (number, draw.randint(0, 5), number))
    cursor.execute("delete from keyless where writer = %s and amount = %s", (number, draw.randint(0, 30)))


def _truncate(table: str) -> Callable[[Any, random.Random, int], None]:
    def operation(cursor: Any, draw: random.Random, number: int) -> None:
        cursor.execute(f"truncate {table}")
        cursor.execute(f"insert into {table} select i, 0 from generate_series(1, %s) i", (draw.choice([0, 5]),))

    return operation


def _write_elsewhere(cursor: Any, draw: random.Random, number: int) -> None:
    table = draw.choice(["unselected", "unpublished"])
    cursor.execute(f"insert into {table} (filler) values (repeat('x', %s))", (draw.randint(1, 3000),))
    cursor.execute(f"update {table} set filler = 'y' where id = %s", (draw.randint(1, 100),))


def _write_much(cursor: Any, draw: random.Random, number: int) -> None:
    rows = draw.randint(2000, 4000)
    cursor.execute("insert into journal (writer, amount) select %s, i from generate_series(1, %s) i", (number, rows))
    # More than the room that decoding has in memory on servers before 13 (4096 changes of a transaction).
    cursor.execute("insert into unselected (filler) select 'large' from generate_series(1, %s)", (rows,))
    cursor.execute("update counters set version = version + 1 where id %% %s = %s", (WRITERS, number))


_OPERATIONS_BY_WEIGHT: dict[Callable[[Any, random.Random, int], None], float] = {
    _transfer: 25,
    _open_account: 8,
    _close_account: 4,
    _reopen_account: 4,
    _move_keys: 4,
    _retitle: 8,
    _rewrite: 3,
    _move_document: 3,
    _replace_document: 2,
    _note: 15,
    _count("counters"): 10,
    _forget("counters"): 2,
    _count("late"): 20,
    _forget("late"): 2,
    _write_elsewhere: 8,
}
_OPERATIONS_BY_WEIGHT |= {
    _rewrite_row("full_rows"): 4,
    _move_full_row: 2,
    _rewrite_row("by_index"): 4,
    _move_code: 3,
    _count("scratch"): 4,
    _truncate("scratch"): 0.2,
    _count("evolving"): 6,
    _forget("evolving"): 2,
    _keep_no_key: 3,
}
_WITH_PARTITIONS = _OPERATIONS_BY_WEIGHT | {
    _count("parts"): 8,
    _forget("parts"): 2,
    _move_part: 4,
    _truncate("parts_low"): 0.1,
}
