"""What discover offers: every kind of relation, modes and keys by what can be followed, and what the user may read."""

from __future__ import annotations

from typing import Any

import pytest

from integration_tests.source.reading import catalog_of, config, discovered, failure, read
from integration_tests.support import connector
from integration_tests.support.connector import SOURCE

META = {"_ab_cdc_lsn": {"type": "number"}, "_ab_cdc_updated_at": {"type": "string"}}
META["_ab_cdc_deleted_at"] = {"type": "string"}
FOLLOWED = ["full_refresh", "incremental"]


@pytest.fixture
def relations(source_db):
    source_db.execute(
        """
        create table keyed (id int primary key, v text);
        create table two_keys (b int, a text, v text, primary key (a, b));
        create table no_key (id int, v text);
        create table late_key (id int primary key deferrable, v text);
        create table full_identity (id int primary key, v text);
        alter table full_identity replica identity full;
        create table index_identity (id int primary key, other int not null unique, v text);
        alter table index_identity replica identity using index index_identity_other_key;
        create table no_identity (id int primary key, v text);
        alter table no_identity replica identity nothing;
        create unlogged table unlogged (id int primary key, v text);
        create temporary table temporary (id int primary key);
        create table parent (id int primary key, v text);
        create table child (more text) inherits (parent);
        create table root (id int, at date, primary key (id, at)) partition by range (at);
        create table leaf partition of root for values from ('2024-01-01') to ('2025-01-01');
        create view a_view as select * from keyed;
        create materialized view a_matview as select * from keyed;
        create foreign data wrapper nothing;
        create server nowhere foreign data wrapper nothing;
        create foreign table a_foreign_table (id int, v text) server nowhere;
        create table no_columns ();
        create sequence a_sequence;
        create table pg_buffercache (id int primary key);
        create schema other;
        create table other.keyed (id int primary key);
        """
    )
    return source_db


# Name -> whether it can be followed, and its key.
EXPECTED: dict[str, tuple[bool, list[list[str]]]] = {
    "keyed": (True, [["id"]]),
    "two_keys": (True, [["a"], ["b"]]),
    "no_key": (False, []),
    "late_key": (False, []),
    "full_identity": (True, [["id"]]),
    "index_identity": (True, [["other"]]),
    "no_identity": (False, [["id"]]),
    "unlogged": (False, [["id"]]),
    "parent": (True, [["id"]]),
    "child": (False, []),
    "root": (True, [["id"], ["at"]]),
    "leaf": (True, [["id"], ["at"]]),
    "a_view": (False, []),
    "a_matview": (False, []),
    "a_foreign_table": (False, []),
    "no_columns": (False, []),
}


def test_every_kind_of_relation(relations):
    streams = discovered(relations)
    # Partitioned tables can be published since 13.
    root = (True, [["id"], ["at"]]) if relations.server.major >= 13 else (False, [])
    expected = {**EXPECTED, "root": root}
    assert {
        name: (stream["is_resumable"], stream["source_defined_primary_key"]) for name, stream in streams.items()
    } == expected
    for name, stream in streams.items():
        assert stream["namespace"] == "public"
        assert stream["supported_sync_modes"] == (FOLLOWED if expected[name][0] else ["full_refresh"])
        # A cursor everywhere, also where only full_refresh is: destinations ask for one.
        assert (stream["source_defined_cursor"], stream["default_cursor_field"]) == (True, ["_ab_cdc_lsn"])
        assert stream["json_schema"]["type"] == "object"
        properties = stream["json_schema"]["properties"]
        assert {key: properties[key] for key in META} == META
    assert streams["keyed"]["json_schema"]["properties"] == {
        "id": {"type": "number", "airbyte_type": "integer"},
        "v": {"type": "string"},
        **META,
    }
    assert list(streams["two_keys"]["json_schema"]["properties"])[:3] == ["b", "a", "v"]
    assert streams["no_columns"]["json_schema"]["properties"] == META


def test_schemas(relations):
    def names(**more: Any) -> set[tuple[str, str]]:
        outcome = connector.run(SOURCE, "discover", config=config(relations, **more))
        return {(stream["namespace"], stream["name"]) for stream in outcome.catalog["streams"]}

    public = {("public", name) for name in EXPECTED}
    assert names() == public
    assert names(schemas=["other"]) == {("other", "keyed")}
    # Empty: every schema but the system's.
    assert names(schemas=[]) == {*public, ("other", "keyed")}
    assert names(schemas=["public", "other", "none"]) == {*public, ("other", "keyed")}
    # The whitelist alone decides; an unqualified name is one of the default schema.
    assert names(schemas=["none"], tables="keyed, other.*") == {("public", "keyed"), ("other", "keyed")}
    assert names(schema="other", tables="keyed") == {("other", "keyed")}
    assert names(tables="*.keyed") == {("public", "keyed"), ("other", "keyed")}
    assert names(tables='public."keyed" ,public.no_k*') == {("public", "keyed"), ("public", "no_key")}


def test_a_publication_of_others_decides_what_can_be_followed(source_db):
    source_db.execute(
        """
        create table inside (id int primary key, v text);
        create table outside (id int primary key, v text);
        create publication airbyte_publication for table inside;
        """
    )
    streams = discovered(source_db)
    assert streams["inside"]["supported_sync_modes"] == FOLLOWED
    # Key and cursor stay: a destination may deduplicate a full refresh.
    outside = streams["outside"]
    assert outside["supported_sync_modes"] == ["full_refresh"]
    assert outside["source_defined_primary_key"] == [["id"]]
    assert outside["is_resumable"] is False
    error = failure(read(source_db, catalog_of(source_db)))
    assert "ALTER PUBLICATION" in error["message"]
    assert '"outside"' in error["message"]
    source_db.execute("drop publication airbyte_publication")
    source_db.execute("create publication airbyte_publication for all tables")
    assert discovered(source_db)["outside"]["supported_sync_modes"] == FOLLOWED


def test_a_column_list_and_a_row_filter_hold_for_catalog_snapshot_and_stream(source_db):
    if source_db.server.major < 15:
        pytest.skip("column lists and row filters came with 15")
    source_db.execute(
        """
        create table t (id int primary key, v text, hidden text);
        create publication airbyte_publication for table t (v, id) where (id > 10);
        insert into t values (1, 'no', 'x'), (11, 'yes', 'x');
        """
    )
    assert list(discovered(source_db)["t"]["json_schema"]["properties"]) == ["id", "v", *META]
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    source_db.execute("insert into t values (2, 'no', 'x'), (12, 'yes', 'x')")
    second = read(source_db, catalog, first)
    for outcome, number in ((first, 11), (second, 12)):
        (row,) = outcome.records("t")
        assert {key: value for key, value in row.items() if not key.startswith("_ab")} == {"id": number, "v": "yes"}


def test_generated_columns(source_db):
    source_db.execute("create table t (id int primary key, v int, twice int generated always as (v * 2) stored)")
    source_db.execute("create table no_key (v int, twice int generated always as (v * 2) stored)")
    source_db.execute("insert into t values (1, 2); insert into no_key values (2)")
    streams = discovered(source_db)
    # In no change before 18, so in no snapshot of a stream that can be followed; what is only read has them.
    assert list(streams["t"]["json_schema"]["properties"]) == ["id", "v", *META]
    assert list(streams["no_key"]["json_schema"]["properties"]) == ["v", "twice", *META]
    (row,) = read(source_db, catalog_of(source_db, "full_refresh", only=["no_key"])).records("no_key")
    assert row["twice"] == 4
    if source_db.server.major < 18:
        return
    source_db.execute("create publication airbyte_publication for table t with (publish_generated_columns = stored)")
    assert list(discovered(source_db)["t"]["json_schema"]["properties"]) == ["id", "v", "twice", *META]
    catalog = catalog_of(source_db, only=["t"])
    first = read(source_db, catalog)
    source_db.execute("update t set v = 3")
    second = read(source_db, catalog, first)
    assert [row["twice"] for outcome in (first, second) for row in outcome.records("t")] == [4, 6]


def test_only_what_the_user_may_read(source_db):
    user = f"reader {source_db.name}"
    source_db.execute(
        f"""
        create role "{user}" login password 'reader-secret';
        create table mine (id int primary key, v text);
        create table columns (id int primary key, v text, secret text);
        create table closed (id int primary key);
        create schema closed_schema;
        create table closed_schema.t (id int primary key);
        grant select on mine, closed_schema.t to "{user}";
        grant select (id, v) on columns to "{user}";
        """
    )
    try:
        theirs = {"username": user, "password": "reader-secret", "schemas": []}
        outcome = connector.run(SOURCE, "discover", config={**config(source_db), **theirs})
        streams = {stream["name"]: stream for stream in outcome.catalog["streams"]}
        assert set(streams) == {"mine", "columns"}
        assert list(streams["columns"]["json_schema"]["properties"]) == ["id", "v", *META]
    finally:
        source_db.execute(f'drop owned by "{user}"')
        source_db.execute(f'drop role "{user}"')
