"""What a person sees while ``airbyte-pg sync`` runs: messages, one moving line on a terminal, a summary."""

from __future__ import annotations

import re
import shutil
import time
from typing import TextIO

# The destination says this once per stream and flush.
_COMMITTED = re.compile(r"committed stream=(.*) rows=(\d+) bytes=(\d+)")
REDRAW_S = 0.25
# Off a terminal, a run without an end says so often that it goes on.
REPORT_S = 60.0
_CLEAR = "\r\x1b[K"


class Progress:
    """Counts what was committed and draws it on ``screen`` when that is a terminal."""

    def __init__(self, screen: TextIO) -> None:
        self._screen = screen
        self._moving = screen.isatty()
        self._drawn_at = 0.0
        self._start = time.monotonic()
        self._streams: set[str] = set()
        self._current = ""
        self._rows = 0
        self._bytes = 0
        self._acknowledged = 0
        self._acknowledged_at = self._reported_at = self._start
        self._reported_rows = 0

    def start(self) -> None:
        """The clock of the rates starts now."""
        self._start = time.monotonic()

    def take_log(self, text: str) -> None:
        """Count what a log message of the destination says was committed."""
        found = _COMMITTED.match(text)
        if found:
            self._current = found[1]
            self._streams.add(found[1])
            self._rows += int(found[2])
            self._bytes += int(found[3])

    def take_acknowledged(self, rows: int) -> None:
        """Count the rows of a returned STATE: all there is to go by when a destination logs no commits."""
        self._acknowledged += rows
        self._acknowledged_at = time.monotonic()

    def say(self, text: str) -> None:
        """Print a message of its own line."""
        self._screen.write((_CLEAR if self._moving else "") + text.rstrip("\n") + "\n")
        self._drawn_at = 0.0
        self._screen.flush()

    def draw(self) -> None:
        """Draw the moving line, a few times a second at most; nothing off a terminal."""
        now = time.monotonic()
        if not self._moving or now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = now
        line = f"{self._figures()}  {self._current}"
        self._screen.write(_CLEAR + line[: shutil.get_terminal_size().columns - 1])
        self._screen.flush()

    def report(self) -> None:
        """Off a terminal, print a line at a low rate: what was committed since the last one."""
        now = time.monotonic()
        if self._moving or now - self._reported_at < REPORT_S:
            return
        rows = self._rows or self._acknowledged
        self.say(
            f"running: {rows - self._reported_rows:,} rows in {now - self._reported_at:.0f} s; "
            f"last state {now - self._acknowledged_at:.0f} s ago"
        )
        self._reported_at, self._reported_rows = now, rows

    def clear(self) -> None:
        """Take the moving line away."""
        if self._moving:
            self._screen.write(_CLEAR)
            self._screen.flush()

    def summary(self) -> str:
        """One line on all that was committed."""
        streams = f", {len(self._streams)} stream{'s' * (len(self._streams) != 1)}" if self._streams else ""
        return self._figures() + streams

    def _figures(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-3)
        rows = self._rows or self._acknowledged
        size = f", {self._bytes / 1e6:,.1f} MB ({self._bytes / 1e6 / seconds:,.1f} MB/s)" if self._bytes else ""
        return f"{rows:,} rows in {seconds:.1f} s ({rows / seconds:,.0f} rows/s){size}"
