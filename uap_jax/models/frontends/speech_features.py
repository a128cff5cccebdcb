"""Log-mel bands and MFCC as the package `python_speech_features` computes them."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.models.frontends.filters import (
    cosine_transform,
    hz_to_mel,
    lifter,
    mel_to_hz,
    window,
)
from uap_jax.models.frontends.frames import (
    as_waveform,
    cepstra,
    frames,
    in_bands,
    power_spectrum,
)

# Instead of a power of 0.
FLOOR = float(np.finfo(np.float64).eps)
# Powers below count as 0: 1 / p and products with it stay within float32.
SILENT = 1e-30


@dataclasses.dataclass(frozen=True)
class SpeechFeaturesConfig:
    """Settings with the defaults of `python_speech_features.mfcc`.

    Attributes:
        sample_rate_hz: Samples per second; `samplerate`.
        frame_s: Length of a frame; `winlen`.
        hop_s: Time from frame to frame; `winstep`.
        num_mels: Number of bands; `nfilt`.
        num_fft: Length of the Fourier transform; longer frames are cut. `nfft`.
        low_hz: Lower edge of the bands; `lowfreq`.
        high_hz: Upper edge; None: half the sample rate. `highfreq`.
        preemphasis: c in `y[n] = x[n] - c x[n - 1]`, over the clip; `preemph`.
        window: `"rectangular"`, `"hamming"` or `"hann"`, symmetric; `winfunc`.
        scale: Factor of the waveform: 32768 where the network was trained on 16-bit
            samples.
    """

    sample_rate_hz: float = 16_000
    frame_s: float = 0.025
    hop_s: float = 0.01
    num_mels: int = 26
    num_fft: int = 512
    low_hz: float = 0.0
    high_hz: float | None = None
    preemphasis: float = 0.97
    window: str = "rectangular"
    scale: float = 1.0


def speech_features_log_mel(
    waveform: jax.Array, config: SpeechFeaturesConfig = SpeechFeaturesConfig()
) -> jax.Array:
    """Log-mel bands, `python_speech_features.logfbank`.

    Args:
        waveform: `[B, N]` in [-1, 1], multiplied by `config.scale`.
        config: Settings.

    Returns:
        `[B, T, num_mels]`; the last frame is filled up with zeros.
    """
    return _log_bands_and_energy(waveform, config)[0]


def speech_features_mfcc(
    waveform: jax.Array,
    config: SpeechFeaturesConfig = SpeechFeaturesConfig(),
    *,
    num_mfcc: int = 13,
    lifter_length: float = 22.0,
    energy: bool = True,
) -> jax.Array:
    """Mel cepstra, `python_speech_features.mfcc`.

    Args:
        waveform: `[B, N]` in [-1, 1], multiplied by `config.scale`.
        config: Settings.
        num_mfcc: Number of coefficients, at most `num_mels`; `numcep`.
        lifter_length: Q in the factor `1 + Q / 2 sin(pi i / Q)`; 0 for none.
            `ceplifter`.
        energy: Whether the first is the logarithm of the energy; `appendEnergy`.

    Returns:
        `[B, T, num_mfcc]`.
    """
    bands, log_energy = _log_bands_and_energy(waveform, config)
    transform = cosine_transform(config.num_mels, num_mfcc)
    factors = lifter(num_mfcc, lifter_length)
    features = cepstra(bands, transform * factors)
    if energy:
        features = jnp.concatenate([log_energy, features[:, :, 1:]], axis=2)
    return features


def _log_bands_and_energy(
    waveform: jax.Array, config: SpeechFeaturesConfig
) -> tuple[jax.Array, jax.Array]:
    x = as_waveform(waveform) * config.scale
    size = math.floor(config.frame_s * config.sample_rate_hz + 0.5)
    hop = math.floor(config.hop_s * config.sample_rate_hz + 0.5)
    x = jnp.concatenate([x[:, :1], x[:, 1:] - config.preemphasis * x[:, :-1]], axis=1)
    num_frames = 1 + max(0, -((size - x.shape[1]) // hop))
    x = jnp.pad(x, ((0, 0), (0, (num_frames - 1) * hop + size - x.shape[1])))
    power = power_spectrum(
        frames(x, size=size, hop=hop),
        window(config.window, size, periodic=False),
        num_fft=config.num_fft,
    )
    power = power / config.num_fft
    energy = jnp.sum(power, axis=2, keepdims=True)
    return _log(in_bands(power, _filters(config))), _log(energy)


def _log(power: jax.Array) -> jax.Array:
    return jnp.log(jnp.where(power > SILENT, power, FLOOR))


@functools.lru_cache(maxsize=64)
def _filters(config: SpeechFeaturesConfig) -> np.ndarray:
    # Triangles between whole bins, rounded down.
    high_hz = config.high_hz or config.sample_rate_hz / 2
    if not 0 <= config.low_hz < high_hz <= config.sample_rate_hz / 2:
        raise ValueError(
            "low_hz, high_hz: expected 0 <= low < high <= "
            f"{config.sample_rate_hz / 2:g}, got {config.low_hz:g} and {high_hz:g}"
        )
    low, high = hz_to_mel(np.array([config.low_hz, high_hz]), "htk")
    edges_hz = mel_to_hz(np.linspace(low, high, config.num_mels + 2), "htk")
    edges = np.floor((config.num_fft + 1) * edges_hz / config.sample_rate_hz)
    bins = np.arange(config.num_fft // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    is_left = (bins >= left) & (bins < centre)
    is_right = (bins >= centre) & (bins < right)
    return np.where(is_left, rising, np.where(is_right, falling, 0.0))
