"""Tables to AirbyteStreams (reference/source.md section 2.2)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from source_postgres_cdc.pgtypes import NUMBER, STRING, JsonSchema, Types
from source_postgres_cdc.tables import Table

CDC_LSN = "_ab_cdc_lsn"
CDC_UPDATED_AT = "_ab_cdc_updated_at"
CDC_DELETED_AT = "_ab_cdc_deleted_at"
# With ``emit_position``: where a change stands in the one total order, (commit LSN, number within the transaction).
CDC_COMMIT_LSN = "_ab_cdc_commit_lsn"
CDC_ORDINAL = "_ab_cdc_ordinal"
# Of a record that stands for a TRUNCATE; in no schema.
CDC_TRUNCATE = "_ab_cdc_truncate"

META_COLUMNS: dict[str, JsonSchema] = {CDC_LSN: NUMBER, CDC_UPDATED_AT: STRING, CDC_DELETED_AT: STRING}
POSITION_COLUMNS: dict[str, JsonSchema] = {CDC_COMMIT_LSN: NUMBER, CDC_ORDINAL: NUMBER}


def airbyte_stream(
    table: Table, types: Types, *, is_followed: bool, columns: Collection[str] | None, has_position: bool = False
) -> dict[str, Any]:
    """The AirbyteStream of ``table``; ``columns`` are those that its records will hold (None: all).

    Every stream has the meta columns and the cursor; only a followed one offers incremental, and is resumable (an
    initial load goes on where its state says; a full_refresh begins anew all the same, and no state tells of it).
    """
    properties = {
        column.name: types.schema(column.type_oid, column.typmod)
        for column in table.columns
        if columns is None or column.name in columns
    }
    meta = {**META_COLUMNS, **(POSITION_COLUMNS if has_position else {})}
    return {
        "name": table.name,
        "namespace": table.schema,
        "json_schema": {"type": "object", "properties": {**properties, **meta}},
        "supported_sync_modes": ["full_refresh", "incremental"] if is_followed else ["full_refresh"],
        "source_defined_cursor": True,
        "default_cursor_field": [CDC_LSN],
        "source_defined_primary_key": [[name] for name in table.key],
        "is_resumable": is_followed,
    }
