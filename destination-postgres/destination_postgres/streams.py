"""ConfiguredStream -> StreamPlan: everything about a stream that is known before the server is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from airbyte_pg.catalog import ConfiguredStream
from airbyte_pg.errors import ConfigError, StreamName
from destination_postgres import naming, positions
from destination_postgres.columns import Column, Kind, columns_of
from destination_postgres.naming import Recorded, TableNames
from destination_postgres.provisions import Provisions
from destination_postgres.rawrow import Retention
from destination_postgres.sqlgen import Dedup, Table

# A CDC source's mark of a deleted row.
DELETED_AT_FIELD = "_ab_cdc_deleted_at"

# The server's own immutable functions for the types whose values may be too wide for an index.
_HASHES = {"character varying": "hashtext", "numeric": "hash_numeric", "jsonb": "jsonb_hash"}


_BIGINT = 1 << 63


@dataclass(frozen=True)
class Layout:
    """How the streams of a sync are kept: what raw tables keep of their rows, whether there are only those; what column
    a number gets; whether a deleted row stays, marked; whether what depends on a column goes when it must; what is
    asked for on final tables besides."""

    retention: Retention = "keep"
    raw_only: bool = False
    number: Kind = Kind.NUMBER
    soft_deletes: bool = False
    drop_cascade: bool = False
    provisions: Provisions = field(default_factory=Provisions)


@dataclass(frozen=True)
class Target:
    """A set of tables that a stream's rows go to: the visible ones, or those that a generation is built in.

    Under some layouts there is no ``raw`` or no ``final`` table of that name: see StreamPlan.
    """

    raw: Table
    final: Table
    tombstones: Table | None

    @property
    def tables(self) -> tuple[Table, ...]:
        """All that there can be."""
        return (self.raw, self.final, *([self.tombstones] if self.tombstones else []))


@dataclass(frozen=True)
class StreamPlan:
    """A stream as it is written. ``namespace`` is never None: streams without one get the default schema's name.

    ``forgotten``: tombstones that syncs in another mode may have left; they go when the rows that they belong to go.
    ``is_positioned``: rows are added, and say where in the order of changes they stand (positions.py).
    """

    id: StreamName
    namespace: str
    columns: tuple[Column, ...]
    dedup: Dedup | None
    overwrite: bool
    generation_id: int | None
    minimum_generation_id: int | None
    sync_id: int | None
    resumable: bool
    layout: Layout
    visible: Target
    aside: Target
    staging: Table
    forgotten: tuple[Table, ...]
    is_positioned: bool = False

    @property
    def label(self) -> str:
        """``namespace.name`` as logs show it."""
        return self.id.name if self.id.namespace is None else f"{self.id.namespace}.{self.id.name}"

    @property
    def has_raw(self) -> bool:
        """Whether there is a raw table."""
        return self.layout.retention != "none"

    @property
    def has_final(self) -> bool:
        """Whether there are a final table and what belongs to it."""
        return not self.layout.raw_only

    @property
    def is_kept(self) -> bool:
        """Whether the rows that are there stay."""
        return not self.overwrite and not self.minimum_generation_id

    def under(self, dedup: Dedup) -> StreamPlan:
        """The same, but deduplicated, with the tombstones that an earlier sync under that rule has left."""
        visible, aside = self.forgotten
        return replace(
            self,
            dedup=dedup,
            visible=replace(self.visible, tombstones=visible),
            aside=replace(self.aside, tombstones=aside),
            forgotten=(),
        )

    def fitted(self, types: Mapping[str, str]) -> StreamPlan:
        """The same for a final table that is there, with columns of these types; see Column.fitted."""
        columns = tuple(column.fitted(types.get(column.name)) for column in self.columns)
        if columns == self.columns:
            return self
        dedup = self.dedup and replace(self.dedup, hashes=_hashes(self.dedup.key, columns))
        return replace(self, columns=columns, dedup=dedup)

    @property
    def names_by_field(self) -> dict[str, str]:
        """The columns that are not spelt like their fields."""
        return {column.field: column.name for column in self.columns if column.field != column.name}

    @property
    def deleted_at(self) -> str | None:
        """The column in which a CDC source marks a deleted row."""
        return next((column.name for column in self.columns if column.field == DELETED_AT_FIELD), None)

    @property
    def final_columns(self) -> list[str]:
        """The columns of the final table in the order in which rows are written."""
        return [*(column.name for column in self.columns), *naming.META_COLUMNS]


def meant(stream: StreamName, streams: Collection[StreamName]) -> StreamName | None:
    """The one of ``streams`` that is called ``stream``. Without a namespace it is the only one of its name.

    PyAirbyte leaves the namespace out of what it sends from its cache.
    """
    if stream in streams:
        return stream
    same = [each for each in streams if stream.namespace is None and each.name == stream.name]
    return same[0] if len(same) == 1 else None


def plan_streams(
    streams: Sequence[ConfiguredStream],
    default_schema: str,
    raw_schema: str,
    recorded: Mapping[tuple[str, str], Recorded],
    layout: Layout = Layout(),
) -> list[StreamPlan]:
    """The plans of ``streams``, in order; ``recorded`` are the names of earlier syncs, by namespace and name.

    ``soft_deletes``: rows that are deleted at the source stay, marked.

    Raises ConfigError, naming the stream, for what cannot be written.
    """
    if not streams:
        raise ConfigError("The catalog has no streams.", remedy="Select at least one.")
    found: set[tuple[str, str]] = set()
    for each in streams:
        if "\0" in f"{each.stream.namespace}{each.stream.name}":
            raise ConfigError(
                "A stream's name has a NUL character, which PostgreSQL cannot store.",
                remedy="Deselect the stream.",
                stream=each.id,
            )
        key = (default_schema if each.stream.namespace is None else each.stream.namespace, each.stream.name)
        if key in found:
            raise ConfigError(
                "Two streams of the catalog are one table: one names its schema, for the other one it is the default.",
                remedy="Deselect one of them, or choose another default schema.",
                stream=each.id,
            )
        found.add(key)
    tables = {key: names.tables for key, names in recorded.items()}
    names = naming.table_names([configured.id for configured in streams], default_schema, tables)
    return [
        _plan(configured, default_schema, raw_schema, tables, layout, recorded)
        for configured, tables in zip(streams, names, strict=True)
    ]


def _plan(
    configured: ConfiguredStream,
    default_schema: str,
    raw_schema: str,
    names: TableNames,
    layout: Layout,
    recorded: Mapping[tuple[str, str], Recorded],
) -> StreamPlan:
    _check_generations(configured)
    namespace = default_schema if configured.stream.namespace is None else configured.stream.namespace
    properties = {} if layout.raw_only else configured.stream.properties
    try:
        columns = columns_of(properties, number=layout.number, before=recorded.get((namespace, configured.id.name)))
    except ConfigError as error:
        error.stream = configured.id
        raise
    is_dedup = configured.destination_sync_mode == "append_dedup" and not layout.raw_only
    dedup = _dedup(configured, columns, soft_deletes=layout.soft_deletes) if is_dedup else None
    # With soft deletes, too: hard ones of an earlier sync are to be respected.
    has_tombstones = is_dedup and any(column.field == DELETED_AT_FIELD for column in columns)

    def own(role: str) -> Table:
        return Table(raw_schema, naming.helper_name(role, names.final_schema, names.final_table))

    return StreamPlan(
        id=configured.id,
        namespace=namespace,
        columns=columns,
        dedup=dedup,
        overwrite=configured.destination_sync_mode == "overwrite",
        generation_id=configured.generation_id,
        minimum_generation_id=configured.minimum_generation_id,
        sync_id=configured.sync_id,
        resumable=bool(configured.stream.is_resumable),
        layout=layout,
        visible=Target(
            raw=Table(raw_schema, names.raw_table),
            final=Table(names.final_schema, names.final_table),
            tombstones=own("tombstones") if has_tombstones else None,
        ),
        aside=Target(
            raw=own("raw_aside"),
            final=own("final_aside"),
            tombstones=own("tombstones_aside") if has_tombstones else None,
        ),
        staging=own("staging"),
        is_positioned=dedup is None and positions.FIELDS.issubset(configured.stream.properties),
        forgotten=() if has_tombstones else (own("tombstones"), own("tombstones_aside")),
    )


def _check_generations(configured: ConfiguredStream) -> None:
    generation, minimum = configured.generation_id, configured.minimum_generation_id
    if generation is not None and not -_BIGINT <= generation < _BIGINT:
        raise ConfigError(f"generation_id {generation} is no 64-bit number.", stream=configured.id)
    if minimum and generation is not None and minimum != generation:
        raise ConfigError(
            f"minimum_generation_id {minimum} with generation_id {generation} is not supported.",
            remedy="The minimum must be 0 (keep all rows) or the generation itself (replace them).",
            stream=configured.id,
        )


def _dedup(configured: ConfiguredStream, columns: Sequence[Column], *, soft_deletes: bool) -> Dedup:
    by_field = {column.field: column.name for column in columns}
    key = [_top_level(path, "primary key", by_field, configured.id) for path in configured.key]
    if not key:
        raise ConfigError(
            "append_dedup needs a primary key.",
            remedy="Choose one, or another destination sync mode.",
            stream=configured.id,
        )
    cursor = _top_level(configured.cursor, "cursor", by_field, configured.id) if configured.cursor else None
    unique = tuple(dict.fromkeys(key))
    return Dedup(
        key=unique,
        cursor=cursor,
        deleted_at=None if soft_deletes else by_field.get(DELETED_AT_FIELD),
        hashes=_hashes(unique, columns),
    )


def _hashes(key: Sequence[str], columns: Sequence[Column]) -> tuple[str | None, ...]:
    types = {column.name: column.kind.sql_type for column in columns}
    return tuple(_HASHES.get(types[column]) for column in key)


def _top_level(path: Sequence[str], what: str, by_field: Mapping[str, str], stream: StreamName) -> str:
    if len(path) != 1:
        raise ConfigError(f"The {what} must be a top-level column.", stream=stream)
    if path[0] not in by_field:
        raise ConfigError(f"The {what} is no column of the stream: {path[0]}.", stream=stream)
    return by_field[path[0]]
