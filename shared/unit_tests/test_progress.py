"""The moving line and the summary."""

from __future__ import annotations

import io

from airbyte_pg.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_commits_are_counted_and_drawn_on_a_terminal():
    screen = Terminal()
    progress = Progress(screen)
    progress.take_log("committed stream=public.a b rows=1200 bytes=3000000")
    progress.take_log("committed stream=public.c rows=34 bytes=1")
    progress.take_log("something else rows=1 bytes=2")
    progress.take_acknowledged(99)
    progress.draw()
    assert "1,234 rows" in screen.getvalue()
    assert "public.c" in screen.getvalue()
    assert "3.0 MB" in progress.summary()
    assert progress.summary().endswith(", 2 streams")


def test_moving_line_is_redrawn_a_few_times_a_second_at_most():
    screen = Terminal()
    progress = Progress(screen)
    for _ in range(1000):
        progress.draw()
    assert screen.getvalue().count("rows in") < 10


def test_without_a_terminal_only_messages_are_written():
    screen = io.StringIO()
    progress = Progress(screen)
    progress.draw()
    progress.say("warning: x")
    progress.clear()
    assert screen.getvalue() == "warning: x\n"


def test_rows_of_acknowledged_states_count_where_no_commit_is_logged():
    progress = Progress(io.StringIO())
    progress.take_acknowledged(5)
    assert progress.summary().startswith("5 rows")
