"""Text for people: names from file systems, numbers, durations."""

import math
import re
from typing import Any, TypeGuard

import numpy as np

# What would begin another line, act on a terminal, or is no text at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]|[\ud800-\udfff]")
_MISSING = "n/a"


def printable(text: str) -> str:
    """Escapes control characters and replaces bytes that are not UTF-8."""
    return _UNPRINTABLE.sub(_escape, text)


def format_seconds(seconds: float) -> str:
    """Returns a duration as "1.2 s", "42 s", "3:07 min" or "2:05 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{int(minutes)}:{int(seconds % 60):02d} min"
    return f"{int(minutes // 60)}:{int(minutes % 60):02d} h"


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a finite number; a bool is not."""
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def format_percent(share: Any) -> str:
    """Returns a share in [0, 1] as "94.1 %"."""
    return f"{100 * share:.1f} %" if is_number(share) else _MISSING


def format_decibel(level_db: Any) -> str:
    """Returns a level as "7.1 dB"."""
    if not is_number(level_db):
        return _MISSING
    # Never "-0.0".
    return f"{round(level_db, 1) + 0.0:.1f} dB"


def format_interval(interval: Any) -> str:
    """Returns an interval of shares in [0, 1] as "91.1 to 96.2 %"."""
    low, high = interval or (None, None)
    if not (is_number(low) and is_number(high)):
        return _MISSING
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def format_number(number: Any) -> str:
    """Returns an integer in full, any other number to three significant digits."""
    if not is_number(number):
        return _MISSING
    if float(number).is_integer():
        return f"{int(number):,}"
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def _escape(match: re.Match[str]) -> str:
    return "\ufffd" if "\ud800" <= match[0] <= "\udfff" else repr(match[0])[1:-1]
