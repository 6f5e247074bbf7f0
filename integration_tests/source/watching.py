"""A witness beside the syncs: every position that the anchor is ever seen at, sampled every few milliseconds."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from integration_tests.source.reading import position_in, slot_of
from integration_tests.support.databases import Database

_SAMPLE_S = 0.003


class AnchorWatch(threading.Thread):
    """From ``with`` on looks at the anchor of ``database``; a move to anything but a given state's position is a fault.

    ``given`` is told of a state before the sync that gets it begins.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(name="anchor watch", daemon=True)
        self._database = database
        self._stop_asked = threading.Event()
        self._allowed: set[int] = set()
        self.seen: list[int] = []
        self.faults: list[str] = []
        self.failure: BaseException | None = None

    def given(self, state: dict[str, Any] | None) -> None:
        """The state that the next sync is started with."""
        if state is not None:
            self._allowed.add(_number(position_in(state)))

    def run(self) -> None:
        try:
            with contextlib.closing(self._database.connect(application_name=self.name)) as session:
                while not self._stop_asked.wait(_SAMPLE_S):
                    self._look(session)
        except BaseException as error:  # noqa: BLE001 - raised by expect_no_fault()
            self.failure = error

    def __enter__(self) -> AnchorWatch:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_asked.set()
        self.join(30)

    def expect_no_fault(self) -> None:
        """The anchor was made once and then stood at nothing but given states' positions, each above the last."""
        assert self.failure is None, self.failure
        assert self.faults == []
        assert self.seen

    def _look(self, session: Any) -> None:
        with session.cursor() as cursor:
            cursor.execute(
                "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s",
                (slot_of(self._database),),
            )
            found = cursor.fetchone()
        # A slot under construction has no position yet.
        if found is None or found[0] is None:
            # As long as nobody has a state, it may be dropped and made again.
            if not self._allowed:
                self.seen.clear()
            return
        position = _number(found[0])
        if self.seen and position == self.seen[-1]:
            return
        if self.seen and (position < self.seen[-1] or position not in self._allowed):
            self.faults.append(f"moved from {self.seen[-1]:X} to {found[0]}, which no state had")
        self.seen.append(position)


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)
