"""``_airbyte_raw_id``: UUID version 7 text in rising order, made by the thousand.

Random ids would cost three times as much here and scatter over any index that a user puts on them.
"""

from __future__ import annotations

import secrets
import time

# Every value of the last two hexadecimal digits, so that an id is one concatenation.
_LAST_DIGITS = tuple(f"{number:02x}" for number in range(1 << 8))
_COUNTER_LIMIT = 1 << 32


class RawIds:
    """Hands out ids; each is greater, as text, than all before it from the same object.

    Layout: 48 bits of milliseconds, version, 12 + 2 + 28 random bits, 32 bits of counter. The random bits are drawn
    per object (and anew when the counter is used up), so two processes share an id only if they drew the same ones.
    """

    def __init__(self) -> None:
        self._last_ms = 0
        self._count = _COUNTER_LIMIT
        self._random = ""

    def take(self, count: int) -> list[str]:
        """``count`` new ids in rising order."""
        # The clock may be set back; the ids' order may not.
        now_ms = max(time.time_ns() // 1_000_000, self._last_ms)
        if self._count + count > _COUNTER_LIMIT:
            self._draw()
            now_ms += 1
        self._last_ms = now_ms
        stamp = f"{now_ms:012x}"
        head = f"{stamp[:8]}-{stamp[8:]}-{self._random}"
        ids: list[str] = []
        while count:
            high, low = divmod(self._count, len(_LAST_DIGITS))
            digits = _LAST_DIGITS[low : low + count]
            prefix = f"{head}{high:06x}"
            ids += [prefix + last for last in digits]
            self._count += len(digits)
            count -= len(digits)
        return ids

    def _draw(self) -> None:
        bits = f"{secrets.randbits(42):011x}"
        # 12 bits after the version, 2 beside the variant, 28 in front of the counter.
        variant = "89ab"[int(bits[0], 16) & 3]
        self._random = f"7{bits[1:4]}-{variant}{bits[4:7]}-{bits[7:11]}"
        self._count = 0
