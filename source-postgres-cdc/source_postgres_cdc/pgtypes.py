"""ONE table: PostgreSQL type -> JSON schema and kind of value (reference/source.md section 3).

Whatever is not named here is sent as the text that PostgreSQL prints, with schema string. docs/types.md is generated
from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from source_postgres_cdc.core.plan import PlanColumn
from source_postgres_cdc.core.values import Kind

JsonSchema = dict[str, Any]

STRING: JsonSchema = {"type": "string"}
BOOLEAN: JsonSchema = {"type": "boolean"}
INTEGER: JsonSchema = {"type": "number", "airbyte_type": "integer"}
NUMBER: JsonSchema = {"type": "number"}
DATE: JsonSchema = {"type": "string", "format": "date"}


def _timed(format_: str, airbyte_type: str) -> JsonSchema:
    return {"type": "string", "format": format_, "airbyte_type": airbyte_type}


TIME = _timed("time", "time_without_timezone")
TIMETZ = _timed("time", "time_with_timezone")
TIMESTAMP = _timed("date-time", "timestamp_without_timezone")
TIMESTAMPTZ = _timed("date-time", "timestamp_with_timezone")


@dataclass(frozen=True)
class TypeRow:
    """How values of a type are sent, and as elements of an array where that differs.

    ``decision``: where Airbyte's own connector gives another value, or one for the snapshot and one for the stream.
    """

    schema: JsonSchema
    kind: Kind
    item_schema: JsonSchema | None = None
    item_kind: Kind | None = None
    decision: str = ""

    @property
    def as_item(self) -> tuple[JsonSchema, Kind]:
        """Schema and kind of an element of an array."""
        return self.item_schema or self.schema, self.item_kind or self.kind


_DIGITS = "every digit; Airbyte's stream goes through a double and loses them from the 16th on"
_AS_PRINTED = "as PostgreSQL prints it, `(3,7)`; Airbyte's goes through doubles: `(3.0,7.0)`"
_INFINITE = "`infinity` and `-infinity` as such; Airbyte: `Infinity`, from 3.8 on null"

TEXT = TypeRow(STRING, Kind.TEXT)
_PLAIN = TypeRow(STRING, Kind.PLAIN)
_GEOMETRIC = TypeRow(STRING, Kind.PLAIN, decision=_AS_PRINTED)
_WHOLE = TypeRow(INTEGER, Kind.INTEGER)

# Type OIDs are fixed for built-in types (src/include/catalog/pg_type.dat). Kind.PLAIN: printed without a character that
# JSON escapes, whatever the value.
NUMERIC_OID = 1700
BIT_OID = 1560
CHAR_OID = 18
BUILTIN: Mapping[int, TypeRow] = {
    21: _WHOLE,  # smallint
    23: _WHOLE,  # integer
    20: _WHOLE,  # bigint
    26: TypeRow(INTEGER, Kind.INTEGER, item_schema=NUMBER),  # oid
    NUMERIC_OID: TypeRow(NUMBER, Kind.DECIMAL, decision=_DIGITS),
    700: TypeRow(NUMBER, Kind.DECIMAL),  # real
    701: TypeRow(NUMBER, Kind.DECIMAL),  # double precision
    790: TypeRow(NUMBER, Kind.MONEY, decision="every amount; Airbyte's is null beyond 999,999,999,999,999"),  # money
    16: TypeRow(BOOLEAN, Kind.BOOLEAN),  # boolean
    25: TEXT,  # text
    1043: TEXT,  # character varying
    1042: TypeRow(STRING, Kind.TEXT, decision="padded to its length, as in Airbyte's"),  # character
    19: TEXT,  # name
    CHAR_OID: TEXT,  # "char"
    17: TypeRow(  # bytea
        STRING, Kind.BYTEA, item_kind=Kind.BASE64, decision="`\\x` and hex, in arrays base64, as in Airbyte's"
    ),
    2950: _PLAIN,  # uuid
    114: TypeRow(STRING, Kind.TEXT, decision="the text as it was written"),  # json
    3802: TypeRow(STRING, Kind.TEXT, decision="the text as PostgreSQL prints it"),  # jsonb
    142: TEXT,  # xml
    4072: TEXT,  # jsonpath
    1082: TypeRow(DATE, Kind.PLAIN, decision=_INFINITE),  # date
    1083: TypeRow(TIME, Kind.PLAIN, decision="`24:00:00` as such; Airbyte: `23:59:59.999999999`"),  # time
    1266: TypeRow(TIMETZ, Kind.TIMETZ, decision="keeps its offset; Airbyte's stream converts it to UTC"),  # timetz
    1114: TypeRow(TIMESTAMP, Kind.TIMESTAMP, decision=_INFINITE),  # timestamp
    1184: TypeRow(TIMESTAMPTZ, Kind.TIMESTAMPTZ, decision=_INFINITE),  # timestamptz
    1186: TypeRow(  # interval
        STRING, Kind.PLAIN, decision="as PostgreSQL prints it; Airbyte's stream drops fractions of a second"
    ),
    BIT_OID: TypeRow(  # bit
        STRING, Kind.PLAIN, decision="in arrays of bit(1) true and false; Airbyte's longer elements all become false"
    ),
    1562: TypeRow(STRING, Kind.PLAIN, decision="in arrays as text; Airbyte's become false"),  # bit varying
    869: _PLAIN,  # inet
    650: _PLAIN,  # cidr
    829: _PLAIN,  # macaddr
    774: _PLAIN,  # macaddr8
    600: _GEOMETRIC,  # point
    628: _GEOMETRIC,  # line
    601: _GEOMETRIC,  # lseg
    603: _GEOMETRIC,  # box
    602: _GEOMETRIC,  # path
    604: _GEOMETRIC,  # polygon
    718: _GEOMETRIC,  # circle
    3904: _PLAIN,  # int4range
    3926: _PLAIN,  # int8range
    3906: _PLAIN,  # numrange
    3912: TEXT,  # daterange
    3908: TEXT,  # tsrange
    3910: TEXT,  # tstzrange
    4451: _PLAIN,  # int4multirange
    4536: _PLAIN,  # int8multirange
    4532: _PLAIN,  # nummultirange
    4535: TEXT,  # datemultirange
    4533: TEXT,  # tsmultirange
    4534: TEXT,  # tstzmultirange
    3614: TEXT,  # tsvector
    3615: TEXT,  # tsquery
    3220: _PLAIN,  # pg_lsn
    5069: _PLAIN,  # xid8
    5038: _PLAIN,  # pg_snapshot
    2970: _PLAIN,  # txid_snapshot
    27: _PLAIN,  # tid
    28: _PLAIN,  # xid
    29: _PLAIN,  # cid
    22: _PLAIN,  # int2vector
    30: _PLAIN,  # oidvector
}

# Types of extensions have other OIDs in each database; what is not named here is text as well.
EXTENSIONS: Mapping[str, TypeRow] = {
    "hstore": TypeRow(STRING, Kind.HSTORE, decision="the text of a JSON object, as in Airbyte's"),
}


@dataclass(frozen=True)
class Rendering:
    """What of the rendering is not the types' own.

    ``specials_as_text``: NaN and infinite numbers are sent as strings. ``encoding``: the database's.
    """

    specials_as_text: bool
    encoding: str
    version: int

    @property
    def has_encoding(self) -> bool:
        """Whether the database knows what its bytes stand for."""
        return self.encoding != "SQL_ASCII"

    def is_raw(self, oid: int) -> bool:
        """Whether texts of the type ``oid`` may be bytes that are no UTF-8: nothing converts or checks them."""
        # Before 16 a "char" above 127 is printed as it is.
        return not self.has_encoding or (oid == CHAR_OID and self.version < 160000)


@dataclass(frozen=True)
class PgType:
    """A type as pg_type describes it; ``element`` of a true array, ``base`` of a domain.

    ``extension``: the extension that it belongs to, or none.
    """

    oid: int
    name: str
    base: int = 0
    base_typmod: int = -1
    element: int = 0
    delimiter: str = ","
    extension: str | None = None


class Types:
    """The types of a database that are in use, by OID."""

    def __init__(self, types: Mapping[int, PgType], rendering: Rendering) -> None:
        self._types = types
        self._rendering = rendering

    def schema(self, oid: int, typmod: int) -> JsonSchema:
        """The JSON schema of a column of this type."""
        oid, typmod = self._resolved(oid, typmod)
        if element := self._element(oid):
            return {"type": "array", "items": self._item(element, typmod)[0]}
        return INTEGER if oid == NUMERIC_OID and _is_whole(typmod) else self._row(oid).schema

    def plan_column(self, field: str | None, oid: int, typmod: int, *, is_key: bool = False) -> PlanColumn:
        """How a column of this type is rendered."""
        oid, typmod = self._resolved(oid, typmod)
        delimiter = ","
        item: Kind | None = None
        if element := self._element(oid):
            kind = Kind.ARRAY
            item = self._kind(self._item(element, typmod)[1])
            delimiter = self._types[element].delimiter
            oid, _ = self._resolved(element, -1)
        else:
            kind = self._kind(self._row(oid).kind)
        is_raw = (item or kind) in (Kind.TEXT, Kind.HSTORE) and self._rendering.is_raw(oid)
        return PlanColumn(field, kind, item, delimiter, is_key, is_raw)

    def _resolved(self, oid: int, typmod: int) -> tuple[int, int]:
        """A type without its domains: the base type's OID and type modifier."""
        while (found := self._types.get(oid)) is not None and found.base:
            oid, typmod = found.base, (found.base_typmod if found.base_typmod >= 0 else typmod)
        return oid, typmod

    def _element(self, oid: int) -> int:
        found = self._types.get(oid)
        return found.element if found else 0

    def _item(self, element: int, typmod: int) -> tuple[JsonSchema, Kind]:
        """Schema and kind of the elements of an array whose column has the modifier ``typmod``."""
        oid, typmod = self._resolved(element, typmod)
        # An array of a domain over an array: its elements are array texts, sent as such.
        return (BOOLEAN, Kind.BIT) if (oid, typmod) == (BIT_OID, 1) else self._row(oid).as_item

    def _row(self, oid: int) -> TypeRow:
        if (row := BUILTIN.get(oid)) is not None:
            return row
        found = self._types.get(oid)
        # Anybody may name a type hstore.
        return EXTENSIONS.get(found.name, TEXT) if found is not None and found.extension == found.name else TEXT

    def _kind(self, kind: Kind) -> Kind:
        is_special = kind is Kind.DECIMAL and self._rendering.specials_as_text
        return Kind.DECIMAL_OR_TEXT if is_special else kind


def _is_whole(typmod: int) -> bool:
    # numeric(p, s) keeps (p << 16 | s) + 4 in its type modifier; s has 11 bits with sign since 15.
    return typmod >= 4 and (typmod - 4) & 0x7FF == 0
