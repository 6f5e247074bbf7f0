"""The console entry of destination-postgres."""


def main() -> None:
    """Placeholder until the connector lands."""
    raise SystemExit("destination-postgres: no command yet")
