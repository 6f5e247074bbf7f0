"""When a position was all there was: what the state says of time, so that people can see how late their data is.

Nothing in the WAL knows the time of a position: commits have theirs, but not in order, and what is not read has none.
So the server is asked now and then how far its WAL goes, and what its clock says.
"""

from __future__ import annotations

from psycopg2.extensions import connection as Connection

from source_postgres_cdc import lsn, server

# While much is behind, so many moments are remembered; then every second one is forgotten.
_MOST = 4096

_NOW = """
select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text
"""


class Moments:
    """Moments at which the end of a server's WAL was seen, oldest first."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, str]] = []

    def look(self, session: Connection) -> None:
        """Remember where the server's WAL ends now."""
        # The clock is read first: what commits in between is behind it.
        moment, end = server.rows(session, _NOW)[0]
        self._seen.append((lsn.before_header(lsn.parse(end)), moment))
        if len(self._seen) > _MOST:
            del self._seen[1::2]

    def of(self, position: int) -> str | None:
        """The latest moment at which everything that had been written lay before ``position``; None: not known.

        What is older is forgotten: positions only grow.
        """
        passed = [index for index, (end, _) in enumerate(self._seen) if end <= position]
        if not passed:
            return None
        del self._seen[: passed[-1]]
        return self._seen[0][1]
