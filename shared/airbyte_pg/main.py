"""The console command ``airbyte-pg``."""


def main() -> None:
    """Placeholder until the runner lands."""
    raise SystemExit("airbyte-pg: no command yet")
