"""Write each connector's spec.json from its settings models; with --check only compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import destination_postgres.spec
import source_postgres_cdc.spec

SPECS = {
    "source-postgres-cdc/source_postgres_cdc/spec.json": source_postgres_cdc.spec.connector_specification,
    "destination-postgres/destination_postgres/spec.json": destination_postgres.spec.connector_specification,
}


def main() -> int:
    """Returns 1 when --check finds a file that is not what the models say."""
    root = Path(__file__).parent.parent
    stale = []
    for name, build in SPECS.items():
        path = root / name
        text = json.dumps(build(), indent=2) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(name)
    for name in stale:
        print(f"{name} is not what the settings say: run make spec", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
