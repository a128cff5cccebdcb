"""The micro front end of TensorFlow, which keyword spotters on microcontrollers use.

The original computes with integers of 16 and 32 bits. This is the same arithmetic on
real numbers, so that it has a gradient, and optionally with the original's rounding,
whose gradient is that without.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.models.frontends.filters import mel_filters
from uap_jax.models.frontends.frames import (
    as_waveform,
    frames,
    in_bands,
    log_above,
    magnitude,
    power_spectrum,
)

# Features are steps of 1/64 of a natural logarithm.
_STEPS = 64.0
_FULL_SCALE = 32768.0
# Magnitudes of bands are kept in steps of 8, windows and filters in 2^-12.
_BAND_STEP = 8.0
_WEIGHT_STEP = 2.0**-12


@dataclasses.dataclass(frozen=True)
class MicroConfig:
    """Settings of the micro front end.

    Attributes:
        sample_rate_hz: Samples per second.
        frame_samples: Samples of a frame.
        hop_samples: From one frame to the next.
        num_bands: Mel bands.
        low_hz: Lower edge of the first band.
        high_hz: Upper edge of the last one.
        noise_reduction: Whether a running mean of each band is subtracted from it.
        even_smoothing: Share of a new frame in that mean, in bands 0, 2, ...
        odd_smoothing: The same in bands 1, 3, ...
        min_signal: What remains of a band at least.
        gain_control: Whether bands are divided by a power of the running mean (PCAN);
            only with noise reduction.
        strength: That power.
        offset: What is added to the mean before.
        rounding: Whether numbers are rounded where the original has integers.
    """

    sample_rate_hz: int = 16_000
    frame_samples: int = 480
    hop_samples: int = 320
    num_bands: int = 40
    low_hz: float = 125.0
    high_hz: float = 7500.0
    noise_reduction: bool = False
    even_smoothing: float = 0.025
    odd_smoothing: float = 0.06
    min_signal: float = 0.05
    gain_control: bool = False
    strength: float = 0.95
    offset: float = 80.0
    rounding: bool = False


# What microWakeWord and microVAD take, the settings of the package pymicro-features.
MICRO_WAKE_WORD = MicroConfig(
    hop_samples=160, noise_reduction=True, gain_control=True, rounding=True
)


def micro_log_mel(
    waveform: jax.Array, config: MicroConfig = MicroConfig()
) -> jax.Array:
    """Returns the features of TensorFlow's micro front end as real numbers.

        b_tm = sqrt(sum_f w_fm |X_tf|^2)
        e_tm = a_m b_tm + (1 - a_m) e_(t-1)m              (noise reduction)
        r_tm = max(b_tm - e_tm, min_signal b_tm)
        s_tm = shrink(r_tm (e_tm + offset)^-strength)     (gain control)
        u_tm = 64 ln(512 s_tm), at least 0

    with X the spectrum of a frame in steps of 16 bits under a Hann window, and
    `shrink(s) = s^2 / 4` below 2, `s - 1` above. Without gain control u is `64 ln r`,
    and without noise reduction `64 ln b`.

    Args:
        waveform: `[B, N]` in [-1, 1].
        config: Its settings.

    Returns:
        `[B, 1 + (N - frame) // hop, num_bands]`.

    Raises:
        ValueError: Gain control without noise reduction, whose mean it needs.
    """
    if config.gain_control and not config.noise_reduction:
        raise ValueError("gain_control: expected noise_reduction with it")
    step = _stepped if config.rounding else _as_it_is
    x = _FULL_SCALE * as_waveform(waveform)
    if config.rounding:
        x = jnp.clip(step(x, 1.0, jnp.round), -_FULL_SCALE, _FULL_SCALE - 1)
    size = config.frame_samples
    num_fft = 1 << (size - 1).bit_length()
    window, filters = _constants(config, num_fft)
    x = frames(x, size=size, hop=config.hop_samples)
    x = step(x * window.astype(x.dtype)[None, None, :], 1.0)
    bands = in_bands(power_spectrum(x, np.ones(size), num_fft=num_fft), filters)
    if not config.noise_reduction and not config.rounding:
        return _STEPS / 2 * log_above(bands, 1.0)
    bands = step(magnitude(bands), _BAND_STEP)
    if config.noise_reduction:
        mean = _running_mean(bands, config)
        bands = step(jnp.maximum(bands - mean, config.min_signal * bands), _BAND_STEP)
        if config.gain_control:
            gain = step((mean + config.offset) ** -config.strength, 2.0**-21, jnp.round)
            bands = bands * gain
            bands = jnp.where(bands < 2.0, bands**2 / 4.0, bands - 1.0)
            # 64 steps to 1, and the 8 of bands.
            bands = 512.0 * step(bands, 1 / 64)
    return step(_STEPS * log_above(bands, 1.0), 1.0, jnp.round)


def _stepped(
    x: jax.Array, size: float, rounded: Callable[[jax.Array], jax.Array] = jnp.floor
) -> jax.Array:
    return x + jax.lax.stop_gradient(size * rounded(x / size) - x)


def _as_it_is(
    x: jax.Array, size: float, rounded: Callable[[jax.Array], jax.Array] = jnp.floor
) -> jax.Array:
    del size, rounded
    return x


def _running_mean(bands: jax.Array, config: MicroConfig) -> jax.Array:
    is_even = np.arange(config.num_bands) % 2 == 0
    share = np.where(is_even, config.even_smoothing, config.odd_smoothing)
    if config.rounding:
        share = np.floor(share * 2**14) / 2**14
    share = jnp.asarray(share, bands.dtype)[None]

    def add(mean: jax.Array, band: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = share * band + (1.0 - share) * mean
        return mean, mean

    _, means = jax.lax.scan(add, jnp.zeros_like(bands[:, 0]), jnp.moveaxis(bands, 1, 0))
    return jnp.moveaxis(means, 0, 1)


@functools.lru_cache(maxsize=64)
def _constants(config: MicroConfig, num_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the window and the filters `[bins, bands]`."""
    size = config.frame_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    filters = mel_filters(
        num_mels=config.num_bands,
        num_fft=num_fft,
        sample_rate_hz=config.sample_rate_hz,
        low_hz=config.low_hz,
        high_hz=config.high_hz,
        scale="kaldi",
        triangles_in_mel=True,
    ).copy()
    # The original starts above the first bin whole inside the limits.
    bin_hz = config.sample_rate_hz / num_fft
    filters[: int(1.5 + config.low_hz / bin_hz)] = 0.0
    if config.rounding:
        window = np.round(window / _WEIGHT_STEP) * _WEIGHT_STEP
        filters = np.round(filters / _WEIGHT_STEP) * _WEIGHT_STEP
    return window, filters
