"""Placement of a sound in a recording of another length."""

import math
from typing import NamedTuple

import numpy as np

from uap_jax.audio.files import check_positive, crop_or_pad


class Placement(NamedTuple):
    """Placement of a sound, which is cut where the recording ends."""

    repeats: bool = True  # Whether the sound is repeated, or silence follows.
    shift_s: float = 0.0  # Circular shift of the sound; its end comes first.


def parse_placement(text: str) -> Placement:
    """Parses "tile", "once" or "shift:SECONDS", which repeats too.

    Raises:
        ValueError: The text is something else.
    """
    name, colon, seconds = text.partition(":")
    if name == "shift" and colon:
        try:
            shift_s = float(seconds)
        except ValueError:
            shift_s = math.nan
        if math.isfinite(shift_s):
            return Placement(shift_s=shift_s)
    elif text in ("tile", "once"):
        return Placement(repeats=text == "tile")
    raise ValueError(
        f'placement: expected "tile", "once" or "shift:SECONDS", got {text!r}'
    )


def place(
    sound: np.ndarray,
    num_samples: int,
    placement: Placement,
    *,
    sample_rate_hz: int,
) -> np.ndarray:
    """Brings a sound `[M]` to the length of a recording, `[N]`.

    Repeated and shifted by s samples it is a[n] = sound[(n - s) mod M].

    Raises:
        ValueError: The sound is not `[M]` with M > 0, or a number is not positive.
    """
    if sound.ndim != 1 or not len(sound):
        raise ValueError(f"sound: expected [M] with M > 0, got {sound.shape}")
    check_positive("num_samples", num_samples)
    check_positive("sample_rate_hz", sample_rate_hz)
    shifted = np.roll(sound, round(placement.shift_s * sample_rate_hz) % len(sound))
    if placement.repeats:
        return np.resize(shifted, num_samples)
    return crop_or_pad(shifted, num_samples)
