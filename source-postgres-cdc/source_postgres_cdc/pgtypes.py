"""ONE table: PostgreSQL type -> JSON schema and kind of value (reference/source.md section 3).

Whatever is not named here is sent as the text that PostgreSQL prints, with schema string. docs/types.md is generated
from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from airbyte_pg.errors import ConfigError
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


class TypeRow(msgspec.Struct, frozen=True):
    """How values of a type are sent, and as elements of an array where that differs.

    ``decision``: where Airbyte's own connector gives another value, or one for the snapshot and one for the stream.
    """

    name: str
    schema: JsonSchema
    kind: Kind
    item_schema: JsonSchema | None = None
    item_kind: Kind | None = None
    decision: str = ""

    @property
    def as_item(self) -> tuple[JsonSchema, Kind]:
        """Schema and kind of an element of an array."""
        return self.item_schema or self.schema, self.item_kind or self.kind


def _text(name: str, decision: str = "") -> TypeRow:
    return TypeRow(name, STRING, Kind.TEXT, decision=decision)


def _plain(name: str, decision: str = "") -> TypeRow:
    """A type that is printed without a character that JSON escapes, whatever the value."""
    return TypeRow(name, STRING, Kind.PLAIN, decision=decision)


_AS_PRINTED = "`(3,7)`; Airbyte's goes through doubles: `(3.0,7.0)`"
_INFINITE = "`infinity` and `-infinity`; Airbyte: `Infinity`, from 3.8 on null"

# Type OIDs are fixed for built-in types (src/include/catalog/pg_type.dat).
NUMERIC_OID = 1700
_MOST_DIGITS = 18
BIT_OID = 1560
CHAR_OID = 18
BUILTIN: Mapping[int, TypeRow] = {
    21: TypeRow("smallint", INTEGER, Kind.INTEGER),
    23: TypeRow("integer", INTEGER, Kind.INTEGER),
    20: TypeRow("bigint", INTEGER, Kind.INTEGER),
    26: TypeRow("oid", INTEGER, Kind.INTEGER, item_schema=NUMBER),
    NUMERIC_OID: TypeRow(
        "numeric",
        NUMBER,
        Kind.DECIMAL,
        decision="every digit; Airbyte's stream goes through a double. Of scale 0 and up to 18 digits: `integer`, but "
        "as an element; Airbyte's of more digits, too, though destinations have 64 bits for it",
    ),
    700: TypeRow("real", NUMBER, Kind.DECIMAL),
    701: TypeRow("double precision", NUMBER, Kind.DECIMAL),
    790: TypeRow("money", NUMBER, Kind.MONEY, decision="every amount; Airbyte's is null beyond 999,999,999,999,999"),
    16: TypeRow("boolean", BOOLEAN, Kind.BOOLEAN),
    25: _text("text"),
    1043: _text("character varying"),
    1042: _text("character", "padded to its length"),
    19: _text("name"),
    CHAR_OID: _text('"char"'),
    17: TypeRow("bytea", STRING, Kind.BYTEA, item_kind=Kind.BASE64, decision="both as Airbyte's"),
    2950: _plain("uuid"),
    114: _text("json", "as it was written"),
    3802: _text("jsonb"),
    142: _text("xml"),
    4072: _text("jsonpath"),
    1082: TypeRow("date", DATE, Kind.PLAIN, decision=_INFINITE),
    1083: TypeRow("time", TIME, Kind.PLAIN, decision="`24:00:00` as such; Airbyte: `23:59:59.999999999`"),
    1266: TypeRow(
        "time with time zone", TIMETZ, Kind.TIMETZ, decision="keeps its offset; Airbyte's stream converts it to UTC"
    ),
    1114: TypeRow("timestamp", TIMESTAMP, Kind.TIMESTAMP, decision=_INFINITE),
    1184: TypeRow("timestamp with time zone", TIMESTAMPTZ, Kind.TIMESTAMPTZ, decision=_INFINITE),
    1186: _plain("interval", "as printed; Airbyte's stream drops fractions of a second"),
    BIT_OID: _plain("bit", "bit(1) as an element: `boolean`; of Airbyte's longer elements all become false"),
    1562: _plain("bit varying", "as an element, too; Airbyte's become false"),
    869: _plain("inet"),
    650: _plain("cidr"),
    829: _plain("macaddr"),
    774: _plain("macaddr8"),
    600: _plain("point", _AS_PRINTED),
    628: _plain("line", _AS_PRINTED),
    601: _plain("lseg", _AS_PRINTED),
    603: _plain("box", _AS_PRINTED),
    602: _plain("path", _AS_PRINTED),
    604: _plain("polygon", _AS_PRINTED),
    718: _plain("circle", _AS_PRINTED),
    3904: _plain("int4range"),
    3926: _plain("int8range"),
    3906: _plain("numrange"),
    3912: _text("daterange"),
    3908: _text("tsrange"),
    3910: _text("tstzrange"),
    4451: _plain("int4multirange"),
    4536: _plain("int8multirange"),
    4532: _plain("nummultirange"),
    4535: _text("datemultirange"),
    4533: _text("tsmultirange"),
    4534: _text("tstzmultirange"),
    3614: _text("tsvector"),
    3615: _text("tsquery"),
    3220: _plain("pg_lsn"),
    5069: _plain("xid8"),
    5038: _plain("pg_snapshot"),
    2970: _plain("txid_snapshot"),
    27: _plain("tid"),
    28: _plain("xid"),
    29: _plain("cid"),
    22: _plain("int2vector"),
    30: _plain("oidvector"),
}

# Types of extensions have other OIDs in each database.
EXTENSIONS: Mapping[str, TypeRow] = {
    "hstore": TypeRow("hstore", STRING, Kind.HSTORE, decision="as Airbyte's"),
}
ANY_OTHER = _text("any other")


# Types whose modifier is a length, or a number of digits behind the point, with the greatest where it is not said.
_VARCHAR, _VARBIT, _TEXT, _NUMERIC = 1043, 1562, 25, 1700
_PRECISIONS = dict.fromkeys((1083, 1114, 1184, 1266), 6)  # time, timestamp, both with time zone
# int2, int4, int8: a whole number is the same text in each.
_WHOLE = (21, 23, 20)


def keeps_values(before: tuple[int, int | None], now: tuple[int, int | None]) -> bool:
    """Whether a change of a column's type (OID, modifier; None: not known) has left each value the text that it was."""
    (old_type, old), (new_type, new) = before, now
    if old_type in _WHOLE and new_type in _WHOLE:
        return _WHOLE.index(old_type) <= _WHOLE.index(new_type)
    if old_type != new_type:
        return old_type == _VARCHAR and new_type == _TEXT
    if old is None or new is None or old == new:
        return True
    if old_type in (_VARCHAR, _VARBIT):
        return new < 0 or 0 <= old <= new
    if old_type in _PRECISIONS:
        most = _PRECISIONS[old_type]
        return (most if new < 0 else new) >= (most if old < 0 else old)
    if old_type == _NUMERIC and old >= 0:
        # Precision in the upper half, scale in the lower, both 4 too large.
        (precision, scale), (new_precision, new_scale) = (divmod(each - 4, 1 << 16) for each in (old, new))
        return new < 0 or (scale == new_scale and precision <= new_precision)
    return False


class Rendering(msgspec.Struct, frozen=True):
    """What of the rendering is not the types' own.

    ``specials_as_text``: NaN and infinite numbers are sent as strings. ``encoding``: the database's. ``money_digits``:
    how many digits of money stand behind the point.
    """

    specials_as_text: bool
    encoding: str
    version: int
    money_digits: int

    @property
    def has_encoding(self) -> bool:
        """Whether the database knows what its bytes stand for."""
        return self.encoding != "SQL_ASCII"

    def is_raw(self, oid: int) -> bool:
        """Whether texts of the type ``oid`` may be bytes that are no UTF-8: nothing converts or checks them."""
        # Before 16 a "char" above 127 is printed as it is, within a composite or a range, too.
        has_char = oid == CHAR_OID or oid not in BUILTIN
        return not self.has_encoding or (has_char and self.version < 160000)


class PgType(msgspec.Struct, frozen=True):
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
        is_of_extension = found is not None and found.extension == found.name
        return EXTENSIONS.get(found.name, ANY_OTHER) if found is not None and is_of_extension else ANY_OTHER

    def _kind(self, kind: Kind) -> Kind:
        if kind is Kind.MONEY:
            digits = self._rendering.money_digits
            if digits not in _MONEY:
                raise ConfigError(
                    f"Money of this server has {digits} digits behind the point (lc_monetary), which is not supported.",
                    remedy="Leave the tables with columns of the type money out.",
                )
            return _MONEY[digits]
        is_special = kind is Kind.DECIMAL and self._rendering.specials_as_text
        return Kind.DECIMAL_OR_TEXT if is_special else kind


_MONEY = {0: Kind.MONEY_WHOLE, 2: Kind.MONEY, 3: Kind.MONEY_MILLE}


def _is_whole(typmod: int) -> bool:
    """Whether numeric of this modifier is a whole number that a 64-bit integer, the destination's column, can hold."""
    # numeric(p, s) keeps (p << 16 | s) + 4 in its type modifier; s has 11 bits with sign since 15.
    return typmod >= 4 and (typmod - 4) & 0x7FF == 0 and (typmod - 4) >> 16 <= _MOST_DIGITS
