"""Run a pipe of processes and say what it took: wall time, CPU and peak memory of each process, bytes that came out."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from integration_tests.support.connector import environment_of


@dataclass(frozen=True)
class Measured:
    """One run: seconds of wall time, seconds of CPU and peak resident MB of each process in the pipe."""

    seconds: float
    cpu_s: tuple[float, ...]
    peak_mb: tuple[float, ...]


def pipe(*commands: Sequence[str], environment: dict[str, str] | None = None) -> Measured:
    """Run ``commands`` as a pipe, the last one's output thrown away. Raises RuntimeError when one fails."""
    started = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    source: int | None = subprocess.DEVNULL
    for command in commands:
        is_last = command is commands[-1]
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.DEVNULL if is_last else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment_of(environment),
        )
        if source not in (None, subprocess.DEVNULL):
            os.close(source)
        source = os.dup(process.stdout.fileno()) if process.stdout else None
        if process.stdout:
            process.stdout.close()
        processes.append(process)
    usages = []
    for process, command in zip(processes, commands, strict=True):
        assert process.stderr is not None
        said = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        if process.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said[-2000:]}")
        usages.append(usage)
    return Measured(
        time.perf_counter() - started,
        tuple(usage.ru_utime + usage.ru_stime for usage in usages),
        tuple(usage.ru_maxrss / 1024 for usage in usages),
    )


@dataclass(frozen=True)
class Row:
    """One line of the report: ours next to a yardstick, medians over the runs."""

    name: str
    yardstick: str
    rows: int
    size_mb: float
    ours: tuple[Measured, ...]
    theirs: tuple[float, ...]

    @property
    def ours_per_s(self) -> float:
        return self.rows / statistics.median(run.seconds for run in self.ours)

    @property
    def theirs_per_s(self) -> float:
        return self.rows / statistics.median(self.theirs)

    @property
    def ratio(self) -> float:
        """Median of the ratios pair by pair: it holds when the machine's speed drifts."""
        return statistics.median(their / our.seconds for our, their in zip(self.ours, self.theirs, strict=True))

    def as_json(self) -> dict[str, object]:
        """The figures, raw runs included."""
        return {
            "name": self.name,
            "yardstick": self.yardstick,
            "rows": self.rows,
            "size_mb": round(self.size_mb, 1),
            "rows_per_s": round(self.ours_per_s),
            "mb_per_s": round(self.ours_per_s / self.rows * self.size_mb, 1),
            "yardstick_rows_per_s": round(self.theirs_per_s),
            "ratio": round(self.ratio, 2),
            "cpu_us_per_row": [
                round(statistics.median(run.cpu_s[i] for run in self.ours) / self.rows * 1e6, 2)
                for i in range(len(self.ours[0].cpu_s))
            ],
            "peak_mb": [round(max(run.peak_mb[i] for run in self.ours)) for i in range(len(self.ours[0].peak_mb))],
            "seconds": [round(run.seconds, 2) for run in self.ours],
            "yardstick_seconds": [round(seconds, 2) for seconds in self.theirs],
        }


def side_by_side(
    name: str,
    yardstick: str,
    rows: int,
    size_mb: float,
    ours: Callable[[], Measured],
    theirs: Callable[[], float],
    repeat: int,
) -> Row:
    """Ours and the yardstick in turn, ``repeat`` times each, in one run of the machine."""
    runs = [(ours(), theirs()) for _ in range(repeat)]
    return Row(name, yardstick, rows, size_mb, tuple(run[0] for run in runs), tuple(run[1] for run in runs))


def table(rows: Sequence[Row]) -> str:
    """The report as a Markdown table."""
    lines = [
        "| work | rows/s | MB/s | yardstick | its rows/s | ratio | CPU us/row | peak MB |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        shown = row.as_json()
        cpu = " + ".join(map(str, shown["cpu_us_per_row"]))  # type: ignore[call-overload]
        peak = " + ".join(map(str, shown["peak_mb"]))  # type: ignore[call-overload]
        lines.append(
            f"| {row.name} | {row.ours_per_s:,.0f} | {shown['mb_per_s']} | {row.yardstick} "
            f"| {row.theirs_per_s:,.0f} | {row.ratio:.2f} | {cpu} | {peak} |"
        )
    return "\n".join(lines)
