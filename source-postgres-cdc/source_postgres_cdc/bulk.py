"""The bulk transport: windows of WAL over a temporary copy of the anchor, through SQL. For backlogs.

``COPY (SELECT lsn, data FROM pg_logical_slot_get_binary_changes(cursor, upto_lsn, …)) TO STDOUT`` costs the server a
third to a sixth of what a walsender does (design section 3). Each call decodes anew from the cursor's ``restart_lsn``,
which moves at running-xacts records only and not past an open transaction, and fills a tuplestore before its first row:
so windows are bounded by LSN, and where too much would be decoded again this transport ends, for streaming to go on.

A thread fetches while the rows are rendered. psycopg2 takes the GIL for every row, so what really overlaps is the
server's decoding of the next window; that is where the time is.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator

from psycopg2 import errors
from psycopg2.sql import SQL, Composable

from airbyte_pg import sql
from airbyte_pg.connect import Connection
from airbyte_pg.errors import ConfigError, TransientError
from source_postgres_cdc import cursor_slot, lsn, server
from source_postgres_cdc.changes import Changes
from source_postgres_cdc.core.blocks import FILE_HEADER, FILE_TRAILER, Block, blocks
from source_postgres_cdc.slices import Slices, Writer
from source_postgres_cdc.snapshot import Sink

# The first window is small, so that rendering begins soon. Decoding again costs a seventh of decoding; a window is at
# least half of what is decoded again before it, so that adds a third at most. The limit bounds the tuplestore too.
_FIRST_WINDOW = 8 << 20
_WINDOW = 32 << 20
_MOST_AGAIN = 512 << 20
_LARGEST_WINDOW = 1 << 30
# Windows that give nothing are of a large transaction that has not come to its commit, and would be collected whole: a
# stream sends it while it is read. (Or nobody's changes are published: then both ways are as good.)
_MOST_IN_VAIN = 64 << 20

# psycopg2 calls `write` once per row; a C-level buffer in between makes that one Python call per chunk.
_CHUNK = 1 << 20
_STOP_S = 10.0

log = logging.getLogger(__name__)


class BulkReader:
    """Changes from ``start`` on. ``position`` is how far they are known to be complete.

    ``session`` is an ordinary one that may use slots; the reader closes it. ``stall_limit_s``: seconds without any
    progress after which reading fails. ``is_bounded``: end where too much would be decoded again.
    """

    def __init__(
        self,
        session: Connection,
        anchor: str,
        publication: str,
        start: int,
        stall_limit_s: float,
        *,
        is_bounded: bool = True,
    ) -> None:
        self._is_bounded = is_bounded
        self.position = start
        self._session = session
        self._stall_limit_s = stall_limit_s
        try:
            with session.cursor() as cursor:
                self._slot = cursor_slot.copy(cursor, anchor, start)
        except BaseException:
            session.close()
            raise
        self._publication = publication
        self._slices = Slices()
        self._fetching: threading.Thread | None = None
        # What the slot says between two calls.
        self._confirmed, self._restart = self._slot_positions()
        if self._confirmed < start:
            self._advance(start)

    def __enter__(self) -> BulkReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._slices.abandon()
        if self._fetching is not None and self._fetching.is_alive():
            self._session.cancel()
            self._fetching.join(_STOP_S)
            if self._fetching.is_alive():
                return  # nobody else may touch its session; it ends with the process
        self._session.close()

    def follow(self, fence: int, changes: Changes) -> Iterator[int]:
        """Give every frame of the transactions that committed before ``fence`` to ``changes``; yields the position
        behind each commit, and each window.

        Ends outside a transaction. ``position`` is then at the fence, or before it where too much would have to be
        decoded again. Raises TransientError when the server gives nothing for the stall limit.
        """
        self._fetching = threading.Thread(target=self._fetch, args=(fence,), name="bulk", daemon=True)
        self._fetching.start()
        while (window := self._slices.window(self._stall_limit_s)) is not None:
            for block in blocks(window):
                yield from self._take(block, changes)
            self.position = min(self._slices.reached, fence)
            yield self.position

    def _take(self, block: Block, changes: Changes) -> Iterator[int]:
        while True:
            changes.take_run(block)
            row = block.take()
            if row is None:
                return
            commit = changes.take(*row)
            if commit is not None:
                self.position = commit.end_lsn
                yield commit.end_lsn

    # In the thread; the session is its own from here on.

    def _fetch(self, fence: int) -> None:
        try:
            self._fetch_windows(fence)
        except BaseException as error:  # noqa: BLE001 - raised where the slices are taken
            self._slices.finish(error)
        else:
            self._slices.finish()

    def _fetch_windows(self, fence: int) -> None:
        size, in_vain = _FIRST_WINDOW, 0
        while self._confirmed < fence:
            again = self._confirmed - self._restart
            if self._is_bounded and (again > _MOST_AGAIN or in_vain > _MOST_IN_VAIN):
                log.info("%d MB of WAL would be decoded again: streaming goes on", again >> 20)
                return
            upto = min(fence, self._confirmed + max(size, min(again // 2, _LARGEST_WINDOW)))
            before, self._slices.window_bytes = self._confirmed, 0
            try:
                self._copy(upto)
            except errors.ConfigurationLimitExceeded as error:
                # Before the first row: the server collects a window first. The slot went with the error.
                if not self._is_bounded:
                    raise ConfigError(
                        "The server has no room for a window of changes: temp_file_limit is too small.",
                        remedy="Raise it, or give the user REPLICATION, so that the changes can be streamed.",
                    ) from error
                log.warning("The server has no room for a window of changes (temp_file_limit): streaming goes on")
                return
            self._confirmed, self._restart = self._slot_positions()
            if self._confirmed <= before:
                raise TransientError("The server has decoded nothing.", detail=f"up to {lsn.render(upto)}")
            is_empty = self._slices.window_bytes <= len(FILE_HEADER) + len(FILE_TRAILER)
            in_vain = in_vain + self._confirmed - before if is_empty else 0
            self._slices.end(self._confirmed)
            size = min(2 * size, _WINDOW)

    def _copy(self, upto: int) -> None:
        writer = Writer(self._slices)
        buffer: io.BufferedWriter = io.BufferedWriter(writer, _CHUNK)
        try:
            with self._session.cursor() as cursor:
                cursor.copy_expert(self._statement(upto), Sink(buffer))
            buffer.flush()
        finally:
            # What is left of a read that failed must not come out when the buffer is thrown away.
            writer.is_over = True

    def _statement(self, upto: int) -> Composable:
        return SQL(
            "copy (select lsn, data from pg_logical_slot_get_binary_changes("
            "{}, {}, null, 'proto_version', '1', 'publication_names', {})) to stdout (format binary)"
        ).format(
            sql.literal(self._slot),
            sql.literal(lsn.render(upto)),
            # A list of identifiers inside a literal: quoted twice.
            sql.literal(sql.text(sql.name(self._publication), self._session)),
        )

    def _slot_positions(self) -> tuple[int, int]:
        query = "select confirmed_flush_lsn::text, restart_lsn::text from pg_replication_slots where slot_name = %s"
        confirmed, restart = server.rows(self._session, query, (self._slot,))[0]
        return lsn.parse(confirmed), lsn.parse(restart)

    def _advance(self, start: int) -> None:
        query = "select pg_replication_slot_advance(%s, %s::pg_lsn)"
        server.value(self._session, query, (self._slot, lsn.render(start)))
        self._confirmed, self._restart = self._slot_positions()
