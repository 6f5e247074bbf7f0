"""check tries what write does and leaves nothing; write works with schemas and without rights on the database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration_tests.destination.writing import USERS, one, own_tables, record, state, sync, users, write
from integration_tests.support import connector
from integration_tests.support.catalogs import configured
from integration_tests.support.connector import DESTINATION, Outcome
from integration_tests.support.databases import Database

ROLE = "loader of tables"


@pytest.fixture
def db(destination_db: Database) -> Iterator[Database]:
    """A database in which a user of its own may do nothing yet."""
    destination_db.execute(f"""create role "{ROLE}" login password 'word'; revoke all on schema public from public""")
    destination_db.execute(f"revoke all on database {destination_db.name} from public")
    destination_db.execute(f'grant connect on database {destination_db.name} to "{ROLE}"')
    yield destination_db
    destination_db.execute(f'drop owned by "{ROLE}" cascade; drop role "{ROLE}"')


def check(db: Database, **more: object) -> Outcome:
    config = db.config(**{"schema": "public", "username": ROLE, "password": "word", **more})
    outcome = connector.run(DESTINATION, "check", config=config)
    assert outcome.exit_code == 0
    return outcome


def test_a_superuser_may_do_everything_and_nothing_is_left(destination_db):
    outcome = connector.run(DESTINATION, "check", config=destination_db.config(schema="public, other"))
    assert outcome.connection_status == {"status": "SUCCEEDED"}
    assert destination_db.rows("select 1 from pg_namespace where nspname in ('airbyte_internal', 'other')") == []
    assert destination_db.rows("select 1 from pg_tables where tablename ~ '_airbyte'") == []


def test_every_missing_right_is_named_with_the_sql_that_grants_it(db):
    message = check(db).connection_status["message"]
    assert "may not create and fill tables in the schema public" in message
    assert "The schema airbyte_internal does not exist and may not be created" in message
    grants = [
        f'grant usage, create on schema "public" to "{ROLE}"',
        f'grant create on database "{db.name}" to "{ROLE}"',
    ]
    for grant in grants:
        assert f"{grant};" in message
        db.execute(grant)
    assert check(db).connection_status == {"status": "SUCCEEDED"}


def test_two_users_share_a_raw_schema(db):
    sync(db, one({**USERS, "name": "of_another"}), record({"id": 1}, "of_another"))
    db.execute(f'grant usage, create on schema airbyte_internal, public to "{ROLE}"')
    db.execute(f'grant select, insert, update on airbyte_internal._airbyte_pg_ledger to "{ROLE}"')
    for count in (1, 2):
        sync(db, one(), record({"id": 1, "name": "a"}), username=ROLE, password="word")
        assert users(db) == [(1, "a")] * count


def test_existing_schemas_are_enough(db):
    """CREATE on the database and TEMPORARY are not needed."""
    db.execute(
        f'create schema airbyte_internal authorization "{ROLE}"; grant usage, create on schema public to "{ROLE}"'
    )
    assert check(db).connection_status == {"status": "SUCCEEDED"}
    for generation, destination in enumerate(("append", "append_dedup", "overwrite"), start=1):
        catalog = one(destination=destination, generation=generation, minimum=generation)
        sync(db, catalog, record({"id": generation, "name": "a"}) + state(1), username=ROLE, password="word")
        assert users(db) == [(generation, "a")]
    assert own_tables(db) == set()


def test_a_missing_right_ends_a_sync_with_a_config_error(db):
    outcome = write(db, one(), record({"id": 1}) + state(1), username=ROLE, password="word")
    assert outcome.exit_code == 1
    assert outcome.states == []
    assert outcome.error is not None
    assert outcome.error["failure_type"] == "config_error"


def test_schemas_are_created_where_they_are_missing(destination_db):
    catalog = configured([{**USERS, "namespace": "Näw one"}, {**USERS, "namespace": None}], destination="append")
    options = {"schema": "My default", "raw_data_schema": "My Raw"}
    lines = record({"id": 1}, namespace="Näw one") + record({"id": 2}, namespace=None)
    sync(destination_db, catalog, lines, **options)
    assert destination_db.value('select id from "Naw_one".users') == 1
    assert destination_db.value('select id from "My_default".users') == 2
    assert destination_db.value("select count(*) from my_raw.naw_one_raw__stream_users") == 1
