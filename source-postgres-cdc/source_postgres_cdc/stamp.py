"""Head and tail of RECORD lines: where a row belongs, and the meta columns that say when and where it changed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import orjson

from airbyte_pg.errors import StreamName
from source_postgres_cdc.discover import CDC_DELETED_AT, CDC_LSN, CDC_UPDATED_AT

_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)


def head(stream: StreamName, emitted_ms: int) -> str:
    """The start of every RECORD line of ``stream``, up to the opening brace of ``data`` (latin-1 text of UTF-8)."""
    namespace = f'"namespace":{_json(stream.namespace)},' if stream.namespace is not None else ""
    return f'{{"type":"RECORD","record":{{{namespace}"stream":{_json(stream.name)},"emitted_at":{emitted_ms},"data":{{'


def tail(lsn: int, updated_at: str, *, deleted: bool = False) -> str:
    """The meta columns of a row: the LSN as a number, the commit's time, and again for a delete."""
    before, behind = tail_around_lsn(updated_at)
    if deleted:
        behind = f',"{CDC_DELETED_AT}":"{updated_at}"'
    return f"{before}{lsn}{behind}"


def tail_around_lsn(updated_at: str) -> tuple[str, str]:
    """What stands before and behind the LSN in the tail of a row that was not deleted: once per transaction."""
    return f',"{CDC_UPDATED_AT}":"{updated_at}","{CDC_LSN}":', f',"{CDC_DELETED_AT}":null'


def commit_time(commit_us: int) -> str:
    """A commit's time (microseconds since 2000-01-01 UTC) as ``2024-03-12T22:41:18.042000Z``."""
    moment = _EPOCH + timedelta(microseconds=commit_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def now() -> str:
    """The present moment in the same form."""
    moment = datetime.now(timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def _json(text: str | None) -> str:
    return orjson.dumps(text).decode("latin-1")
