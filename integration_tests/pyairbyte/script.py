"""What a user of PyAirbyte writes. Run by PyAirbyte's own interpreter (.venv/pyairbyte), not by the tests'.

Takes a JSON document on stdin (which connectors, their configurations, streams, where the cache is, what to do) and
prints one as its last line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import airbyte


def main() -> None:
    given = json.load(sys.stdin)
    source = airbyte.get_source("source-postgres-cdc", config=given["source_config"], **given["source"])
    source.check()
    streams = given.get("streams", "*")
    source.select_streams(streams)
    folder = Path(given["folder"])
    cache = airbyte.caches.DuckDBCache(db_path=folder / "cache.duckdb", cache_dir=folder, cleanup=False)
    said: dict[str, Any] = {"available": sorted(source.get_available_streams())}
    if "destination" in given:
        destination = airbyte.get_destination(
            "destination-postgres", config=given["destination_config"], **given["destination"]
        )
        destination.check()
        state_cache = False if given.get("stateless") else cache
        written = destination.write(source, cache=given["cached"] and cache, state_cache=state_cache)
        said["read"] = written.processed_records
    else:
        result = source.read(cache=cache)
        said["read"] = result.processed_records
        said["rows"] = {name: len(list(dataset)) for name, dataset in result.streams.items()}
    print("\n" + json.dumps(said))


main()
