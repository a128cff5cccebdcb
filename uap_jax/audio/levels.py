"""Sound levels in dB: SPL (Eq. 5, 6), SNR (Eq. 14), relative loudness (Eq. 15).

All functions reduce the last axis of JAX arrays, or of NumPy arrays, for which nothing
is compiled or imported. Silence has defined values: `spl_db` of it is `SILENCE_DB`; a
silent recording has no SNR and no relative loudness (NaN); a silent perturbation has
infinite SNR.
"""

from typing import Any, TypeVar

import numpy as np

SILENCE_DB = -200.0

Array = TypeVar("Array")


def rms(v: Array) -> Array:
    """Root mean square of the last axis, P(v) of Eq. 6."""
    xp = _namespace(v)
    return xp.sqrt(xp.mean(xp.square(v), axis=-1))


def spl_db(v: Array) -> Array:
    """Sound pressure level, SPL(v) = 20 log10 P(v), Eq. 5.

    Its gradient is (20 / ln 10) v / ||v||^2, and 0 at and below `SILENCE_DB`, where
    the formula has none.

    Args:
        v: `[..., N]`.

    Returns:
        `[...]` in dB, at least `SILENCE_DB`.
    """
    xp, floor = _namespace(v), 10 ** (SILENCE_DB / 10)
    return 10 * xp.log10(xp.maximum(xp.mean(xp.square(v), axis=-1), floor))


def snr_db(x: Array, delta: Array) -> Array:
    """Signal-to-noise ratio 20 log10(P(x) / P(delta)), Eq. 14.

    In the box the resting level of 0.5 counts as signal, as in the paper.

    Args:
        x: `[..., N]` clean clips.
        delta: `[..., N]` what was added to them.

    Returns:
        `[...]` in dB; NaN where x is zero, infinity where only delta is.
    """
    return _ratio_db(rms(x), rms(delta))


def snr_ac_db(x: Array, delta: Array) -> Array:
    """Signal-to-noise ratio of the mean-free signals: what an ear would call SNR.

    Arguments and result are those of `snr_db`; a constant clip counts as silent.
    """
    return snr_db(mean_free(x), mean_free(delta))


def relative_loudness_db(x: Array, delta: Array) -> Array:
    """Peak level of delta over that of x, 20 log10(max|delta| / max|x|), Eq. 15.

    The paper prints no absolute value, without which Eq. 15 is undefined for negative
    samples.

    Args:
        x: `[..., N]` clean clips.
        delta: `[..., N]` what was added to them.

    Returns:
        `[...]` in dB; NaN where x is zero, minus infinity where only delta is.
    """
    xp = _namespace(x)
    peak_x, peak_delta = (xp.max(xp.abs(a), axis=-1) for a in (x, delta))
    return -_ratio_db(peak_x, peak_delta)


def mean_free(x: Array) -> Array:
    """Subtracts the mean of the last axis; a constant becomes exactly zero."""
    # The float32 mean of a constant may differ from it by rounding, which must not
    # count as sound.
    xp = _namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    constant = xp.max(x, axis=-1) == xp.min(x, axis=-1)
    return xp.where(constant[..., None], xp.zeros_like(x), centred)


@np.errstate(divide="ignore", invalid="ignore")
def _ratio_db(signal: Any, noise: Any) -> Any:
    xp = _namespace(signal)
    ratio = 20 * (xp.log10(signal) - xp.log10(noise))
    return xp.where(signal > 0, ratio, xp.full_like(ratio, xp.nan))


def _namespace(x: Any) -> Any:
    return x.__array_namespace__()
