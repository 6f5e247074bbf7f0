"""The ConnectorSpecification, from the settings models; ``make spec`` writes it to spec.json."""

from __future__ import annotations

from typing import Any

from airbyte_pg.spec import connection_specification
from source_postgres_cdc.settings import SourceSettings


def connector_specification() -> dict[str, Any]:
    """What the SPEC message holds."""
    return {
        "documentationUrl": "https://docs.airbyte.com/integrations/sources/postgres",
        "connectionSpecification": {
            **connection_specification(SourceSettings),
            "title": "PostgreSQL (CDC) Source",
        },
        "supported_destination_sync_modes": [],
    }
