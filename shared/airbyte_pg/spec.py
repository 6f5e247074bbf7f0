"""A settings model as the connectionSpecification that the platform draws its form from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

# What the platform validates configurations with; pydantic writes 2020-12, of which we use nothing newer.
_DIALECT = "http://json-schema.org/draft-07/schema#"


def connection_specification(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of ``model``: draft-07, no references, properties numbered in the model's order.

    An optional field (``X | None``) is shown as X: the platform leaves it out where it is empty. Keys are the
    fields' aliases. What ``json_schema_extra`` of the model or of a field says wins.
    """
    schema = model.model_json_schema(by_alias=True)
    inlined = _plain(schema, schema.get("$defs", {}))
    for order, shown in enumerate(inlined.get("properties", {}).values()):
        shown.setdefault("order", order)
    return {"$schema": _DIALECT, **inlined, "additionalProperties": True}


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "$ref" in node:
        # What stands beside a reference (title, description, default) is about this use of it.
        target = definitions[node["$ref"].rpartition("/")[2]]
        return {**_plain(target, definitions), **_plain(_without(node, "$ref"), definitions)}
    if "anyOf" in node:
        kinds = [kind for kind in node["anyOf"] if kind != {"type": "null"}]
        if len(kinds) == 1:
            rest = _without(node, "anyOf", *(["default"] if node.get("default", "") is None else []))
            return {**_plain(kinds[0], definitions), **_plain(rest, definitions)}
    return {key: _plain(value, definitions) for key, value in node.items() if key != "$defs"}


def _without(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}
