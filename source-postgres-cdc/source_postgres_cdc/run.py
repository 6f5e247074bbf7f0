"""The console entry of source-postgres-cdc."""


def main() -> None:
    """Placeholder until the connector lands."""
    raise SystemExit("source-postgres-cdc: no command yet")
