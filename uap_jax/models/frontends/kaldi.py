"""Log-mel bands and MFCC with Kaldi's conventions."""

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

# Logarithms are taken above the spacing of float32 at 1.
FLOOR = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class KaldiConfig:
    """Settings of Kaldi's front ends; defaults as in `torchaudio.compliance.kaldi`.

    Attributes:
        sample_rate_hz: Samples per second.
        num_mels: Number of bands.
        frame_s: Length of a frame.
        hop_s: Time from frame to frame.
        low_hz: Lower edge of the bands.
        high_hz: Upper edge; 0 or less counts from half the sample rate.
        preemphasis: c in `y[n] = x[n] - c x[n - 1]`, within a frame.
        remove_dc: Whether the mean of each frame is subtracted before that.
        window: `"povey"`, `"hann"`, `"hamming"`, `"blackman"` or `"rectangular"`.
        power: Whether bands add up power; otherwise the magnitude.
        round_to_power_of_two: Whether the Fourier transform has a length of 2^k.
        snip_edges: Whether only whole frames count; otherwise there is one frame per
            hop, and the waveform is mirrored at its ends.
        energy: Whether the energy of the frame comes first: one more band, or instead
            of the first coefficient.
        raw_energy: Whether that is before pre-emphasis and window.
        energy_floor: Lower limit of that energy; 0: only 2^-23.
        scale: Factor of the waveform. Kaldi and its recipes take 16-bit samples, that
            is 32768; AST takes 1.
    """

    sample_rate_hz: float = 16_000
    num_mels: int = 23
    frame_s: float = 0.025
    hop_s: float = 0.01
    low_hz: float = 20.0
    high_hz: float = 0.0
    preemphasis: float = 0.97
    remove_dc: bool = True
    window: str = "povey"
    power: bool = True
    round_to_power_of_two: bool = True
    snip_edges: bool = True
    energy: bool = False
    raw_energy: bool = True
    energy_floor: float = 1.0
    scale: float = 1.0


def kaldi_fbank(waveform: jax.Array, config: KaldiConfig = KaldiConfig()) -> jax.Array:
    """Log-mel bands, `ln(max(band, 2^-23))`.

    Args:
        waveform: `[B, N]` in [-1, 1], multiplied by `config.scale`.
        config: Settings.

    Returns:
        `[B, T, num_mels]`, or one more with the energy; `T = 1 + (N - frame) // hop`.
    """
    bands, energy = _bands_and_energy(as_waveform(waveform), config)
    return jnp.concatenate([energy, bands], axis=2) if config.energy else bands


def kaldi_mfcc(
    waveform: jax.Array,
    config: KaldiConfig = KaldiConfig(),
    *,
    num_mfcc: int = 13,
    lifter_length: float = 22.0,
) -> jax.Array:
    """Mel cepstra: `kaldi_fbank`, an orthonormal cosine transform, a lifter.

    Args:
        waveform: `[B, N]` in [-1, 1], multiplied by `config.scale`.
        config: Settings; the bands are of the power.
        num_mfcc: Number of coefficients, at most `num_mels`.
        lifter_length: Q in the factor `1 + Q / 2 sin(pi i / Q)`; 0 for none.

    Returns:
        `[B, T, num_mfcc]`.
    """
    config = dataclasses.replace(config, power=True)
    bands, energy = _bands_and_energy(as_waveform(waveform), config)
    transform = cosine_transform(config.num_mels, num_mfcc)
    factors = lifter(num_mfcc, lifter_length)
    features = cepstra(bands, transform * factors)
    if config.energy:
        features = jnp.concatenate([energy, features[:, :, 1:]], axis=2)
    return features


def _bands_and_energy(
    waveform: jax.Array, config: KaldiConfig
) -> tuple[jax.Array, jax.Array]:
    # A tolerance, as 0.025 * 16_000 may come out just below 400.
    size = int(config.frame_s * config.sample_rate_hz + 1e-6)
    hop = int(config.hop_s * config.sample_rate_hz + 1e-6)
    x = waveform if config.scale == 1 else waveform * config.scale
    if not config.snip_edges:
        before = size // 2 - hop // 2
        num_frames = (x.shape[1] + hop // 2) // hop
        after = max(0, (num_frames - 1) * hop + size - before - x.shape[1])
        x = jnp.pad(x, ((0, 0), (max(0, before), after)), mode="symmetric")
        x = x[:, max(0, -before) :][:, : (num_frames - 1) * hop + size]
    x = frames(x, size=size, hop=hop)
    if config.remove_dc:
        # The mean of equal values need not be that value in rounding.
        x = x - jax.lax.stop_gradient(x[:, :, :1])
        x = x - jnp.mean(x, axis=2, keepdims=True)
    raw = x
    previous = jnp.concatenate([x[:, :, :1], x[:, :, :-1]], axis=2)
    x = x - config.preemphasis * previous
    shape = window(config.window, size, periodic=False)
    num_fft = 1 << (size - 1).bit_length() if config.round_to_power_of_two else size
    power = power_spectrum(x, shape, num_fft=num_fft)
    half_hz = config.sample_rate_hz / 2
    filters = mel_filters(
        num_mels=config.num_mels,
        num_fft=num_fft,
        sample_rate_hz=config.sample_rate_hz,
        low_hz=config.low_hz,
        high_hz=config.high_hz if config.high_hz > 0 else half_hz + config.high_hz,
        scale="kaldi",
        triangles_in_mel=True,
    )
    bands = in_bands(power if config.power else magnitude(power), filters)
    heard = raw if config.raw_energy else x * shape.astype(x.dtype)[None, None, :]
    energy = log_above(jnp.sum(heard**2, axis=2, keepdims=True), FLOOR)
    if config.energy_floor > 0:
        energy = jnp.maximum(energy, math.log(config.energy_floor))
    return log_above(bands, FLOOR), energy
