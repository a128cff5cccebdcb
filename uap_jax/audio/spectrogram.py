"""Levels of a recording over time and frequency."""

import librosa
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
    # Only the filters, since librosa's spectrogram compiles for seconds on first use.
    filters = librosa.filters.mel(
        sr=sample_rate_hz, n_fft=num_fft, n_mels=num_mels, norm=None
    )
    tiny = np.finfo(np.float32).tiny
    levels = 10 * np.log10(np.maximum(filters @ power.T, tiny))
    return np.maximum(levels, floor_db).astype(np.float32)
