"""When a continuous run says a STATE: soon behind what was sent; where nothing was, rarely, so that the WAL of tables
that are not read is released too."""

from __future__ import annotations

import time

from source_postgres_cdc.replication import ChangeStream

_ANSWER_S = 1.0


class Pace:
    """``seconds``: between two STATEs with something new in them; ``idle_s``: without."""

    def __init__(self, seconds: float, idle_s: float) -> None:
        self._seconds = seconds
        self._idle_s = idle_s
        # The first change of a quiet time waits for nobody.
        self._said_at = time.monotonic() - seconds
        self._asked_at = 0.0

    def restart(self) -> None:
        """A STATE has been said, or there was none to say."""
        self._said_at = time.monotonic()
        self._asked_at = 0.0

    def is_due(self, reader: ChangeStream, said: int, *, has_news: bool) -> bool:
        """Whether it is time; where there are no records, the server is asked first how far it has decoded."""
        now = time.monotonic()
        if has_news:
            return now >= self._said_at + self._seconds
        if now < self._said_at + self._idle_s:
            return False
        if not self._asked_at:
            reader.ask()
            self._asked_at = now
            return False
        if reader.position <= said and now < self._asked_at + _ANSWER_S:
            return False
        self.restart()
        return reader.position > said

    def seconds_left(self, *, has_news: bool) -> float:
        """How long nothing is due, if nothing comes."""
        now = time.monotonic()
        if has_news:
            return max(self._said_at + self._seconds - now, 0.0)
        due = self._asked_at + _ANSWER_S if self._asked_at else self._said_at + self._idle_s
        return max(due - now, 0.0)
