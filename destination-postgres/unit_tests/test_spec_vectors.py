"""Airbyte's own specifications, of both generations: every field is in ours, every configuration is accepted.

The files are not part of this repository (../shared/vectors beside it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from airbyte_pg.settings import parse_settings
from destination_postgres.settings import DestinationSettings
from destination_postgres.spec import connector_specification

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "airbyte-destination" / "spec"

pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason="Airbyte's test vectors are not beside the repository")

SECOND = (
    "destination-postgres-2.4.0-oss-spec.json",
    "destination-postgres-2.4.3plus-oss-spec.reconstructed.json",
    "strict-encrypt-2.4.0/expected_spec.json",
)
THIRD = ("destination-postgres-3.x-expected-spec-oss.json", "destination-postgres-3.x-expected-spec-cloud.json")
# Deliberate differences (docs/types.md): what of a field -> theirs, ours; of what is not named here nothing differs.
UNCONSTRAINED: Mapping[str, tuple[object, object]] = {"unconstrained_number.default": (False, True)}
DIFFERENCES: Mapping[str, Mapping[str, tuple[object, object]]] = {
    "destination-postgres-2.4.3plus-oss-spec.reconstructed.json": UNCONSTRAINED,
    # Hidden there, and always on; 2.x's form has it switched off, and there is one form here.
    "destination-postgres-3.x-expected-spec-cloud.json": {"ssl.default": (True, False)},
}
Json = Mapping[str, Any]
COMPARED = ("type", "airbyte_secret", "multiline", "default", "minimum", "maximum")


def specification(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return found


def values(shown: Json) -> list[object] | None:
    """What a field may be: a constant is said in one way by 2.x, in another by 3.x."""
    return [shown["const"]] if "const" in shown else shown.get("enum")


def variants(shown: Json) -> dict[str, Json]:
    """The schemas of a oneOf by the value that tells them apart."""
    return {
        str(chosen[0]): each
        for each in shown.get("oneOf", [])
        for chosen in [values(each["properties"][each["required"][0]])]
        if chosen
    }


def differences(theirs: Json, ours: Json, place: str = "") -> Iterator[tuple[str, tuple[object, object]]]:
    """What theirs says of its fields and ours does not, and what ours asks for and theirs does not."""
    asked = set(ours.get("required", [])) - set(theirs.get("required", []))
    if asked:
        yield f"{place}required", (None, sorted(asked))
    for name, shown in theirs["properties"].items():
        found = ours["properties"].get(name)
        if found is None:
            yield f"{place}{name}", ("there", "missing")
            continue
        yield from (
            (f"{place}{name}.{word}", (shown[word], found.get(word)))
            for word in COMPARED
            if word in shown and shown[word] != found.get(word)
        )
        if values(shown) != values(found):
            yield f"{place}{name}.values", (values(shown), values(found))
        for chosen, variant in variants(shown).items():
            yield from differences(variant, variants(found)[chosen], f"{place}{name}.{chosen}.")


@pytest.mark.parametrize("name", [*SECOND, *THIRD])
def test_every_field_is_in_our_specification(name: str):
    theirs, ours = specification(name), connector_specification()
    found = dict(differences(theirs["connectionSpecification"], ours["connectionSpecification"]))
    assert found == DIFFERENCES.get(name, {})
    # Of what is said besides the fields only two switches are left out, of a step that Airbyte no longer has.
    said = {key: value for key, value in theirs.items() if key != "connectionSpecification"}
    assert {key for key in said if ours.get(key) != said[key]} == {"supportsNormalization", "supportsDBT"}


def example(name: str, shown: Json) -> object:
    """A value of a field without variants."""
    if "enum" in shown or "const" in shown:
        return (values(shown) or [None])[-1]
    if name == "jdbc_url_params":
        return "connectTimeout=30"
    return {"string": f"some {name}", "integer": 5432, "boolean": True}[shown["type"]]


def filled(schema: Json, *, whole: bool) -> Iterator[dict[str, Any]]:
    """Configurations that a schema takes: with what is required alone, or with every field; each variant once."""
    required = set(schema["required"])
    plain = {
        name: example(name, shown)
        for name, shown in schema["properties"].items()
        if "oneOf" not in shown and (whole or name in required)
    }
    yield plain
    for name, shown in schema["properties"].items():
        for variant in shown.get("oneOf", []):
            yield from ({**plain, name: inner} for inner in filled(variant, whole=whole))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", [*SECOND, *THIRD])
def test_every_configuration_that_they_take_is_taken(name: str, whole: bool):
    schema = specification(name)["connectionSpecification"]
    for config in filled(schema, whole=whole):
        jsonschema.validate(config, schema)
        settings = parse_settings(config, DestinationSettings)
        assert (
            settings.model_dump(by_alias=True, include={*config, "schemas"}, mode="json")["schema"] == config["schema"]
        )
        jsonschema.validate(config, connector_specification()["connectionSpecification"])


def test_the_variants_are_all_tried():
    configs = list(filled(specification(SECOND[0])["connectionSpecification"], whole=True))
    assert [config["ssl_mode"]["mode"] for config in configs if "ssl_mode" in config] == [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ]
    assert len([config for config in configs if "tunnel_method" in config]) == 3
