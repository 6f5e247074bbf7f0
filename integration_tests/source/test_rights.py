"""Users with as little as it takes, and views that run in their own world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, failure, last_state, read
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE, Outcome
from integration_tests.support.databases import Database

PASSWORD = "reader-secret"


@pytest.fixture
def reader(source_db: Database) -> Iterator[str]:
    """A user that may replicate, and nothing else."""
    name = f"reader_{source_db.name}"
    source_db.execute(f"create role {name} login replication password '{PASSWORD}'")
    yield name
    source_db.execute(f"drop owned by {name}; drop role {name}")


def read_as(user: str, database: Database, catalog: Any, state: Outcome | None = None, **more: Any) -> Outcome:
    """One sync as ``user``."""
    settings = {**config(database, **more), "username": user, "password": PASSWORD}
    given = [last_state(state)] if state else None
    return connector.run(SOURCE, "read", config=settings, catalog=catalog, state=given)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_may_read_some_columns_only(source_db, reader, transport):
    source_db.execute(
        f"""
        create table t (id int primary key, v text, secret text, big text);
        alter table t alter big set storage external;
        insert into t select i, 'x', 's', repeat('x', 3000) from generate_series(1, 50) i;
        create table root (id int, a int) partition by range (a);
        create table leaf partition of root for values from (0) to (9);
        insert into root values (1, 2);
        grant select (id, v, big) on t to {reader};
        grant select (id) on root to {reader};
        create publication airbyte_publication for table t;
        """
    )
    theirs = {**config(source_db), "username": reader, "password": PASSWORD}
    found = connector.run(SOURCE, "discover", config=theirs).catalog
    modes = {stream["name"]: stream["supported_sync_modes"][-1] for stream in found["streams"]}
    assert modes == {"t": "incremental", "root": "full_refresh"}
    catalog = {
        "streams": [
            {"stream": stream, "sync_mode": modes[stream["name"]], "destination_sync_mode": "append"}
            for stream in found["streams"]
        ]
    }
    options: dict[str, Any] = {"transport": transport, "snapshot_part_pages": 1, "max_db_connections": 2}
    first = read_as(reader, source_db, catalog, **options)
    assert first.exit_code == 0, first
    assert [row["id"] for row in first.records("root")] == [1]
    assert sorted(row["id"] for row in first.records("t")) == list(range(1, 51))
    source_db.execute("update t set v = 'y' where id <= 2")
    second = read_as(reader, source_db, catalog, first, **options)
    rows = second.records("t")
    assert [(row["id"], row["v"], len(row["big"])) for row in rows] == [(1, "y", 3000), (2, "y", 3000)]
    assert "secret" not in rows[0]


def test_views_find_their_functions_and_say_what_is_wrong(source_db, reader):
    source_db.execute(
        """
        create table t (id int primary key);
        insert into t values (1);
        create function counted() returns bigint language sql as 'select count(*) from t';
        create view with_function as select counted() as n, 't'::regclass::text as name;
        create materialized view empty as select 1 as id with no data;
        """
    )
    outcome = read(source_db, catalog_of(source_db, "full_refresh", only=["with_function"]))
    assert [(row["n"], row["name"]) for row in outcome.records("with_function")] == [(1, "t")]
    error = failure(read(source_db, catalog_of(source_db, "full_refresh", only=["empty"])))
    assert error["failure_type"] == "config_error"
    assert "public.empty has never been filled" in error["message"]
    if source_db.server.major < 15:
        return
    source_db.execute("create view guarded with (security_invoker) as select * from t")
    source_db.execute(f"alter table t enable row level security; grant select on t, guarded to {reader}")
    found = catalog_of(source_db, "full_refresh", only=["guarded"])
    error = failure(read_as(reader, source_db, found))
    assert error["failure_type"] == "config_error"
    assert "Row security policies may hide rows of public.guarded" in error["message"]
