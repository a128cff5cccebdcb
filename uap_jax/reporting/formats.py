"""Numbers, settings and sounds as a page shows them."""

import base64
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


def format_percent(share: Any) -> str:
    """Formats a share in [0, 1] in per cent, with one decimal."""
    return f"{100 * share:.1f} %" if is_number(share) else "n/a"


def format_decibel(level_db: Any) -> str:
    """Formats a level in dB, with one decimal."""
    return f"{level_db:.1f} dB" if is_number(level_db) else "n/a"


def format_number(number: Any) -> str:
    """Formats a count as it is, another number with three significant digits."""
    if not is_number(number):
        return "n/a"
    if float(number).is_integer():
        return f"{int(number):,}"
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def format_interval(interval: Any) -> str:
    """Formats the two ends of an interval of shares in per cent."""
    ends = as_interval(interval)
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %" if ends else "n/a"


def format_command(command: Any) -> str:
    """Returns a command line as one would type it; empty where there is none."""
    if isinstance(command, Sequence) and not isinstance(command, str):
        return shlex.join(map(str, command))
    return str(command or "")


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number; True is none."""
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def as_interval(value: Any) -> tuple[float, float] | None:
    """Returns the two ends, or None where there are no two numbers."""
    if not isinstance(value, Sequence | np.ndarray) or len(value) != 2:
        return None
    low, high = value
    return (low, high) if is_number(low) and is_number(high) else None


def as_rows(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the leaves of nested mappings as dotted name and text."""
    for name, value in leaves(settings):
        if isinstance(value, str):
            yield name, value
        elif value is None:
            yield name, "none"
        else:
            yield name, json.dumps(value, ensure_ascii=False, default=str)


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested mappings as dotted name and value."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def audio_uri(content: bytes) -> str:
    """Returns a data URI of the content of a WAV file."""
    return "data:audio/wav;base64," + base64.b64encode(content).decode()
