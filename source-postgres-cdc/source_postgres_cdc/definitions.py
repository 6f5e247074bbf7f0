"""What the tables of a continuous run look like, so that it is noticed when somebody alters them.

A stream of changes tells of an altered table with its next row at the earliest, and of a dropped or a new one never.
"""

from __future__ import annotations

import os
import time

from airbyte_pg.connect import Connection
from airbyte_pg.errors import CONTINUOUS, CatalogOutdated, StreamName
from source_postgres_cdc import publication, server
from source_postgres_cdc.settings import SourceSettings

# New tables are looked for among all that there are: not so often.
_TABLES_EVERY = 6

# What a catalog says of the tables %(oids)s: names and columns.
_COLUMNS = """
select c.oid, format('%%I.%%I', n.nspname, c.relname), coalesce((
  select string_agg(format('%%I %%s %%s %%s', a.attname, a.attnum, a.atttypid, a.atttypmod), ', ' order by a.attnum)
  from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = any (%(oids)s) order by 1
"""
# What else decides how they are read: key and identity, partitions, and what the publication sends of them.
_REST = """
with recursive parts (root, part) as (
  select inhparent, inhrelid from pg_inherits where inhparent = any (%(oids)s)
  union select p.root, i.inhrelid from parts p join pg_inherits i on i.inhparent = p.part)
select c.oid, c.relreplident::text, coalesce((
  select string_agg(format('%%s %%s %%s', i.indexrelid, i.indisprimary, i.indisreplident), ', ' order by i.indexrelid)
  from pg_index i where i.indrelid = c.oid and (i.indisprimary or i.indisreplident)), '')
from pg_class c where c.oid = any (%(oids)s)
union all select root, '', string_agg(part::text, ' ' order by part) from parts group by root
union all select r.prrelid, '', r::text from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
where p.pubname = %(publication)s and r.prrelid = any (%(oids)s)
order by 1, 2, 3
"""
_TABLES = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relpersistence = 'p' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and (%(may_add)s or exists (select from pg_publication_tables p where p.pubname = %(publication)s
                              and (p.schemaname, p.tablename) = (n.nspname, c.relname)))
"""


Columns = list[tuple[object, ...]]


class Definitions:
    """Of the tables with the OIDs ``oids``, as they are now. Where a runner will discover again (CONTINUOUS), the run
    ends when they are not what they were when it began: ``before``, if this is not its first session."""

    def __init__(
        self, session: Connection, settings: SourceSettings, oids: list[int], before: Columns | None = None
    ) -> None:
        self._session = session
        self._settings = settings
        self._may_end = may_end = bool(os.environ.get(CONTINUOUS))
        self._asked = {"oids": oids, "publication": settings.publication}
        self.columns, self._rest = self._look()
        if may_end and before is not None:
            self.columns = before
        self._tables = self._offered() if may_end else set()
        self._is_likely = False
        self._looked_at = self._counted_at = time.monotonic()

    def have_changed(self, *, is_likely: bool) -> bool:
        """Whether a table must be met anew. Asks the server now and then, and soon where a change ``is_likely``.

        Raises CatalogOutdated where the runner's catalog is not what ``discover`` would say.
        """
        now = time.monotonic()
        self._is_likely = self._is_likely or is_likely
        # Of many tables each is described once, with its first row.
        seconds = self._settings.checkpoint_seconds if self._is_likely else self._settings.idle_seconds
        if now - self._looked_at < seconds:
            return False
        self._looked_at, self._is_likely = now, False
        columns, rest = self._look()
        if columns != self.columns and self._may_end:
            raise CatalogOutdated("Tables were altered, renamed or dropped: the catalog is to be discovered anew.")
        if self._may_end and now - self._counted_at >= _TABLES_EVERY * self._settings.idle_seconds:
            self._counted_at = now
            self._expect_no_new_table()
        return (columns, rest) != (self.columns, self._rest)

    def _look(self) -> tuple[Columns, Columns]:
        return (
            server.rows(self._session, _COLUMNS, self._asked),
            server.rows(self._session, _REST, self._asked),
        )

    def _expect_no_new_table(self) -> None:
        new = {StreamName(*name) for name in self._offered() - self._tables}
        if any(map(self._settings.selection.holds, new)):
            raise CatalogOutdated("There are new tables: the catalog is to be discovered anew.")

    def _offered(self) -> set[tuple[str, str]]:
        found = publication.find(self._session, self._settings.publication)
        may_add = self._settings.create_if_missing and (found is None or found.may_be_altered)
        return set(server.rows(self._session, _TABLES, {**self._asked, "may_add": may_add}))
