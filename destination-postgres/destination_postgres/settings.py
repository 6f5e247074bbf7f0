"""This connector's configuration, and the ConnectorSpecification made from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from airbyte_pg.errors import ConfigError
from airbyte_pg.settings import ConnectionSettings
from destination_postgres.buffers import Limits
from destination_postgres.columns import Kind
from destination_postgres.provisions import Index, Provisions, Readers
from destination_postgres.rawrow import Retention
from destination_postgres.streams import Layout
from destination_postgres.transactions import Timeouts

APPLICATION_NAME = "destination-postgres"
DEFAULT_RAW_SCHEMA = "airbyte_internal"
# The server counts milliseconds in 32 bits.
_LONGEST_S = 2_000_000


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


_TABLES = "Final tables as schema.table; * stands for anything."


class IndexOption(BaseModel):
    """An index that the user asks for."""

    model_config = ConfigDict(title="Index")

    tables: str = Field(min_length=1, title="Tables", description=_TABLES, examples=["public.orders"])
    columns: list[str] = Field(min_length=1, title="Columns", description="The columns, in their order.")


class GrantOption(BaseModel):
    """Roles that the user lets read tables."""

    model_config = ConfigDict(title="Grant")

    tables: str = Field(default="*", min_length=1, title="Tables", description=_TABLES)
    roles: list[str] = Field(min_length=1, title="Roles", description="Who may read these tables (SELECT).")


class DestinationSettings(ConnectionSettings):
    """Where to write. The keys of destination-postgres 2.x and 3.x are accepted, and unknown ones ignored."""

    model_config = ConfigDict(
        title="Postgres Destination Spec",
        json_schema_extra={"required": ["host", "port", "username", "schema"]},
    )

    database: str = Field(
        default="",
        title="Database Name",
        description="Name of the database. Left empty: the user's.",
        json_schema_extra=_without_default,
    )

    schemas: str = Field(
        default="public",
        alias="schema",
        title="Default Schema",
        description=(
            "Schema of the streams that come without a namespace. Of several, separated by commas, the first; all are "
            "on the search path. Left empty: public."
        ),
        json_schema_extra={"examples": ["public"]},
    )
    raw_data_schema: str = Field(
        default=DEFAULT_RAW_SCHEMA,
        title="Raw Table Schema Name",
        description="Schema of the raw tables and of the connector's own tables.",
    )
    cdc_deletion_mode: Literal["Hard delete", "Soft delete"] = Field(
        default="Hard delete",
        title="CDC deletion mode",
        description="What a deletion in the source does to a deduplicated table: a hard one removes the row, a soft one"
        " leaves it, with its _ab_cdc_deleted_at set.",
    )
    disable_type_dedupe: bool = Field(
        default=False,
        title="Disable Final Tables",
        description="Write raw tables only: no types, no deduplication.",
    )
    drop_cascade: bool = Field(
        default=False,
        title="Drop tables with CASCADE",
        description=(
            "Allow dropping views and whatever else depends on a column that a replaced table no longer has, or has "
            "with another type. Otherwise such a stream is refused, and what depends on it is named."
        ),
    )
    unconstrained_number: bool = Field(
        default=True,
        title="Unconstrained numeric columns",
        description=(
            "Numbers are kept exactly, in columns without limits. Switched off, columns are decimal(38,9): more digits "
            "are rounded off, larger numbers become NULL."
        ),
    )
    raw_retention: Retention = Field(
        default="keep",
        title="Raw retention",
        description=(
            "Which rows the raw tables keep: all of them, those with a value that its column could not take, or none "
            "(then there are no raw tables, and what needs a stream's history reads it from the source again)."
        ),
    )

    require_stream_status: bool = Field(
        default=True,
        title="Require stream statuses",
        description=(
            "Whether a stream is complete only when the source says so. Switched off, for runners that send no "
            "statuses, the end of an input without any status and error completes every stream."
        ),
    )

    flush_bytes: int = Field(
        default=Limits.size_bytes,
        ge=1,
        title="Bytes per Flush",
        description="Rows are committed at the first state behind so many bytes, or anywhere at twice as many.",
    )
    flush_rows: int = Field(
        default=Limits.row_count,
        ge=1,
        title="Rows per Flush",
        description="Rows are committed at the first state behind so many rows, or anywhere at twice as many.",
    )
    flush_seconds: float = Field(
        default=Limits.age_s,
        gt=0,
        title="Seconds per Flush",
        description=(
            "How soon rows with a state behind them are visible, and the state comes back, if the server is quick. "
            "Without one they are committed so long after they came, in a pause; else ten times as long."
        ),
    )

    statement_timeout_seconds: float = Field(
        default=0,
        ge=0,
        le=_LONGEST_S,
        title="Statement Timeout",
        description="A statement that takes so many seconds ends the sync, which may be tried again. 0: no limit.",
    )
    lock_timeout_seconds: float = Field(
        default=0,
        ge=0,
        le=_LONGEST_S,
        title="Lock Timeout",
        description=(
            "A transaction that waits so many seconds for somebody else's lock is tried again, at most six times. 0: "
            "rows wait as long as it takes. Changes of columns wait at most three seconds at a time."
        ),
    )

    indexes: list[IndexOption] = Field(
        default=[],
        title="Indexes",
        description=(
            "Indexes on final tables besides the connector's own. They are made when they are missing, also on tables "
            "that replace others; one that is no longer listed stays."
        ),
    )
    grants: list[GrantOption] = Field(
        default=[],
        title="Grants",
        description=(
            "Roles that may read final tables, new ones included, and enter their schema. A role that is no longer "
            "listed keeps what it was granted."
        ),
    )

    @model_validator(mode="after")
    def _database_of_the_user(self) -> DestinationSettings:
        self.database = self.database or self.username
        return self

    @property
    def default_schema(self) -> str:
        """Schema, as the user wrote it, of streams without a namespace."""
        return self.schema_names[0]

    @property
    def schema_names(self) -> list[str]:
        """The configured schemas as the user wrote them; never empty."""
        return [name.strip() for name in self.schemas.split(",") if name.strip()] or ["public"]

    @property
    def layout(self) -> Layout:
        """Which tables streams have."""
        number = Kind.NUMBER if self.unconstrained_number else Kind.DECIMAL
        return Layout(
            retention=self.raw_retention,
            raw_only=self.disable_type_dedupe,
            number=number,
            soft_deletes=self.cdc_deletion_mode == "Soft delete",
            drop_cascade=self.drop_cascade,
            provisions=Provisions(
                tuple(Index(each.tables, tuple(each.columns)) for each in self.indexes),
                tuple(Readers(each.tables, tuple(each.roles)) for each in self.grants),
            ),
        )

    @property
    def limits(self) -> Limits:
        """When to flush."""
        return Limits(self.flush_bytes, self.flush_rows, self.flush_seconds)

    @property
    def timeouts(self) -> Timeouts:
        """How long statements and locks are waited for."""
        return Timeouts(self.statement_timeout_seconds, self.lock_timeout_seconds)

    def refuse_unsupported(self) -> None:
        """Raise ConfigError for an option that this version cannot honour."""
        super().refuse_unsupported()
        if self.disable_type_dedupe and self.raw_retention != "keep":
            raise ConfigError(
                f"disable_type_dedupe with raw_retention {self.raw_retention} would lose every row.",
                remedy="Leave one of the two out.",
            )
