"""The logging handler that turns log records into LOG lines and keeps secrets out of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import orjson

from airbyte_pg import messages
from airbyte_pg.lines import LineWriter

_LEVELS = {
    logging.CRITICAL: "FATAL",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARN",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
}
MASK = "****"


class Secrets:
    """The secret strings of a configuration; ``mask`` replaces them in a text."""

    def __init__(self) -> None:
        self._values: list[str] = []

    def add(self, values: Iterable[str]) -> None:
        """Remember ``values``. Very short ones are left alone: masking them would mangle every message."""
        for value in values:
            if len(value) > 2:
                # As it is, as it looks inside a JSON string, and of a long text each line.
                lines = [line for line in value.splitlines() if len(line) > 20 and not line.startswith("-----")]
                self._values.extend({value, orjson.dumps(value).decode()[1:-1], *lines})
        self._values.sort(key=len, reverse=True)

    def mask(self, text: str) -> str:
        """``text`` with every known secret replaced."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text


class LineHandler(logging.Handler):
    """Writes each log record as a LOG line through the one writer of stdout."""

    def __init__(self, lines: LineWriter, secrets: Secrets) -> None:
        super().__init__()
        self._lines = lines
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``; the protocol's level names are used."""
        text = self._secrets.mask(record.getMessage())
        self._lines.emit(messages.log(_LEVELS.get(record.levelno, "INFO"), text))


def install(lines: LineWriter, secrets: Secrets, *, debug: bool) -> None:
    """Send everything that Python logs to ``lines``: INFO and above, DEBUG too with ``debug``."""
    root = logging.getLogger()
    root.handlers[:] = [LineHandler(lines, secrets)]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(capture=True)
