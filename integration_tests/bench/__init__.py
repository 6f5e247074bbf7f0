"""Throughput of the connectors next to PostgreSQL's own tools. Reports; asserts nothing."""
