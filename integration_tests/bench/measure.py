"""Run a pipe of processes and say what it took: wall time, CPU and peak memory of each process, CPU of the servers."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from integration_tests.support.connector import environment_of


@dataclass(frozen=True)
class Measured:
    """One run: seconds of wall time, CPU seconds and peak resident MB of each process, CPU seconds of the servers."""

    seconds: float
    cpu_s: tuple[float, ...] = ()
    peak_mb: tuple[float, ...] = ()
    server_cpu_s: float = 0.0


def pipe(
    *commands: Sequence[str],
    servers: Sequence[int] = (),
    environment: dict[str, str] | None = None,
    stdin: Path | None = None,
    stdout: Path | None = None,
) -> Measured:
    """Run ``commands`` as a pipe from the file ``stdin``, if any, to the file ``stdout`` or to nowhere.

    ``servers``: the postmasters whose CPU is counted. Raises RuntimeError when a command fails.
    """
    with contextlib.ExitStack() as files:
        source: int | None = files.enter_context(stdin.open("rb")).fileno() if stdin else subprocess.DEVNULL
        sink = files.enter_context(stdout.open("wb")).fileno() if stdout else subprocess.DEVNULL
        server_cpu_s = -sum(map(server_seconds, servers))
        started = time.perf_counter()
        processes: list[subprocess.Popen[bytes]] = []
        for command in commands:
            process = subprocess.Popen(
                command,
                stdin=source,
                stdout=sink if command is commands[-1] else subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment_of(environment),
            )
            source = files.enter_context(process.stdout).fileno() if process.stdout else None
            processes.append(process)
        # What the processes have inherited is theirs alone now, so that the death of one is seen by its neighbours.
        for process in processes:
            if process.stdout:
                process.stdout.close()
        usages = [_ended(process, command[0]) for process, command in zip(processes, commands, strict=True)]
        seconds = time.perf_counter() - started
    return Measured(
        seconds,
        tuple(usage.ru_utime + usage.ru_stime for usage in usages),
        tuple(usage.ru_maxrss / 1024 for usage in usages),
        server_cpu_s + sum(map(server_seconds, servers)),
    )


def server_seconds(postmaster: int) -> float:
    """Seconds of CPU of a server so far; of processes that have ended too, once the postmaster has seen it."""
    process = psutil.Process(postmaster)
    children = 0.0
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            children += times.user + times.system
    own = process.cpu_times()
    return float(own.user + own.system + own.children_user + own.children_system + children)


@dataclass(frozen=True)
class Row:
    """One line of the report: ours next to a yardstick, medians over the runs."""

    name: str
    yardstick: str
    rows: int
    size_mb: float
    ours: tuple[Measured, ...]
    theirs: tuple[Measured, ...]

    @property
    def ours_per_s(self) -> float:
        return self.rows / statistics.median(run.seconds for run in self.ours)

    @property
    def theirs_per_s(self) -> float:
        return self.rows / statistics.median(run.seconds for run in self.theirs)

    @property
    def ratio(self) -> float:
        """Median of the ratios pair by pair: it holds when the machine's speed drifts."""
        return statistics.median(their.seconds / our.seconds for our, their in zip(self.ours, self.theirs, strict=True))

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
                self._us_per_row([run.cpu_s[i] for run in self.ours]) for i in range(len(self.ours[0].cpu_s))
            ],
            "server_cpu_us_per_row": self._us_per_row([run.server_cpu_s for run in self.ours]),
            "yardstick_server_cpu_us_per_row": self._us_per_row([run.server_cpu_s for run in self.theirs]),
            "peak_mb": [round(max(run.peak_mb[i] for run in self.ours)) for i in range(len(self.ours[0].peak_mb))],
            "seconds": [round(run.seconds, 2) for run in self.ours],
            "yardstick_seconds": [round(run.seconds, 2) for run in self.theirs],
        }

    def _us_per_row(self, seconds: Sequence[float]) -> float:
        return round(statistics.median(seconds) / self.rows * 1e6, 2)


def side_by_side(
    name: str,
    yardstick: str,
    rows: int,
    size_mb: float,
    ours: Callable[[], Measured],
    theirs: Callable[[], Measured],
    repeat: int,
) -> Row:
    """Ours and the yardstick in turn, ``repeat`` times each, in one run of the machine."""
    runs = [(ours(), theirs()) for _ in range(repeat)]
    return Row(name, yardstick, rows, size_mb, tuple(run[0] for run in runs), tuple(run[1] for run in runs))


def table(rows: Sequence[Row]) -> str:
    """The report as a Markdown table; the servers' CPU is all servers' together, ours / the yardstick's."""
    lines = [
        "| work | rows/s | MB/s | yardstick | its rows/s | ratio | CPU us/row | servers' CPU us/row | peak MB |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- | --- | --- |",
    ]
    for row in rows:
        shown = row.as_json()
        cpu = " + ".join(map(str, shown["cpu_us_per_row"]))  # type: ignore[call-overload]
        servers = f"{shown['server_cpu_us_per_row']} / {shown['yardstick_server_cpu_us_per_row']}"
        peak = " + ".join(map(str, shown["peak_mb"]))  # type: ignore[call-overload]
        lines.append(
            f"| {row.name} | {row.ours_per_s:,.0f} | {shown['mb_per_s']} | {row.yardstick} "
            f"| {row.theirs_per_s:,.0f} | {row.ratio:.2f} | {cpu} | {servers} | {peak} |"
        )
    return "\n".join(lines)


def _ended(process: subprocess.Popen[bytes], program: str):
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode != 0:
        raise RuntimeError(f"{program} ended with {process.returncode}: {said[-2000:]}")
    return usage
