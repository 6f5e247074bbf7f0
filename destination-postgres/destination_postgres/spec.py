"""The ConnectorSpecification, from the settings model; ``make spec`` writes it to spec.json."""

from __future__ import annotations

from typing import Any

from airbyte_pg.spec import connection_specification
from destination_postgres.settings import DestinationSettings


def connector_specification() -> dict[str, Any]:
    """What the SPEC message holds."""
    return {
        "documentationUrl": "https://docs.airbyte.com/integrations/destinations/postgres",
        "supportsIncremental": True,
        "supported_destination_sync_modes": ["overwrite", "append", "append_dedup"],
        "connectionSpecification": connection_specification(DestinationSettings),
    }
