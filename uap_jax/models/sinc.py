"""The sinc layer: band-pass filters of which only the band edges are learned."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.models import kernels

KERNEL_SIZE = 251
# Added to the learned lower edge and to the learned width.
MIN_EDGE_HZ = 50.0
MIN_WIDTH_HZ = 50.0


def initial_bands_hz(
    num_filters: int, *, sample_rate_hz: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lower edges and widths of bands evenly spaced in mel.

    A band reaches from the point before it to the point after it, from 80 mel up to
    half the sample rate; the first begins at 30 Hz and the last ends 100 Hz below half
    the sample rate, which may be below its lower edge: the layer takes the width's
    absolute value.

    Returns:
        `[F]` and `[F]` float64, Hz.
    """
    highest_mel = 2595 * np.log10(1 + sample_rate_hz / 2 / 700)
    points = 700 * (10 ** (np.linspace(80, highest_mel, num_filters) / 2595) - 1)
    low = np.concatenate([[30.0], points[:-1]])
    high = np.concatenate([points[1:], [sample_rate_hz / 2 - 100]])
    return low, high - low


def sinc_filters(low: jax.Array, width: jax.Array) -> jax.Array:
    """Returns windowed ideal band-pass filters, each of value 1 at its centre tap.

    The difference of two sinc functions divided by its maximum,
    `(f2 sinc(2 f2 t) - f1 sinc(2 f1 t)) / (f2 - f1) = cos(pi (f1 + f2) t) sinc((f2 -
    f1) t)` with `sinc(x) = sin(pi x) / (pi x)`, times a Hamming window. The product has
    neither a cancellation nor a quotient of zeros at t = 0.

    Args:
        low: `[F]` f1, cycles per sample.
        width: `[F]` f2 - f1, cycles per sample, above 0.

    Returns:
        `[251, F]`.
    """
    half = KERNEL_SIZE // 2
    t = jnp.arange(-half, half + 1, dtype=low.dtype)[:, None]
    window = jnp.asarray(np.hamming(KERNEL_SIZE), low.dtype)[:, None]
    carrier = jnp.cos(jnp.pi * t * (2 * low + width)[None])
    return window * carrier * jnp.sinc(t * width[None])


def band_edges_hz(variables: Any, *, sample_rate_hz: int = 16_000) -> jax.Array:
    """Returns the band edges `[F, 2]` that a network's layer "sinc" has learned, Hz.

    An upper edge may lie above half the sample rate: nothing holds it below.
    """
    low, width = _bands(variables["params"]["sinc"], sample_rate_hz)
    return jnp.stack([low, low + width], axis=1) * sample_rate_hz


def initial_band_edges_hz(
    num_filters: int, *, sample_rate_hz: int = 16_000
) -> jax.Array:
    """Returns what `band_edges_hz` does of a network that has learned nothing."""
    bands = initial_bands_hz(num_filters, sample_rate_hz=sample_rate_hz)
    low, width = (jnp.asarray(b / sample_rate_hz, jnp.float32) for b in bands)
    variables = {"params": {"sinc": {"low": low, "width": width}}}
    return band_edges_hz(variables, sample_rate_hz=sample_rate_hz)


class SincBank(nn.Module):
    """A sinc layer without padding, then max pooling: `[B, N] -> [B, T, num_filters]`.

    T is `(N - 250) // pool_size`. The parameters are lower edges and widths in cycles
    per sample. This is the variant of the paper's authors; the original SincNet starts
    from bands half as wide, holds the upper edge below half the sample rate and takes
    the outputs' absolute value.

    Source: Ravanelli and Bengio, "Speaker Recognition from Raw Waveform with SincNet",
    2018.
    """

    num_filters: int
    pool_size: int = 1
    sample_rate_hz: int = 16_000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bands = initial_bands_hz(self.num_filters, sample_rate_hz=self.sample_rate_hz)
        params = {
            name: self.param(
                name, lambda _, b=band: jnp.asarray(b / self.sample_rate_hz, x.dtype)
            )
            for name, band in zip(("low", "width"), bands, strict=True)
        }
        filters = sinc_filters(*_bands(params, self.sample_rate_hz))
        return kernels.ops().filter_bank(
            x, filters, pool_size=self.pool_size, symmetric=True
        )


def _bands(
    params: Mapping[str, jax.Array], sample_rate_hz: int
) -> tuple[jax.Array, jax.Array]:
    """Returns lower edges and widths in cycles per sample, both above their minima."""
    low = jnp.abs(params["low"]) + MIN_EDGE_HZ / sample_rate_hz
    return low, jnp.abs(params["width"]) + MIN_WIDTH_HZ / sample_rate_hz
