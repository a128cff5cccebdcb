"""Spectrograms, log-mel bands and MFCC with TensorFlow's two conventions.

`tf.signal` composes them in Python; the ops `AudioSpectrogram` and `Mfcc` are inside
the graphs of older keyword spotters, also as custom ops of TensorFlow Lite.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.models.frontends.filters import (
    cosine_transform,
    mel_filters,
    window,
)
from uap_jax.models.frontends.frames import (
    as_waveform,
    cepstra,
    frames,
    in_bands,
    log_above,
    magnitude,
    power_spectrum,
)


@dataclasses.dataclass(frozen=True)
class TfSignalConfig:
    """Settings of `tf.signal`; the defaults are those of its documented MFCC example.

    Attributes:
        sample_rate_hz: Samples per second.
        frame: Length of a frame and of its periodic Hann window; `frame_length`.
        hop: Samples from frame to frame; `frame_step`.
        num_fft: Length of the Fourier transform; None: the next power of two.
        power: Whether bands add up power; otherwise the magnitude.
        num_mels: Number of bands.
        low_hz: Lower edge of the bands.
        high_hz: Upper edge.
        log_offset: What is added before the logarithm.
    """

    sample_rate_hz: float = 16_000
    frame: int = 1024
    hop: int = 256
    num_fft: int | None = None
    power: bool = False
    num_mels: int = 80
    low_hz: float = 80.0
    high_hz: float = 7600.0
    log_offset: float = 1e-6


def tf_spectrogram(
    waveform: jax.Array,
    *,
    frame: int,
    hop: int,
    num_fft: int | None = None,
    power: bool = False,
) -> jax.Array:
    """Magnitudes, `abs(tf.signal.stft)`, or powers; also the op `AudioSpectrogram`.

    Args:
        waveform: `[B, N]` in [-1, 1].
        frame: Length of a frame and of its periodic Hann window; `window_size`.
        hop: Samples from frame to frame; `stride`.
        num_fft: Length of the Fourier transform; None: the next power of two.
        power: Whether to return powers; `magnitude_squared`.

    Returns:
        `[B, 1 + (N - frame) // hop, num_fft // 2 + 1]`.
    """
    num_fft = num_fft or 1 << (frame - 1).bit_length()
    spectrum = power_spectrum(
        frames(as_waveform(waveform), size=frame, hop=hop),
        window("hann", frame),
        num_fft=num_fft,
    )
    return spectrum if power else magnitude(spectrum)


def tf_log_mel(
    waveform: jax.Array, config: TfSignalConfig = TfSignalConfig()
) -> jax.Array:
    """Log-mel bands `ln(band + offset)` of `tf.signal.linear_to_mel_weight_matrix`.

    Args:
        waveform: `[B, N]` in [-1, 1].
        config: Settings.

    Returns:
        `[B, T, num_mels]`.
    """
    spectrum = tf_spectrogram(
        waveform,
        frame=config.frame,
        hop=config.hop,
        num_fft=config.num_fft,
        power=config.power,
    )
    filters = mel_filters(
        num_mels=config.num_mels,
        num_fft=config.num_fft or 1 << (config.frame - 1).bit_length(),
        sample_rate_hz=config.sample_rate_hz,
        low_hz=config.low_hz,
        high_hz=config.high_hz,
        scale="kaldi",
        triangles_in_mel=True,
    )
    return jnp.log(in_bands(spectrum, filters) + config.log_offset)


def tf_mfcc(
    waveform: jax.Array,
    config: TfSignalConfig = TfSignalConfig(),
    *,
    num_mfcc: int = 13,
) -> jax.Array:
    """Mel cepstra, `tf.signal.mfccs_from_log_mel_spectrograms`, the first ones.

    `sqrt(2 / M) sum_n f_n cos(pi (n + 1/2) i / M)`, also for i = 0.

    Args:
        waveform: `[B, N]` in [-1, 1].
        config: Settings.
        num_mfcc: Number of coefficients, at most `num_mels`.

    Returns:
        `[B, T, num_mfcc]`.
    """
    transform = cosine_transform(config.num_mels, num_mfcc, orthonormal=False)
    return cepstra(tf_log_mel(waveform, config), transform)


def tf_op_mfcc(
    power: jax.Array,
    *,
    sample_rate_hz: float = 16_000,
    num_mels: int = 40,
    num_mfcc: int = 13,
    low_hz: float = 20.0,
    high_hz: float = 4000.0,
) -> jax.Array:
    """Mel cepstra of a spectrogram, the op `Mfcc`.

    Its bands add up magnitudes, the roots of its input, and are at least 1e-12.

    Args:
        power: `[B, T, F]` of `tf_spectrogram(..., power=True)`.
        sample_rate_hz: Samples per second.
        num_mels: Number of bands; `filterbank_channel_count`.
        num_mfcc: Number of coefficients, at most `num_mels`; `dct_coefficient_count`.
        low_hz: Lower edge of the bands; `lower_frequency_limit`.
        high_hz: Upper edge; `upper_frequency_limit`.

    Returns:
        `[B, T, num_mfcc]`.
    """
    filters = _op_filters(power.shape[2], num_mels, sample_rate_hz, low_hz, high_hz)
    bands = log_above(in_bands(magnitude(power), filters), 1e-12)
    transform = cosine_transform(num_mels, num_mfcc, orthonormal=False)
    return cepstra(bands, transform)


@functools.lru_cache(maxsize=64)
def _op_filters(
    num_bins: int, num_mels: int, sample_rate_hz: float, low_hz: float, high_hz: float
) -> np.ndarray:
    # The triangles of `tf.signal`, but only of bins well inside the edges.
    bin_hz = sample_rate_hz / 2 / (num_bins - 1)
    filters = mel_filters(
        num_mels=num_mels,
        num_fft=2 * (num_bins - 1),
        sample_rate_hz=sample_rate_hz,
        low_hz=low_hz,
        high_hz=high_hz,
        scale="kaldi",
        triangles_in_mel=True,
    )
    bins = np.arange(num_bins)[:, None]
    is_inside = (bins >= int(1.5 + low_hz / bin_hz)) & (bins <= int(high_hz / bin_hz))
    return np.where(is_inside, filters, 0.0)
