"""What destination tests write: messages in few words, and a sync over them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from integration_tests.support import connector
from integration_tests.support.catalogs import configured, stream
from integration_tests.support.connector import DESTINATION, Outcome
from integration_tests.support.databases import Database

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from airbyte_cdk.models import AirbyteMessageSerializer

Json = dict[str, Any]

USERS = stream("users", {"id": "integer", "name": "string"}, key=["id"])
USERS_CDC = stream("users", {"id": "integer", "name": "string"}, key=["id"], cdc=True)
EMITTED_AT = 1_700_000_000_000

# What two generations of users hold, and what is then seen of them.
OLD = [{"id": 1, "name": "old"}, {"id": 2, "name": "old"}]
NEW = [{"id": 2, "name": "new"}, {"id": 3, "name": "new"}]
ALL_OLD = [(1, "old"), (2, "old")]
ALL_NEW = [(2, "new"), (3, "new")]


def line(kind: str, **payload: Any) -> bytes:
    """One message."""
    return json.dumps({"type": kind, **payload}).encode() + b"\n"


def record(
    data: Mapping[str, Any] | str,
    name: str = "users",
    *,
    namespace: str | None = "public",
    emitted_at: int = EMITTED_AT,
    meta: Any = None,
) -> bytes:
    """A RECORD; ``data`` as a text goes in as it is."""
    text = data if isinstance(data, str) else json.dumps(data)
    head: Json = {"stream": name, "emitted_at": emitted_at}
    if namespace is not None:
        head["namespace"] = namespace
    if meta is not None:
        head["meta"] = meta
    return f'{{"type":"RECORD","record":{json.dumps(head)[:-1]},"data":{text}}}}}\n'.encode()


def records(rows: Iterable[Mapping[str, Any]], name: str = "users", **more: Any) -> bytes:
    """RECORDs, one after the other."""
    return b"".join(record(row, name, **more) for row in rows)


def state(number: int, name: str | None = "users", *, namespace: str | None = "public", **more: Any) -> bytes:
    """A STREAM state; GLOBAL if ``name`` is None."""
    if name is None:
        return line(
            "STATE", state={"type": "GLOBAL", "global": {"shared_state": {"n": number}, "stream_states": []}, **more}
        )
    descriptor: Json = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    of_stream = {"stream_descriptor": descriptor, "stream_state": {"n": number}}
    return line("STATE", state={"type": "STREAM", "stream": of_stream, **more})


def status(name: str = "users", *, namespace: str | None = "public", value: str = "COMPLETE") -> bytes:
    """A STREAM_STATUS."""
    descriptor = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    payload = {"stream_descriptor": descriptor, "status": value}
    return line("TRACE", trace={"type": "STREAM_STATUS", "emitted_at": EMITTED_AT, "stream_status": payload})


def is_state(message: Json) -> bool:
    """Whether a message is a STATE."""
    return bool(message["type"] == "STATE")


def write(db: Database, catalog: Json, lines: bytes, **options: Any) -> Outcome:
    """One sync of ``lines`` into ``db``; ``options`` are added to the configuration."""
    return connector.run(
        DESTINATION, "write", config=db.config(**{"schema": "public", **options}), catalog=catalog, stdin=lines
    )


def sync(db: Database, catalog: Json, lines: bytes, **options: Any) -> Outcome:
    """A sync that must succeed: every stream of the catalog is completed behind ``lines``."""
    ends = b"".join(
        status(one["stream"]["name"], namespace=one["stream"].get("namespace")) for one in catalog["streams"]
    )
    outcome = write(db, catalog, lines + ends, **options)
    assert outcome.exit_code == 0, outcome
    expect_valid(outcome)
    return outcome


def expect_valid(outcome: Outcome) -> None:
    """Nothing but lines that the protocol's own models accept, and nothing on stderr."""
    expect_quiet(outcome)
    for printed in outcome.lines:
        AirbyteMessageSerializer.load(json.loads(printed))


def expect_quiet(outcome: Outcome) -> None:
    """Nothing but lines of JSON, and nothing on stderr."""
    assert outcome.not_json == []
    assert outcome.stderr == ""


def one(of: Json = USERS, destination: str = "append", **more: Any) -> Json:
    """A configured catalog of one stream."""
    return configured([of], destination=destination, **more)


def users(db: Database, columns: str = "id, name") -> list[tuple[Any, ...]]:
    """The rows of public.users, sorted."""
    return db.rows(f"select {columns} from public.users order by 1, 2")


def raw_count(db: Database, table: str = "public_raw__stream_users") -> int:
    """The number of raw rows."""
    return int(db.value(f"select count(*) from airbyte_internal.{table}"))


def own_tables(db: Database) -> set[str]:
    """The tables that are only there for a sync: staging, and generations that are being built."""
    found = db.rows(
        "select tablename from pg_tables where schemaname = 'airbyte_internal'"
        " and (tablename ~ '_airbyte_pg_staging' or tablename ~ '_aside')"
    )
    return {name for (name,) in found}
