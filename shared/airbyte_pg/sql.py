"""The few SQL composables that both connectors need; names are always quoted by psycopg2."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg2 import sql


def name(identifier: str) -> sql.Identifier:
    """A quoted identifier."""
    return sql.Identifier(identifier)


def table(schema: str, relation: str) -> sql.Identifier:
    """A quoted, qualified name."""
    return sql.Identifier(schema, relation)


def names(identifiers: Iterable[str]) -> sql.Composed:
    """Quoted identifiers, separated by commas."""
    return sql.SQL(", ").join(map(sql.Identifier, identifiers))


def literal(value: object) -> sql.Literal[object]:
    """A quoted value."""
    return sql.Literal(value)


def text(composable: sql.Composable, connection: object) -> str:
    """``composable`` as the SQL text that a user can run."""
    return composable.as_string(connection)  # type: ignore[arg-type]
