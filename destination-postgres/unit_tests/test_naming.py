"""Names: Airbyte 2.x's for everything that fits, a stable hash where 2.x would mix two things."""

from __future__ import annotations

import itertools

import pytest

from airbyte_pg.errors import StreamName
from destination_postgres import naming
from destination_postgres.naming import Recorded, TableNames

TABLES = TableNames("public_raw__stream_t", "public", "t")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("identifiêr name", "identifier_name"),
        ("a_unicode_name_文", "a_unicode_name__"),
        (",identifier+name", "_identifier_name"),
        ('"identifier name"', "_identifier_name_"),
        ("users USE special !@#$", "users_USE_special_____"),
        ("1st  place\t", "1st_place_"),
        ("ﬁne", "fine"),
        ("", "_"),
        ("文", "_"),
    ],
)
def test_names_are_spelt_as_2x_spells_them(given: str, wanted: str):
    assert naming.sanitise(given) == wanted


@pytest.mark.parametrize(
    ("namespace", "name", "wanted"),
    [
        ("public", "users", "public_raw__stream_users"),
        ("a", "b", "a_raw__stream_b"),
        ("aaa_abab_bbb", "ccc", "aaa_abab_bbb_raw__stream_ccc"),
        ("a__b", "c___d", "a__b_raw____stream_c___d"),
        ("Public", "Users", "public_raw__stream_users"),
        ("my schéma", "Ta.ble", "my_schema_raw__stream_ta_ble"),
    ],
)
def test_raw_tables_are_named_as_in_2x(namespace: str, name: str, wanted: str):
    assert naming.raw_table_name(namespace, name) == wanted


def test_a_name_that_is_too_long_ends_in_a_hash_of_the_whole():
    one, other = "x" * 70 + "a", "x" * 70 + "b"
    names = naming.table_names([StreamName("public", one), StreamName("public", other)], "public", {})
    assert all(len(name) == naming.IDENTIFIER_LIMIT for pair in names for name in (pair.raw_table, pair.final_table))
    assert names[0].raw_table != names[1].raw_table
    assert names[0].final_table != names[1].final_table
    assert names == naming.table_names([StreamName("public", one), StreamName("public", other)], "public", {})


def test_the_second_of_two_like_streams_gets_2x_suffix():
    names = naming.table_names([StreamName("a", "foofóo"), StreamName("a", "foofoo")], "public", {})
    assert [pair.final_table for pair in names] == ["foofoo", "foofoo_3fd"]
    assert names[1].raw_table == "a_raw__stream_foofoo_3fd"


def test_streams_that_differ_in_case_only_share_no_raw_table():
    names = naming.table_names([StreamName("a", "Users"), StreamName("a", "users")], "public", {})
    assert len({pair.raw_table for pair in names}) == 2
    assert names[0].final_table == "Users"


def test_a_stream_keeps_its_name_when_the_catalog_changes():
    streams = [StreamName(None, "foo foo"), StreamName(None, "foo_foo"), StreamName(None, "foo-foo")]
    first = naming.table_names(streams[1:2], "public", {})
    recorded = {("public", "foo_foo"): first[0]}
    names = naming.table_names(streams, "public", recorded)
    assert names[1] == first[0]
    assert len({pair.final_table for pair in names}) == 3
    assert len({pair.raw_table for pair in names}) == 3


def test_no_stream_takes_the_raw_table_that_another_one_has_had():
    recorded = {("A", "users"): TableNames("a_raw__stream_users", "A", "users")}
    (names,) = naming.table_names([StreamName("a", "users")], "public", recorded)
    assert names.raw_table != "a_raw__stream_users"
    assert naming.table_names([StreamName("A", "users")], "public", recorded) == list(recorded.values())


def test_no_order_of_streams_makes_two_share_a_table():
    streams = [StreamName("s", name) for name in ("a b", "a_b", "a-b", "a_b_" + "0" * 60, "a_b_" + "0" * 61)]
    for order in itertools.permutations(streams):
        names = naming.table_names(order, "public", {})
        assert len({pair.raw_table for pair in names}) == len({pair.final_table for pair in names}) == len(streams)


def test_streams_without_a_namespace_get_the_default_schema():
    names = naming.table_names([StreamName(None, "users")], "My Schema", {})
    assert names == [TableNames("my_schema_raw__stream_users", "My_Schema", "users")]


def test_columns_that_would_be_alike_are_counted():
    assert naming.column_names(["a b", "a_b", "a-b", "A b"]) == ["a_b", "a_b_1", "a_b_2", "A_b"]


def test_a_user_column_does_not_take_a_name_of_ours():
    assert naming.column_names(["_airbyte_raw_id", "_airbyte_meta"]) == ["_airbyte_raw_id_1", "_airbyte_meta_1"]


def test_a_user_column_does_not_take_a_name_of_the_servers():
    assert naming.column_names(["ctid", "Ctid", "ctid_1"]) == ["ctid_1", "Ctid", "ctid_1_1"]


def test_a_field_keeps_its_column_when_the_order_changes_or_fields_come():
    before = Recorded(TABLES, ["a_b", "a_b_1"], {"a b": "a_b", "a-b": "a_b_1"})
    assert naming.column_names(["a-b", "a b"], before) == ["a_b_1", "a_b"]
    # One that comes takes neither, whatever it is called, be they deselected.
    assert naming.column_names(["a_b", "a-b"], before) == ["a_b_2", "a_b_1"]
    before = Recorded(TABLES, ["a_b", "a_b_1"], {"a b": "a_b_1"})
    assert naming.column_names(["a b", "a_b", "a_b_1"], before) == ["a_b_1", "a_b", "a_b_1_1"]
    assert naming.column_names(["a.b"], before) == ["a_b_2"]


def test_long_columns_that_are_alike_after_the_cut_keep_both_ends():
    long = ["c" * 63 + "x", "c" * 63 + "yz"]
    cut, counted = naming.column_names(long)
    assert cut == "c" * 63
    assert counted == "c" * 29 + "7" + "c" * 27 + "yz"


def test_names_of_our_own_tables_do_not_depend_on_where_parts_end():
    assert naming.helper_name("staging", "ab", "c") != naming.helper_name("staging", "a", "bc")
    assert len(naming.helper_name("tombstones_aside", "s" * 63, "t" * 63)) <= naming.IDENTIFIER_LIMIT
