"""The part of a page that a tool writes: between two marks, so that people may write the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tools.images import ROOT

START, END = "<!-- generated: make docs -->", "<!-- end of what is generated -->"


def write(page: str, lines: Iterable[str]) -> int:
    """Put ``lines`` into docs/``page``; with --check only compare. The exit code: 1 where they differ."""
    path = ROOT / "docs" / page
    text = path.read_text()
    before, _, rest = text.partition(START)
    made = f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}"
    if "--check" not in sys.argv:
        path.write_text(made)
    elif made != text:
        print(f"docs/{page} is not up to date: make docs", file=sys.stderr)
        return 1
    return 0
