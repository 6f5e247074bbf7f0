"""source-postgres-cdc: Airbyte source: PostgreSQL by logical replication (pgoutput)."""

__version__ = "0.1.0"
