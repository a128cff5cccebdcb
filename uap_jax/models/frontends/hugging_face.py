"""The front ends of Wav2Vec2, Whisper and AST as `transformers` computes them."""

import math

import jax
import jax.numpy as jnp

from uap_jax.models.blocks import remove_mean
from uap_jax.models.frontends.filters import mel_filters, window
from uap_jax.models.frontends.frames import (
    as_waveform,
    frames,
    in_bands,
    log_above,
    power_spectrum,
)
from uap_jax.models.frontends.kaldi import KaldiConfig, kaldi_fbank

# Mean and deviation of AudioSet, with which the published AST normalises.
AUDIOSET_MEAN = -4.2677393
AUDIOSET_STD = 4.5689974


def zero_mean_unit_variance(waveform: jax.Array, *, eps: float = 1e-7) -> jax.Array:
    """Normalises each clip: `(x - mean) / sqrt(variance + eps)`.

    What `Wav2Vec2FeatureExtractor` does with `do_normalize`, also for HuBERT and WavLM.

    Args:
        waveform: `[B, N]`.
        eps: Added to the variance.

    Returns:
        `[B, N]`; a constant clip gives zeros.
    """
    x = remove_mean(as_waveform(waveform))
    return x / jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True) + eps)


def whisper_log_mel(
    waveform: jax.Array,
    *,
    num_mels: int = 80,
    num_samples: int = 480_000,
    sample_rate_hz: int = 16_000,
    num_fft: int = 400,
    hop: int = 160,
) -> jax.Array:
    """Whisper's input: log10 of mel bands, at most 8 below the loudest, plus 4, over 4.

    The clip is padded with zeros, or cut, to `num_samples`. Frames that see nothing but
    these zeros are not transformed, so that short clips are cheap.

    Args:
        waveform: `[B, N]` in [-1, 1].
        num_mels: Number of bands, 128 from the third large model on; `feature_size` of
            `WhisperFeatureExtractor`.
        num_samples: Length that the network takes; its `n_samples`.
        sample_rate_hz: Samples per second; the bands end at 8 kHz.
        num_fft: Length of the periodic Hann windows; its `n_fft`.
        hop: Samples from frame to frame; its `hop_length`.

    Returns:
        `[B, num_mels, num_samples // hop]`.
    """
    waveform = as_waveform(waveform)[:, :num_samples]
    num_frames = num_samples // hop
    half = num_fft // 2
    # Frame t sees samples from t hop - half to t hop + half.
    num_heard = min(num_frames, -(-(waveform.shape[1] + half) // hop))
    missing = num_samples - waveform.shape[1]
    padded = jnp.pad(waveform, ((0, 0), (0, missing)))
    padded = jnp.pad(padded, ((0, 0), (half, half)), mode="reflect")
    heard = padded[:, : (num_heard - 1) * hop + num_fft]
    filters = mel_filters(
        num_mels=num_mels,
        num_fft=num_fft,
        sample_rate_hz=sample_rate_hz,
        low_hz=0.0,
        high_hz=8000.0,
        scale="slaney",
        unit_area=True,
    )
    power = power_spectrum(
        frames(heard, size=num_fft, hop=hop), window("hann", num_fft), num_fft=num_fft
    )
    bands = jnp.moveaxis(in_bands(power, filters), 2, 1)
    bands = jnp.pad(bands, ((0, 0), (0, 0), (0, num_frames - num_heard)))
    levels = log_above(bands, 1e-10) / math.log(10)
    loudest = jnp.max(levels, axis=(1, 2), keepdims=True)
    return (jnp.maximum(levels, loudest - 8) + 4) / 4


def ast_fbank(
    waveform: jax.Array,
    *,
    num_mels: int = 128,
    num_frames: int = 1024,
    sample_rate_hz: int = 16_000,
    mean: float = AUDIOSET_MEAN,
    std: float = AUDIOSET_STD,
    normalise: bool = True,
) -> jax.Array:
    """AST's input: Kaldi's log-mel bands, `num_frames` of them, `(f - mean) / (2 std)`.

    Frames after the end of the clip are 0 before they are normalised, as in
    `ASTFeatureExtractor`: 0 is far above the level of silence, -15.9.

    Args:
        waveform: `[B, N]` in [-1, 1]; not scaled to 16 bits, unlike in Kaldi.
        num_mels: Number of bands; `num_mel_bins` of the extractor.
        num_frames: Frames that the network takes, more are cut; its `max_length`.
        sample_rate_hz: Samples per second.
        mean: Mean of the features over the training data.
        std: Their standard deviation.
        normalise: Whether to normalise; its `do_normalize`.

    Returns:
        `[B, num_frames, num_mels]`.
    """
    config = KaldiConfig(
        sample_rate_hz=sample_rate_hz, num_mels=num_mels, window="hann", scale=1.0
    )
    features = kaldi_fbank(waveform, config)[:, :num_frames]
    missing = num_frames - features.shape[1]
    features = jnp.pad(features, ((0, 0), (0, missing), (0, 0)))
    return (features - mean) / (2 * std) if normalise else features
