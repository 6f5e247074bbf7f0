"""Head and tail of RECORD lines: where a row belongs, and the meta columns that say when and where it changed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

import orjson

from airbyte_pg.errors import StreamName
from source_postgres_cdc.core.plan import END
from source_postgres_cdc.discover import (
    CDC_COMMIT_LSN,
    CDC_DELETED_AT,
    CDC_LSN,
    CDC_ORDINAL,
    CDC_TRUNCATE,
    CDC_UPDATED_AT,
)

_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)


def head(stream: StreamName, emitted_ms: int) -> str:
    """The start of every RECORD line of ``stream``, up to the opening brace of ``data`` (latin-1 text of UTF-8)."""
    namespace = f'"namespace":{_json(stream.namespace)},' if stream.namespace is not None else ""
    return f'{{"type":"RECORD","record":{{{namespace}"stream":{_json(stream.name)},"emitted_at":{emitted_ms},"data":{{'


def snapshot_tail(lsn: int, updated_at: str, *, has_position: bool) -> str:
    """The meta columns of a row of a snapshot that began at ``lsn``; its position is (that, 0)."""
    before, behind = around_lsn(updated_at, lsn if has_position else None)
    return f"{before}{lsn}{behind}{0 if has_position else ''}"


def around_lsn(updated_at: str, commit_lsn: int | None, *, deleted: bool = False) -> tuple[str, str]:
    """What stands before and behind the LSN in the meta columns of a transaction's rows.

    With ``commit_lsn`` the position is among them, and the row's number belongs behind.
    """
    deleted_at = f'"{updated_at}"' if deleted else "null"
    position = f',"{CDC_COMMIT_LSN}":{commit_lsn},"{CDC_ORDINAL}":' if commit_lsn is not None else ""
    return f',"{CDC_UPDATED_AT}":"{updated_at}","{CDC_LSN}":', f',"{CDC_DELETED_AT}":{deleted_at}{position}'


def truncation(head_: str, key: Iterable[str], tail: str) -> str:
    """The RECORD line that says that every row is gone that is older than the LSN in ``tail``."""
    nulls = "".join(f"{_json(name)}:null," for name in key)
    return f"{head_}{nulls}{_json(CDC_TRUNCATE)}:true{tail}{END}"


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
