"""Every type, four ways: the snapshot, the stream, both the same bytes, and the final column equal by value."""

from __future__ import annotations

import msgspec
import pytest

from integration_tests.pair import typecases
from integration_tests.pair.piping import sync
from integration_tests.pair.typecases import CASES, SPECIALS, SPECIALS_AS_TEXT, T
from integration_tests.source.reading import TRANSPORTS, catalog_of, discovered, read
from integration_tests.support.connector import Outcome

# Types that not every server has: of later versions, of extensions, of a build with libxml.
RARE = {"macaddr8": 10, "xid8": 13, "pg_snapshot": 13, "jsonpath": 12, "xml": 99}
RARE |= {"flag[]": 11, "posint[]": 11, "tags[]": 11}  # arrays of domains
RARE |= {case.type: 14 for case in CASES if "multirange" in case.type}
RARE |= {case.type: 99 for case in [*typecases.OF_EXTENSIONS, *typecases.ARRAYS] if "citext" in case.type}
RARE |= {case.type: 99 for case in typecases.OF_EXTENSIONS}


@pytest.fixture
def found(source_db):
    """Columns with their cases, of the table ``t``; a server lacks no type that its version has."""
    made = typecases.made(source_db)
    version = source_db.value("select current_setting('server_version_num')::int / 10000")
    lacking = {case.type for case in CASES} - {case.type for _, case in made}
    assert {kind for kind in lacking if RARE.get(kind, 0) <= version} == set()
    return made


def test_schemas(source_db, found):
    properties = discovered(source_db)["t"]["json_schema"]["properties"]
    assert {name: properties[name] for name, _ in found} == {name: case.schema for name, case in found}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_snapshot_and_stream_give_the_same_right_bytes(source_db, found, transport):
    catalog = catalog_of(source_db)
    first = read(source_db, catalog)
    source_db.execute("update t set touched = 0")
    second = read(source_db, catalog, first, transport=transport)
    source_db.execute("alter table t replica identity full")
    source_db.execute("update t set touched = 0")
    third = read(source_db, catalog, second, transport=transport)
    snapshot, stream = raw_rows(first), raw_rows(second)
    for row in typecases.rows(found):
        expected = {case.type: case.values[typecases.literal(case, row)] for _, case in found}
        assert {case.type: snapshot[row][name].decode() for name, case in found} == expected
    assert set(snapshot[0].values()) == {b"0", b"null"}
    assert stream == snapshot
    assert raw_rows(third) == snapshot


def test_final_columns_hold_the_source_values(source_db, destination_db, found):
    catalog = catalog_of(source_db)
    first = sync(source_db, destination_db, catalog)
    assert first.ok, first.printed[-3:]
    expect_equal(source_db, destination_db, found)
    source_db.execute("update t set touched = 1")
    second = sync(source_db, destination_db, catalog, first.states[-1])
    assert second.ok, second.printed[-3:]
    assert destination_db.value("select min(touched) from public.t") == 1
    expect_equal(source_db, destination_db, found)


def expect_equal(source_db, destination_db, found: list[tuple[str, T]]) -> None:
    for database in (source_db, destination_db):
        database.execute(typecases.PLAINLY)
    different: dict[tuple[str, int], tuple[str, str]] = {}
    for name, case in found:
        final, source = (each.replace("{}", name) for each in (case.final, case.source))
        theirs = dict(destination_db.rows(f"select id, {final} from public.t"))
        ours = dict(source_db.rows(f"select id, case when {name} is not null then {source} end from t"))
        different |= {(case.type, row): (ours[row], theirs[row]) for row in ours if ours[row] != theirs[row]}
    assert different == {}
    # Nothing had to be left out.
    assert destination_db.value("select count(*) from public.t where _airbyte_meta -> 'changes' <> '[]'") == 0


@pytest.mark.parametrize(("special_values", "transport"), [("null", "stream"), ("text", "bulk")])
def test_what_json_numbers_cannot_be(source_db, destination_db, special_values, transport):
    cases = typecases.known(source_db, SPECIALS)
    assert len(cases) >= 5
    source_db.execute(
        f"create table t (id int primary key, {', '.join(f'{name} {case.type}' for name, case in cases)})"
    )
    catalog = catalog_of(source_db)
    options = {"special_values": special_values, "transport": transport}
    outcomes = [read(source_db, catalog, **options)]
    passed = [sync(source_db, destination_db, catalog, **options)]
    rows = list(typecases.rows(cases))
    for row in rows:
        literals = [typecases.literal(case, row) for _, case in cases]
        source_db.execute(f"insert into t values ({row}{', %s' * len(cases)})", *literals)
    outcomes += [
        read(source_db, catalog, outcomes[0], **options),
        read(source_db, catalog_of(source_db, "full_refresh"), **options),
    ]
    for outcome in outcomes[1:]:
        payloads = {record["data"]["id"]: record for record in outcome.record_payloads("t")}
        raw = raw_rows(outcome, with_changes=True)
        for row in rows:
            as_text = {name: SPECIALS_AS_TEXT[typecases.literal(case, row)] for name, case in cases}
            as_null = {name: case.values[typecases.literal(case, row)] for name, case in cases}
            expected = as_text if special_values == "text" else as_null
            assert {name: raw[row][name].decode() for name, _ in cases} == expected
            changes = payloads[row].get("meta", {}).get("changes", [])
            lost = [] if special_values == "text" else cases
            assert changes == [
                {
                    "field": name,
                    "change": "TRUNCATED" if case.type.endswith("[]") else "NULLED",
                    "reason": "SOURCE_SERIALIZATION_ERROR",
                }
                for name, case in lost
            ]
    passed.append(sync(source_db, destination_db, catalog, passed[0].states[-1], **options))
    assert all(each.ok for each in passed)
    scalars = [name for name, case in cases if not case.type.endswith("[]")]
    for name in scalars:
        theirs = destination_db.rows(f"select id, {name}::text from public.t order by id")
        shown = source_db.rows(f"select id, {name}::text from t order by id")
        assert theirs == (shown if special_values == "text" else [(row, None) for row in rows])


def raw_rows(outcome: Outcome, *, with_changes: bool = False) -> dict[int, dict[str, bytes]]:
    """Every record's columns as the bytes that were printed, by id; without the meta columns."""
    assert outcome.exit_code == 0, outcome
    found = {}
    for line in outcome.lines:
        if line.startswith(b'{"type":"RECORD"'):
            record = msgspec.json.decode(line, type=dict[str, dict[str, msgspec.Raw] | str])["record"]
            assert isinstance(record, dict)
            assert with_changes or "meta" not in record
            data = msgspec.json.decode(record["data"], type=dict[str, msgspec.Raw])
            row = {name: bytes(value) for name, value in data.items() if not name.startswith("_ab_cdc_")}
            found[int(row["id"])] = row
    return found
