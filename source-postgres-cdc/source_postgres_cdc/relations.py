"""RELATION messages met with streams: for each relation of a decoding session, how its rows are rendered."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError
from source_postgres_cdc import stamp
from source_postgres_cdc.barrier import Visibility
from source_postgres_cdc.core.pgoutput import Relation
from source_postgres_cdc.core.tuples import TuplePlan
from source_postgres_cdc.state import SentColumn
from source_postgres_cdc.streams import Stream
from source_postgres_cdc.tables import load_types

log = logging.getLogger(__name__)


class Target(msgspec.Struct):
    """A relation that belongs to a stream. ``key``: places of the stream's key, in the key's order.

    Left out is what ``visibility`` shows, and what committed before ``position``; but for deletes, where
    ``deletes_below`` says so (``StreamProgress``). ``problem``: why its rows cannot be sent; raised at the first row
    that would be. ``is_outdated``: its rows have columns of other types than those that the stream has now.
    ``also``: of another stream that has the same rows (a partition's are those of what it is a partition of, too).
    """

    stream: Stream
    plan: TuplePlan
    names: tuple[str, ...]
    key: tuple[int, ...]
    head: str
    problem: ConfigError | None
    is_outdated: bool = False
    also: Target | None = None
    visibility: Visibility | None = None
    position: int = 0
    deletes_below: int = 0

    @property
    def is_rare(self) -> bool:
        """Whether its rows cannot be handed out in runs: some are left out, cannot be sent, go to two streams …"""
        return (
            self.visibility is not None
            or self.position > 0
            or self.problem is not None
            or self.is_outdated
            or self.also is not None
        )

    def chain(self) -> Iterator[Target]:
        """This one and all of the other streams."""
        target: Target | None = self
        while target is not None:
            yield target
            target = target.also

    def leaves_out(self, xid: int, commit_lsn: int) -> bool:
        """Whether a transaction is done with: by the snapshot that shows it, or by a position behind it."""
        return commit_lsn < self.position or (self.visibility is not None and self.visibility.shows(xid))


def target_of(
    session: Connection,
    stream: Stream,
    relation: Relation,
    emitted_ms: int,
    *,
    numbered: bool,
) -> Target:
    """The target of ``relation``, whose rows belong to ``stream``; ``numbered``: their tail ends with a number."""
    names = tuple(column.name for column in relation.columns)
    known = stream.identity.columns
    is_outdated = False
    for column in relation.columns:
        sent = known.get(column.name)
        if sent is not None and not sent.goes_on_as(SentColumn(column.type_oid, column.typmod, sent.number)):
            log.warning("%s.%s: the type of column %s has changed", *stream.id, column.name)
            is_outdated = True
    types = load_types(session, {column.type_oid for column in relation.columns}, stream.rendering)
    plan = TuplePlan(
        [
            types.plan_column(
                column.name if column.name in stream.fields else None,
                column.type_oid,
                column.typmod,
                is_key=column.name in stream.table.key,
            )
            for column in relation.columns
        ],
        relation.oid,
        numbered=numbered,
    )
    problem = _problem(stream, relation)
    return Target(
        stream=stream,
        plan=plan,
        names=names,
        key=() if problem else tuple(names.index(name) for name in stream.table.key),
        head=stamp.head(stream.id, emitted_ms),
        problem=problem,
        is_outdated=is_outdated,
    )


def _problem(stream: Stream, relation: Relation) -> ConfigError | None:
    key = set(stream.table.key)
    identity = {column.name for column in relation.columns if column.in_identity}
    # Under FULL every column is of the identity; under DEFAULT the primary key of that moment; else those of an index.
    if (relation.identity in ("d", "i") and identity == key) or (relation.identity == "f" and key <= identity):
        return None
    return ConfigError(
        f"The replica identity or the key of {relation.schema}.{relation.name} was another one when rows changed.",
        remedy="Refresh the catalog and the stream: its rows must be read anew.",
        stream=stream.id,
    )
