"""Operations of TFLite that compute spectra."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.models import frontends

Options = dict[str, Any]


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
    return frontends.tf_spectrogram(
        x.T,
        frame=options["window_size"],
        hop=options["stride"],
        power=options["magnitude_squared"],
    )


def mfcc(options: Options, power: jax.Array, sample_rate_hz: np.ndarray) -> jax.Array:
    """Power spectra `[channels, frames, bins]` to `[..., coefficients]`."""
    return frontends.tf_op_mfcc(
        power,
        sample_rate_hz=float(sample_rate_hz.reshape(())),
        num_mels=options["filterbank_channel_count"],
        num_mfcc=options["dct_coefficient_count"],
        low_hz=options["lower_frequency_limit"],
        high_hz=options["upper_frequency_limit"],
    )
