"""The ConnectorSpecification, from the settings models; ``make spec`` writes it to spec.json."""

from __future__ import annotations

from typing import Any

from airbyte_pg.spec import Group, connection_specification
from source_postgres_cdc.settings import SourceSettings

# As Airbyte's own form has them; ours follow theirs.
GROUPS = (
    Group("db", ("host", "port", "database", "schemas", "schema", "tables")),
    Group("auth", ("username", "password", "entra_service_principal_auth", "entra_tenant_id", "entra_client_id")),
    Group("security", ("ssl", "ssl_mode", "tunnel_method"), title="Security"),
    Group(
        "advanced",
        (
            "replication_method",
            "initial_load",
            "create_if_missing",
            "failover",
            "special_values",
            "schema_change",
            "truncate_handling",
            "emit_position",
            "run_mode",
            "max_run_seconds",
            "acknowledge_from_state_file",
            "acknowledge_seconds",
            "state_type",
            "jdbc_url_params",
        ),
        title="Advanced",
    ),
    Group(
        "performance",
        (
            "max_db_connections",
            "transport",
            "sync_checkpoint_seconds",
            "checkpoint_target_interval_seconds",
            "sync_checkpoint_records",
            "snapshot_drain_seconds",
            "snapshot_part_pages",
            "check_privileges",
        ),
        title="Performance",
    ),
)


def connector_specification() -> dict[str, Any]:
    """What the SPEC message holds."""
    return {
        "documentationUrl": "https://docs.airbyte.com/integrations/sources/postgres",
        "connectionSpecification": connection_specification(SourceSettings, GROUPS),
        "supported_destination_sync_modes": [],
    }
