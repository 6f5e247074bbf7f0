"""How a sync begins, by mode, ids and what was left (reference 2.7 and the design's rule for literal overwrite)."""

from __future__ import annotations

from typing import Any

import pytest

from airbyte_pg.catalog import AirbyteStream, ConfiguredStream
from airbyte_pg.errors import ConfigError
from destination_postgres.ledger import Entry, Opening, histories, open_generation
from destination_postgres.streams import Layout, StreamPlan, plan_streams

NEW = Entry()
KEEP, TYPED, RAW_ONLY = Layout(), Layout("typed"), Layout(raw_only=True)


def plan(
    mode: str, generation: int | None, minimum: int | None, *, resumable: bool = False, layout: Layout = KEEP
) -> StreamPlan:
    stream = AirbyteStream("s", json_schema={"properties": {"id": {"type": "integer"}}}, is_resumable=resumable)
    more: dict[str, Any] = {"destination_sync_mode": mode, "primary_key": [["id"]]}
    ids: dict[str, Any] = {"generation_id": generation, "minimum_generation_id": minimum}
    return plan_streams([ConfiguredStream(stream, **more, **ids)], "public", "airbyte_internal", {}, layout)[0]


@pytest.mark.parametrize("mode", ["append", "append_dedup"])
@pytest.mark.parametrize(
    ("generation", "minimum", "entry", "filled", "wanted"),
    [
        # Normal syncs and merge refreshes keep everything.
        (1, 0, NEW, True, Opening(1)),
        (2, 0, Entry(complete=1), True, Opening(2)),
        (None, None, NEW, True, Opening(None)),
        # A truncate refresh is built aside if there is something to replace, else in place.
        (2, 2, Entry(complete=1), True, Opening(2, building=True, aside=True, discard=True)),
        (2, 2, NEW, False, Opening(2, building=True, discard=True)),
        # A resumed one goes on where it was.
        (2, 2, Entry(1, building=2, aside=True), True, Opening(2, building=True, aside=True)),
        (2, 2, Entry(None, building=2), True, Opening(2, building=True)),
        # A later one throws away what the broken one left.
        (3, 3, Entry(1, building=2, aside=True), True, Opening(3, building=True, aside=True, discard=True)),
        (3, 3, Entry(None, building=2), True, Opening(3, building=True, aside=True, discard=True)),
        # A cancelled one, followed by a normal sync, loses nothing.
        (2, 0, Entry(1, building=2, aside=True), True, Opening(2, adopt=True)),
        (2, 0, Entry(None, building=2), True, Opening(2)),
        # PyAirbyte always says 1/1. A number that we made up ourselves is no generation of a platform's.
        (1, 1, Entry(complete=1), True, Opening(1)),
        (1, 1, Entry(complete=1, is_made_up=True), True, Opening(1, building=True, aside=True, discard=True)),
    ],
)
def test_append_modes(
    mode: str, generation: int | None, minimum: int | None, entry: Entry, filled: bool, wanted: Opening
):
    assert open_generation(plan(mode, generation, minimum), entry, filled=filled) == wanted


@pytest.mark.parametrize(
    ("generation", "resumable", "entry", "filled", "wanted"),
    [
        (1, False, NEW, False, Opening(1, building=True, discard=True)),
        (1, False, NEW, True, Opening(1, building=True, aside=True, discard=True)),
        # A generation that was complete is replaced, be its number the same.
        (1, False, Entry(complete=1), True, Opening(1, building=True, aside=True, discard=True)),
        (1, True, Entry(complete=1), True, Opening(1, building=True, aside=True, discard=True)),
        (1, False, Entry(complete=1), False, Opening(1, building=True, discard=True)),
        # One that was not: a stream that cannot be resumed begins anew.
        (2, False, Entry(1, building=2, aside=True), True, Opening(2, building=True, aside=True, discard=True)),
        (2, False, Entry(None, building=2), True, Opening(2, building=True, aside=True, discard=True)),
        (2, True, Entry(1, building=2, aside=True, told=True), True, Opening(2, building=True, aside=True)),
        (2, True, Entry(None, building=2, told=True), True, Opening(2, building=True)),
        # … and only if its source has said how far it was: else it begins anew.
        (2, True, Entry(1, building=2, aside=True), True, Opening(2, building=True, aside=True, discard=True)),
        (
            2,
            False,
            Entry(1, building=2, aside=True, told=True),
            True,
            Opening(2, building=True, aside=True, discard=True),
        ),
        # Without ids it is always a fresh one.
        (None, False, NEW, False, Opening(1, building=True, discard=True)),
        (None, True, Entry(4, building=5, aside=True), True, Opening(6, building=True, aside=True, discard=True)),
        (None, False, Entry(complete=4), True, Opening(5, building=True, aside=True, discard=True)),
    ],
)
@pytest.mark.parametrize("has_minimum", [True, False])
def test_overwrite(
    generation: int | None, resumable: bool, entry: Entry, filled: bool, wanted: Opening, has_minimum: bool
):
    # Runners that know no refreshes leave the minimum at 0; the mode says enough.
    minimum = generation if has_minimum or generation is None else 0
    overwrite = plan("overwrite", generation, minimum, resumable=resumable)
    assert open_generation(overwrite, entry, filled=filled) == wanted


def test_hybrid_refreshes_are_refused():
    with pytest.raises(ConfigError, match="minimum_generation_id 1 with generation_id 2"):
        plan("append", 2, 1)


REPLACED = Opening(2, building=True, aside=True, discard=True)
RESUMED = Opening(2, building=True, aside=True)
IN_PLACE = Opening(2, building=True, discard=True)


@pytest.mark.parametrize(
    ("layout", "entry", "opening", "wanted"),
    [
        (KEEP, NEW, Opening(1), ("whole", None)),
        (TYPED, NEW, Opening(1), ("partial", None)),
        (RAW_ONLY, NEW, Opening(1), ("untyped", None)),
        # What once is not whole does not become so by what is added.
        (KEEP, Entry(history="partial"), Opening(1), ("partial", None)),
        (TYPED, Entry(history="whole"), Opening(1), ("partial", None)),
        (RAW_ONLY, Entry(history="partial"), Opening(1), ("untyped", None)),
        # But by what replaces it: the visible table keeps its own until then.
        (KEEP, Entry(history="partial"), REPLACED, ("partial", "whole")),
        (KEEP, Entry(history="untyped"), REPLACED, ("untyped", "whole")),
        (KEEP, Entry(history="untyped", building_history="whole"), RESUMED, ("untyped", "whole")),
        (KEEP, Entry(history="whole", building_history="partial"), RESUMED, ("whole", "partial")),
        (KEEP, Entry(history="untyped"), IN_PLACE, ("whole", None)),
        (KEEP, Entry(history="whole", building_history="partial"), Opening(2, adopt=True), ("partial", None)),
        # What was not typed is typed behind it.
        (KEEP, Entry(history="untyped"), Opening(1), ("untyped", None)),
        (KEEP, Entry(history="whole", building_history="untyped"), RESUMED, ("whole", "untyped")),
        (KEEP, Entry(history="whole", building_history="untyped"), Opening(2, adopt=True), ("untyped", None)),
    ],
)
def test_what_the_raw_table_holds(layout: Layout, entry: Entry, opening: Opening, wanted: tuple[Any, Any]):
    assert histories(plan("append", 2, 0, layout=layout), entry, opening) == wanted
