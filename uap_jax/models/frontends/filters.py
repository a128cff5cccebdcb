"""Constants of front ends: mel filters, windows and cosine transforms, in float64."""

import functools
import math

import numpy as np


def hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    """Returns mels.

    `"htk"`: `2595 log10(1 + f / 700)`. `"kaldi"`: `1127 ln(1 + f / 700)`. `"slaney"`:
    `3 f / 200` up to 1 kHz, above it `15 + 27 ln(f / 1000) / ln 6.4`.
    """
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    if scale == "kaldi":
        return 1127 * np.log1p(hz / 700)
    if scale == "slaney":
        above = 15 + 27 / math.log(6.4) * np.log(np.maximum(hz, 1000) / 1000)
        return np.where(hz < 1000, 3 * hz / 200, above)
    raise ValueError(f"scale: expected htk, kaldi or slaney, got {scale!r}")


def mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    if scale == "kaldi":
        return 700 * np.expm1(mel / 1127)
    if scale == "slaney":
        above = 1000 * np.exp(math.log(6.4) / 27 * (np.maximum(mel, 15) - 15))
        return np.where(mel < 15, 200 * mel / 3, above)
    raise ValueError(f"scale: expected htk, kaldi or slaney, got {scale!r}")


@functools.lru_cache(maxsize=64)
def mel_filters(
    *,
    num_mels: int,
    num_fft: int,
    sample_rate_hz: float,
    low_hz: float,
    high_hz: float,
    scale: str,
    triangles_in_mel: bool = False,
    unit_area: bool = False,
) -> np.ndarray:
    """Returns triangular filters, evenly spaced on a mel scale.

    Args:
        num_mels: Number of filters.
        num_fft: Length of the Fourier transform.
        sample_rate_hz: Samples per second.
        low_hz: Lower edge of the first filter.
        high_hz: Upper edge of the last one.
        scale: `"htk"`, `"kaldi"` or `"slaney"`.
        triangles_in_mel: Whether their sides are straight over mels, not over Hz.
        unit_area: Whether each is divided by half its width in Hz, not of height 1.

    Returns:
        `[num_fft // 2 + 1, num_mels]` float64.

    Raises:
        ValueError: The edges are not in order, or lie outside 0 Hz to half the rate.
    """
    if not 0 <= low_hz < high_hz <= sample_rate_hz / 2:
        raise ValueError(
            f"low_hz, high_hz: expected 0 <= low < high <= {sample_rate_hz / 2:g}, "
            f"got {low_hz:g} and {high_hz:g}"
        )
    bins = np.arange(num_fft // 2 + 1) * sample_rate_hz / num_fft
    low, high = hz_to_mel(np.array([low_hz, high_hz]), scale)
    edges_mel = np.linspace(low, high, num_mels + 2)
    edges_hz = mel_to_hz(edges_mel, scale)
    edges = edges_mel if triangles_in_mel else edges_hz
    if triangles_in_mel:
        bins = hz_to_mel(bins, scale)
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    filters = np.maximum(0, np.minimum(rising, falling))
    if unit_area:
        filters *= 2 / (edges_hz[2:] - edges_hz[:-2])
    filters.flags.writeable = False
    return filters


def window(name: str, size: int, *, periodic: bool = True) -> np.ndarray:
    """Returns a window `[size]` float64.

    Args:
        name: `"hann"`, `"hamming"`, `"povey"` (`hann^0.85`, Kaldi's), `"blackman"`
            (Kaldi's, of 0.42) or `"rectangular"`.
        size: Number of samples.
        periodic: Whether its period is `size` samples; otherwise `size - 1`, so that
            the last value is that of the first.
    """
    phase = 2 * np.pi * np.arange(size) / (size if periodic else size - 1)
    if name == "hann":
        return 0.5 - 0.5 * np.cos(phase)
    if name == "hamming":
        return 0.54 - 0.46 * np.cos(phase)
    if name == "povey":
        return (0.5 - 0.5 * np.cos(phase)) ** 0.85
    if name == "blackman":
        return 0.42 - 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase)
    if name == "rectangular":
        return np.ones(size)
    raise ValueError(
        f"window: expected hann, hamming, povey, blackman or rectangular, got {name!r}"
    )


def cosine_transform(
    num_inputs: int, num_outputs: int, *, orthonormal: bool = True
) -> np.ndarray:
    """Returns the first columns of the cosine transform of type 2.

    `c_i cos(pi (n + 1/2) i / N)`, `c_i = sqrt(2 / N)`; orthonormal `c_0 = sqrt(1 / N)`.

    Returns:
        `[num_inputs, num_outputs]` float64.

    Raises:
        ValueError: There are more outputs than inputs.
    """
    if num_outputs > num_inputs:
        raise ValueError(
            f"num_mfcc: expected at most num_mels, {num_inputs}, got {num_outputs}"
        )
    steps = np.arange(num_inputs)[:, None] + 0.5
    order = np.arange(num_outputs)
    scale = np.where(orthonormal & (order == 0), 1, 2) / num_inputs
    return np.sqrt(scale) * np.cos(np.pi * steps * order / num_inputs)


def lifter(num_coefficients: int, length: float, *, first: int = 0) -> np.ndarray:
    """Returns `1 + Q / 2 sin(pi i / Q)`, i from `first` on; ones for length 0."""
    if length <= 0:
        return np.ones(num_coefficients)
    order = np.arange(first, first + num_coefficients)
    return 1 + length / 2 * np.sin(np.pi * order / length)
