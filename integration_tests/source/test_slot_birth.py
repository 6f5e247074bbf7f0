"""The anchor is made while transactions truncate and alter tables: what they change is not lost sight of.

The server forgets the catalog changes of a subtransaction that was under way when it began to decode. Two open
transactions hold it up at the two moments between which that happens.
"""

from __future__ import annotations

import contextlib

import pytest

from integration_tests.source.reading import TRANSPORTS, catalog_of, config, last_state, read, slot_of
from integration_tests.source.standing import wait_for
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE
from integration_tests.support.databases import Database

WAITS_FOR = (
    "select count(*) from pg_locks where not granted and locktype = 'transactionid' and transactionid::text = %s"
)


@pytest.fixture
def table(source_db):
    source_db.execute(
        "create table t (id int primary key, v text); insert into t select i, 'old' from generate_series(1, 10) i"
    )
    source_db.execute("create table other (id int primary key)")
    source_db.execute("create publication airbyte_publication for table t, other")
    return source_db


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "change",
    [
        "truncate t; insert into t select i, 'new' from generate_series(100, 110) i",
        "alter table t add column more int default 7; insert into t values (100, 'new')",
    ],
    ids=["truncate", "add column"],
)
def test_what_a_subtransaction_changes_meanwhile_is_decoded(table, transport, change):
    catalog = catalog_of(table, destination="append")
    with contextlib.ExitStack() as sessions:
        first, second = (sessions.enter_context(contextlib.closing(table.connect())).cursor() for _ in range(2))
        first.execute("begin; select txid_current()")
        held = str(first.fetchone()[0])
        running = connector.start(SOURCE, "read", config=config(table, transport=transport), catalog=catalog)
        sync = sessions.enter_context(running)
        wait_for_transaction(table, held)
        second.execute(
            f"begin; insert into other values (1); savepoint s; {change}; release savepoint s; select txid_current()"
        )
        changing = str(second.fetchone()[0])
        first.execute("commit")
        wait_for_transaction(table, changing)
        second.execute("commit; insert into t (id, v) values (1000, 'behind')")
        outcome = sync.finish()
    assert outcome.exit_code == 0, outcome
    table.execute("insert into t (id, v) values (1001, 'later')")
    again = read(table, catalog_of(table, destination="append"), last_state(outcome), transport=transport)
    assert again.exit_code == 0, again
    seen = {row["id"]: row for row in [*outcome.records("t"), *again.records("t")]}
    assert seen[1001]["v"] == "later"
    columns = {
        name for (name,) in table.rows("select attname from pg_attribute where attrelid = 't'::regclass and attnum > 0")
    }
    assert columns <= seen[1001].keys()
    assert {key for key, row in seen.items() if row["v"] != "old"} == {
        key for (key,) in table.rows("select id from t where v <> 'old'")
    }
    assert table.value("select count(*) from pg_replication_slots where slot_name = %s", slot_of(table)) == 1


def wait_for_transaction(database: Database, transaction: str) -> None:
    query = WAITS_FOR.replace("%s", f"'{transaction}'")
    wait_for(database, query, f"the server waits for transaction {transaction}")
