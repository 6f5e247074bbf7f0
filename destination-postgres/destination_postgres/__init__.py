"""destination-postgres: Airbyte destination: raw and typed tables in PostgreSQL."""

__version__ = "0.1.0"
