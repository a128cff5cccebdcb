"""Mel bands and MFCC with librosa's conventions."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.models.frontends.filters import (
    cosine_transform,
    lifter,
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
class LibrosaConfig:
    """Settings with the defaults of `librosa.feature`.

    Attributes:
        sample_rate_hz: Samples per second; `sr`.
        num_fft: Length of the Fourier transform; `n_fft`.
        hop: Samples from frame to frame; `hop_length`.
        window_size: Length of the window, in the middle of `num_fft`; None: as long as
            that. `win_length`.
        window: `"hann"`, `"hamming"`, `"blackman"` or `"rectangular"`, periodic.
        centre: Whether frames are centred on multiples of the hop; `center`.
        pad_mode: What is outside the clip then: `"constant"` zeros, or `"reflect"`.
        num_mels: Number of bands; `n_mels`.
        low_hz: Lower edge of the bands; `fmin`.
        high_hz: Upper edge; None: half the sample rate. `fmax`.
        scale: Mel scale, `"slaney"`, or `"htk"` for `htk=True`.
        unit_area: Whether filters have equal areas (`norm="slaney"`), not equal heights
            (`norm=None`).
        power: Exponent of the magnitude, 1 or 2.
        reference: Level of 0 dB, a power or `"max"`; `ref` of `power_to_db`.
        floor: Lower limit of powers before the logarithm; `amin`.
        range_db: Levels are at most that far below the loudest; None: no limit.
            `top_db`.
    """

    sample_rate_hz: float = 22_050
    num_fft: int = 2048
    hop: int = 512
    window_size: int | None = None
    window: str = "hann"
    centre: bool = True
    pad_mode: str = "constant"
    num_mels: int = 128
    low_hz: float = 0.0
    high_hz: float | None = None
    scale: str = "slaney"
    unit_area: bool = True
    power: float = 2.0
    reference: float | str = 1.0
    floor: float = 1e-10
    range_db: float | None = 80.0


def librosa_mel(
    waveform: jax.Array, config: LibrosaConfig = LibrosaConfig()
) -> jax.Array:
    """Mel bands, `librosa.feature.melspectrogram`.

    Args:
        waveform: `[B, N]` in [-1, 1].
        config: Settings.

    Returns:
        `[B, num_mels, T]`, `T = 1 + N // hop` if centred.

    Raises:
        ValueError: The power is not 1 or 2, or the window is longer than `num_fft`.
    """
    if config.power not in (1, 2):
        raise ValueError(f"power: expected 1 or 2, got {config.power}")
    num_fft = config.num_fft
    size = config.window_size or num_fft
    if size > num_fft:
        raise ValueError(f"window_size: expected at most {num_fft}, got {size}")
    x = as_waveform(waveform)
    if config.centre:
        around = ((0, 0), (num_fft // 2, num_fft // 2))
        x = jnp.pad(x, around, mode=config.pad_mode)
    before = (num_fft - size) // 2
    shape = np.pad(window(config.window, size), (before, num_fft - size - before))
    spectrum = power_spectrum(
        frames(x, size=num_fft, hop=config.hop), shape, num_fft=num_fft
    )
    if config.power == 1:
        spectrum = magnitude(spectrum)
    half_hz = config.sample_rate_hz / 2
    filters = mel_filters(
        num_mels=config.num_mels,
        num_fft=num_fft,
        sample_rate_hz=config.sample_rate_hz,
        low_hz=config.low_hz,
        high_hz=half_hz if config.high_hz is None else config.high_hz,
        scale=config.scale,
        unit_area=config.unit_area,
    )
    return jnp.moveaxis(in_bands(spectrum, filters), 2, 1)


def librosa_log_mel(
    waveform: jax.Array, config: LibrosaConfig = LibrosaConfig()
) -> jax.Array:
    """Levels of mel bands in dB, `librosa.power_to_db(librosa.feature.melspectrogram)`.

    Args:
        waveform: `[B, N]` in [-1, 1].
        config: Settings; maxima are those of each clip.

    Returns:
        `[B, num_mels, T]` in dB.
    """
    bands = librosa_mel(waveform, config)
    to_db = 10 / math.log(10)
    levels = to_db * log_above(bands, config.floor)
    loudest = jnp.max(levels, axis=(1, 2), keepdims=True)
    if config.range_db is not None:
        levels = jnp.maximum(levels, loudest - config.range_db)
    if isinstance(config.reference, str):
        return levels - loudest
    return levels - to_db * math.log(max(config.floor, config.reference))


def librosa_mfcc(
    waveform: jax.Array,
    config: LibrosaConfig = LibrosaConfig(),
    *,
    num_mfcc: int = 20,
    lifter_length: float = 0.0,
) -> jax.Array:
    """Mel cepstra, `librosa.feature.mfcc`: an orthonormal cosine transform of levels.

    Args:
        waveform: `[B, N]` in [-1, 1].
        config: Settings.
        num_mfcc: Number of coefficients, at most `num_mels`; `n_mfcc`.
        lifter_length: Q in the factor `1 + Q / 2 sin(pi (i + 1) / Q)`; 0 for none.

    Returns:
        `[B, num_mfcc, T]`.
    """
    levels = jnp.moveaxis(librosa_log_mel(waveform, config), 1, 2)
    transform = cosine_transform(config.num_mels, num_mfcc)
    factors = lifter(num_mfcc, lifter_length, first=1)
    return jnp.moveaxis(cepstra(levels, transform * factors), 2, 1)
