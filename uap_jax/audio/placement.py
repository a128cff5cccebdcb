"""Where a sound lies in a recording of another length."""

import math
from typing import NamedTuple

import numpy as np

from uap_jax.audio.files import crop_or_pad


class Placement(NamedTuple):
    """How a sound meets a recording; what the recording has no room for is cut off.

    Attributes:
        repeats: Whether the sound begins anew where it ends, or silence follows.
        shift_s: How much later the sound begins, circularly: its end comes first.
    """

    repeats: bool = True
    shift_s: float = 0.0


def parse_placement(text: str) -> Placement:
    """Returns what "tile", "once" or "shift:SECONDS" says.

    "shift" repeats as "tile" does.

    Raises:
        ValueError: The text is something else.
    """
    kind, colon, seconds = text.partition(":")
    if kind == "shift" and colon:
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
    """Brings a sound to the length of a recording.

    With a shift of s samples a repeated sound is a[n] = sound[(n - s) mod M].

    Args:
        sound: `[M]` samples.
        num_samples: Length of the recording, N.
        placement: How.
        sample_rate_hz: Samples per second of both.

    Returns:
        `[N]` samples.

    Raises:
        ValueError: The sound is not `[M]` with M > 0, or a number is not positive.
    """
    if sound.ndim != 1 or not len(sound):
        raise ValueError(f"sound: expected [M] with M > 0, got {sound.shape}")
    for name, value in (
        ("num_samples", num_samples),
        ("sample_rate_hz", sample_rate_hz),
    ):
        if value <= 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    shifted = np.roll(sound, round(placement.shift_s * sample_rate_hz) % len(sound))
    if placement.repeats:
        return np.resize(shifted, num_samples)
    return crop_or_pad(shifted, num_samples)
