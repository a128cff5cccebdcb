"""Operations of TFLite that compute spectra."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Options = dict[str, Any]
_SMALLEST_BAND = 1e-12


def transform(options: Options, x: jax.Array, lengths: np.ndarray) -> jax.Array:
    """Transforms the last two axes, cut or padded to `lengths`."""
    del options
    return jnp.fft.rfft2(x, lengths.tolist())


def magnitude(x: jax.Array) -> jax.Array:
    """|x| with a gradient of 0 at 0."""
    return square_root(jnp.real(x) ** 2 + jnp.imag(x) ** 2)


def square_root(x: jax.Array) -> jax.Array:
    """sqrt(x) with a gradient of 0 at 0."""
    is_zero = x == 0.0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, x)))


def spectrogram(options: Options, x: jax.Array) -> jax.Array:
    """`[samples, channels]` to `[channels, frames, bins]`."""
    size, stride = options["window_size"], options["stride"]
    starts = np.arange(0, x.shape[0] - size + 1, stride)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(size) / size)
    frames = x.T[:, starts[:, None] + np.arange(size)] * window.astype(x.dtype)
    spectrum = jnp.fft.rfft(frames, 1 << math.ceil(math.log2(size)))
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    return power if options["magnitude_squared"] else square_root(power)


def mfcc(options: Options, power: jax.Array, sample_rate_hz: np.ndarray) -> jax.Array:
    """Power spectra `[channels, frames, bins]` to `[..., coefficients]`."""
    num_bands = options["filterbank_channel_count"]
    weights = _mel_weights(
        power.shape[-1],
        num_bands,
        float(sample_rate_hz.reshape(())),
        options["lower_frequency_limit"],
        options["upper_frequency_limit"],
    )
    bands = square_root(power) @ weights.astype(power.dtype)
    order = np.arange(options["dct_coefficient_count"])[None]
    cosines = np.cos(np.pi / num_bands * order * (np.arange(num_bands)[:, None] + 0.5))
    basis = math.sqrt(2.0 / num_bands) * cosines
    return jnp.log(jnp.maximum(bands, _SMALLEST_BAND)) @ basis.astype(power.dtype)


def _mel_weights(
    num_bins: int, num_bands: int, sample_rate_hz: float, low_hz: float, high_hz: float
) -> np.ndarray:
    """Triangles over magnitudes `[bins, bands]`, on the mel scale of HTK."""

    def mel(frequency_hz: Any) -> Any:
        return 1127.0 * np.log1p(frequency_hz / 700.0)

    bin_hz = 0.5 * sample_rate_hz / (num_bins - 1)
    edges = np.linspace(mel(low_hz), mel(high_hz), num_bands + 2)
    mels = mel(np.arange(num_bins) * bin_hz)[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    weights = np.maximum(np.minimum(rising, falling), 0.0)
    # The bin of the mean does not count, nor bins outside the limits.
    weights[: int(1.5 + low_hz / bin_hz)] = 0.0
    weights[int(high_hz / bin_hz) + 1 :] = 0.0
    return weights
