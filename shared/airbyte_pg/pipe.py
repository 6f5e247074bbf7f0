"""Child processes that never outlive this one, and the pipe that joins two of them.

The rows go from the source to the destination through the kernel alone: this process only reads what the destination
answers. It is single-threaded and blocks in one place, ``_wait``; signals are noted and acted upon there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType

from airbyte_pg.errors import ConfigError

# A connector that is told to stop has this long (a rollback, a statement that must return), then it is killed. Longer
# than the connectors' own cli.STOP_GRACE_S, after which they end by themselves.
STOP_GRACE_S = 10.0
# When the source alone was told to stop: for its last words, and the destination's flush of what it has.
DRAIN_S = 60.0
# A pipe of Linux's default 64 KiB makes the two sides take turns: 0.75 GB/s against 2.1 GB/s with 1 MiB, the most
# that an ordinary user may ask for. (Counting the bytes with splice in between costs another 3 %.)
PIPE_BYTES = 1_048_576
READ_BYTES = 1_048_576
TICK_S = 0.25

_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

Process = subprocess.Popen[bytes]


class Processes:
    """The children of one run. Leaving the ``with`` block, by whatever way, ends those that still run.

    After SIGINT, SIGTERM or SIGHUP the children get SIGTERM and their last words are still read; after the grace, or
    at a second Ctrl-C, SIGKILL. ``stopped_by`` is then the signal. Of two that were joined to drain, the first is told
    alone, and the second comes to its end by itself, within DRAIN_S. When this process is itself killed, the kernel
    kills the children (Linux; elsewhere they end by their closed pipes).
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self._interrupts = 0
        self._kill_at: float | None = None
        self._children: list[Process] = []
        self._ended_by_us: set[int] = set()
        self._first: Process | None = None
        self._drained_by: float | None = None

    def __enter__(self) -> Processes:
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)
        # The interpreter writes a byte there at every signal, so that a wait ends: SIGCHLD included.
        self._former_waker = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._former = {signum: signal.signal(signum, self._note) for signum in (*_STOPS, signal.SIGCHLD)}
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        while any(child.poll() is None for child in self._children):
            self._wait(TICK_S)
        for child in self._children:
            if child.stdout is not None:
                child.stdout.close()
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._former_waker)
        os.close(self._woken)
        os.close(self._waker)

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start ``command``; its stderr is ours, its environment too, with ``environment`` added.

        Raises ConfigError when it cannot be started.
        """
        parent = os.getpid()

        def die_with_parent() -> None:
            if _libc is not None:
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)

        try:
            # A session of its own: Ctrl-C at the terminal reaches us alone, and a wrapper is ended with what it runs.
            child = subprocess.Popen(
                list(command),
                stdin=stdin,
                stdout=stdout,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise ConfigError(f"The command {command[0]} cannot be started: {error.strerror}.") from error
        self._children.append(child)
        return child

    def start_joined(
        self,
        source: Sequence[str],
        destination: Sequence[str],
        environment: Mapping[str, str],
        *,
        drains: bool = False,
    ) -> tuple[Process, Process]:
        """Start both, the output of the first as the input of the second; the second's output is for ``lines``.

        ``drains``: after a signal only the first is told to stop.
        """
        reading, writing = os.pipe()
        try:
            if sys.platform == "linux":
                _enlarge(writing)
            receiver = self.start(destination, stdin=reading, stdout=subprocess.PIPE, environment=environment)
            sender = self.start(source, stdout=writing, environment=environment)
        finally:
            # Our copies would keep the pipe open after its real owner has died.
            os.close(reading)
            os.close(writing)
        self._first = sender if drains else None
        return sender, receiver

    def pause(self, seconds: float) -> bool:
        """Wait, and return whether that was done: a signal that stops ends it."""
        until = time.monotonic() + seconds
        while self.stopped_by is None and (left := until - time.monotonic()) > 0:
            self._wait(min(left, TICK_S))
        return self.stopped_by is None

    def renew(self) -> None:
        """Forget the children, which have ended, so that others can take their places."""
        for child in self._children:
            if child.stdout is not None:
                child.stdout.close()
        self._children.clear()
        self._ended_by_us.clear()
        self._first = self._drained_by = self._kill_at = None

    def lines(self, child: Process) -> Iterator[list[bytes]]:
        """What ``child`` prints, in batches of complete lines, to its end; an empty batch when nothing came for a
        tick. A last line without its line feed is not given: it was cut."""
        assert child.stdout is not None  # noqa: S101 - the type cannot say that it was started with PIPE
        fd, begun = child.stdout.fileno(), list[bytes]()
        while True:
            if not self._wait(TICK_S, fd):
                # A process that it left behind may hold the pipe open; what is read is all there will be.
                if child.poll() is not None and not self._wait(0, fd):
                    return
                yield []
                continue
            chunk = os.read(fd, READ_BYTES)
            if not chunk:
                return
            begun.append(chunk)
            # A line of many megabytes comes in many pieces: joined once, when its end is there.
            if b"\n" in chunk:
                *whole, rest = b"".join(begun).split(b"\n")
                begun = [rest]
                yield whole

    def wait_for(self, child: Process, grace_s: float) -> int:
        """The exit code of ``child`` (128 + n for signal n), which is told to stop after ``grace_s``."""
        deadline = time.monotonic() + grace_s
        while child.poll() is None:
            self._wait(TICK_S)
            if time.monotonic() > deadline:
                self.stop()
        return exit_code(child)

    def was_ended_by_us(self, child: Process) -> bool:
        """Whether ``child`` was still running when we told it to stop."""
        return child.pid in self._ended_by_us

    def stop(self) -> None:
        """Tell every child that runs to stop; those that do not within the grace are killed."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + STOP_GRACE_S
            self._signal_all(signal.SIGTERM)

    def _wait(self, timeout_s: float, fd: int | None = None) -> bool:
        """Wait for a signal, or until ``fd`` can be read (then true). Acts on signals and on the end of the grace."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if fd is not None:
                selector.register(fd, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(timeout_s)}
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if self.stopped_by is not None:
            self._stop_in_order(self._first)
        if self._interrupts > 1 or (self._kill_at is not None and time.monotonic() > self._kill_at):
            self._signal_all(signal.SIGKILL)
        return fd in ready

    def _stop_in_order(self, first: Process | None) -> None:
        if first is None or (self._drained_by is not None and time.monotonic() > self._drained_by):
            self.stop()
        elif self._drained_by is None:
            self._drained_by = time.monotonic() + DRAIN_S
            self._signal([first], signal.SIGTERM)

    def _signal_all(self, signum: signal.Signals) -> None:
        self._signal(self._children, signum)

    def _signal(self, children: Iterable[Process], signum: signal.Signals) -> None:
        for child in children:
            if child.poll() is None:
                self._ended_by_us.add(child.pid)
                # The whole group: a wrapper such as `sh -c` is ended with the connector that it started.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGCHLD:
            self._interrupts += signum == signal.SIGINT
            self.stopped_by = self.stopped_by or signum


def exit_code(child: Process) -> int:
    """The exit code of a child that has ended, 128 + n where signal n ended it."""
    code = child.returncode
    return 128 - code if code < 0 else code


def _enlarge(fd: int) -> None:
    # Refused where the user's pipes already take much: then it is only slower.
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
