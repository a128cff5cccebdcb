"""Levels of a recording over time and frequency."""

import numpy as np

from uap_jax.audio.files import as_float32, check_positive


def mel_spectrogram_db(
    waveform: np.ndarray,
    *,
    sample_rate_hz: int,
    num_mels: int = 64,
    window_s: float = 0.032,
    hop_s: float = 0.008,
    floor_db: float = -100.0,
) -> np.ndarray:
    """Computes levels in bands of the mel scale; a full-scale sine has about 0 dB.

    Hann windows are centred on the frames, with silence outside the waveform.

    Args:
        waveform: `[N]` samples, full scale at +-1.
        sample_rate_hz: Samples per second.
        num_mels: Number of bands between 0 Hz and half the sample rate.
        window_s: Length of a window.
        hop_s: Time between the centres of two windows.
        floor_db: Lower limit of the result.

    Returns:
        `[num_mels, 1 + N // hop]` float32 levels in dB, the lowest band first.

    Raises:
        ValueError: The waveform is not `[N]`, or a setting is not positive.
    """
    waveform = as_float32(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"waveform: expected [N], got {waveform.shape}")
    num_window = round(window_s * sample_rate_hz)
    num_hop = round(hop_s * sample_rate_hz)
    check_positive("window_s * sample_rate_hz", num_window)
    check_positive("hop_s * sample_rate_hz", num_hop)
    check_positive("num_mels", num_mels)

    # Twice the window, so that the lowest bands are wider than the bins.
    num_fft = 2 * num_window
    window = np.hanning(num_window + 1)[:-1].astype(np.float32)
    padded = np.pad(waveform, (num_window // 2, num_window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, num_window)
    frames = frames[: len(waveform) + 1 : num_hop]
    power = np.abs(np.fft.rfft(frames * window, num_fft)) ** 2
    # By Parseval's theorem the bins of a sine of amplitude 1 then add up to 1.
    power *= 4 / (num_fft * np.sum(window**2))
    filters = _mel_filters(sample_rate_hz, num_fft, num_mels)
    tiny = np.finfo(np.float32).tiny
    levels = 10 * np.log10(np.maximum(filters @ power.T, tiny))
    return np.maximum(levels, floor_db).astype(np.float32)


def mel_frequencies_hz(num_mels: int, sample_rate_hz: int) -> np.ndarray:
    """Returns the centres `[num_mels]` of bands up to half the sample rate.

    The mel scale is linear below 1000 Hz, 200/3 Hz a mel, and logarithmic above, 27
    mels for a factor of 6.4.

    Source: M. Slaney, Auditory Toolbox, Interval Research, 1998-010.
    """
    return _mel_points_hz(num_mels, sample_rate_hz)[1:-1]


def _mel_points_hz(num_mels: int, sample_rate_hz: int) -> np.ndarray:
    top_hz = sample_rate_hz / 2
    highest = 15 + 27 * np.log(top_hz / 1000) / np.log(6.4)
    mels = np.linspace(0, highest if top_hz > 1000 else top_hz * 3 / 200, num_mels + 2)
    return np.where(
        mels < 15, 200 / 3 * mels, 1000 * np.exp((mels - 15) * np.log(6.4) / 27)
    )


def _mel_filters(sample_rate_hz: int, num_fft: int, num_mels: int) -> np.ndarray:
    """Returns triangles of height 1, `[num_mels, 1 + num_fft // 2]` float32."""
    points_hz = _mel_points_hz(num_mels, sample_rate_hz)[:, None]
    low, centre, high = points_hz[:-2], points_hz[1:-1], points_hz[2:]
    bins_hz = np.fft.rfftfreq(num_fft, 1 / sample_rate_hz)
    sides = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(0, np.minimum(*sides)).astype(np.float32)
