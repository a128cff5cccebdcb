"""Text on one line for people: names from file systems, durations."""

import re

# What would begin another line, act on a terminal, or is no text at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]|[\ud800-\udfff]")


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


def _escape(match: re.Match[str]) -> str:
    return "\ufffd" if "\ud800" <= match[0] <= "\udfff" else repr(match[0])[1:-1]
