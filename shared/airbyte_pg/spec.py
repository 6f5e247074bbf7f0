"""A settings model as the connectionSpecification that the platform draws its form from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

# What the platform validates configurations with; pydantic writes 2020-12, of which we use nothing newer.
_DIALECT = "http://json-schema.org/draft-07/schema#"


@dataclass(frozen=True)
class Group:
    """Fields that the form shows together, in their order. ``title``: of the group, where it has one."""

    id: str
    fields: Sequence[str]
    title: str | None = None


def connection_specification(model: type[BaseModel], groups: Sequence[Group] = ()) -> dict[str, Any]:
    """The JSON schema of ``model``: draft-07, no references, properties in the order of ``groups``, else of the model.

    An optional field (``X | None``) is shown as X: the platform leaves it out where it is empty. Keys are the
    fields' aliases. A field that is one of several models, told apart by a constant, is a oneOf; so is a field whose
    ``json_schema_extra`` says ``"is_choice": True``, of its one model. What ``json_schema_extra`` says otherwise wins.

    Raises ValueError where ``groups`` and the model do not have the same fields.
    """
    schema = model.model_json_schema(by_alias=True)
    inlined = _plain(schema, schema.get("$defs", {}))
    properties = inlined.get("properties", {})
    if groups:
        names = [name for group in groups for name in group.fields]
        if sorted(names) != sorted(properties):
            raise ValueError(f"fields in groups or model alone: {sorted({*names} ^ properties.keys())}")
        for group in groups:
            for name in group.fields:
                properties[name]["group"] = group.id
        inlined["properties"] = properties = {name: properties[name] for name in names}
        inlined["groups"] = [{"id": group.id, **({"title": group.title} if group.title else {})} for group in groups]
    _number(properties)
    return {"$schema": _DIALECT, **inlined, "additionalProperties": True}


def _number(properties: Mapping[str, Any]) -> None:
    for order, shown in enumerate(properties.values()):
        shown.setdefault("order", order)


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "oneOf" in node:
        # The pydantic discriminator is OpenAPI's; the platform finds the constant by itself.
        return {
            "type": "object",
            **_plain_rest(node, definitions, "oneOf", "discriminator"),
            "oneOf": [_variant(_plain(each, definitions)) for each in node["oneOf"]],
        }
    if "$ref" in node:
        # What stands beside a reference (title, description, default) is about this use of it.
        target = _plain(definitions[node["$ref"].rpartition("/")[2]], definitions)
        rest = _plain_rest(node, definitions, "$ref", "is_choice")
        if node.get("is_choice"):
            return {"type": "object", **rest, "oneOf": [_variant(target)]}
        return {**target, **rest}
    if "anyOf" in node:
        kinds = [kind for kind in node["anyOf"] if kind != {"type": "null"}]
        if len(kinds) == 1:
            omitted = ["anyOf", *(["default"] if node.get("default", "") is None else [])]
            return {**_plain(kinds[0], definitions), **_plain_rest(node, definitions, *omitted)}
    return _plain_rest(node, definitions, "$defs")


def _plain_rest(node: Mapping[str, Any], definitions: Mapping[str, Any], *omitted: str) -> dict[str, Any]:
    return {key: _plain(value, definitions) for key, value in node.items() if key not in omitted}


def _variant(schema: dict[str, Any]) -> dict[str, Any]:
    """A model as one of a oneOf: its constant comes first, and is required."""
    properties = schema["properties"]
    constants = [name for name, shown in properties.items() if "const" in shown]
    others = [name for name in properties if name not in constants]
    schema["properties"] = properties = {name: properties[name] for name in [*constants, *others]}
    schema["required"] = [*constants, *schema.get("required", [])]
    _number(properties)
    return schema
