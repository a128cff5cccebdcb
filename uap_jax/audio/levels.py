"""Sound levels in dB: SPL (Eq. 5, 6), SNR (Eq. 14), relative loudness (Eq. 15).

All functions reduce the last axis of float32 arrays. Silence has defined values:
`spl_db` of it is `SILENCE_DB`; a silent recording has no SNR and no relative loudness
(NaN); a silent perturbation has infinite SNR.
"""

import jax
import jax.numpy as jnp

SILENCE_DB = -200.0


def rms(v: jax.Array) -> jax.Array:
    """Root mean square of the last axis, P(v) of Eq. 6."""
    return jnp.sqrt(jnp.mean(jnp.square(v), axis=-1))


def spl_db(v: jax.Array) -> jax.Array:
    """Sound pressure level, SPL(v) = 20 log10 P(v), Eq. 5.

    Its gradient is (20 / ln 10) v / ||v||^2, and 0 at and below `SILENCE_DB`, where
    the formula has none.

    Args:
        v: `[..., N]`.

    Returns:
        `[...]` in dB, at least `SILENCE_DB`.
    """
    floor = 10 ** (SILENCE_DB / 10)
    return 10 * jnp.log10(jnp.maximum(jnp.mean(jnp.square(v), axis=-1), floor))


def snr_db(x: jax.Array, delta: jax.Array) -> jax.Array:
    """Signal-to-noise ratio 20 log10(P(x) / P(delta)), Eq. 14.

    In the box the resting level of 0.5 counts as signal, as in the paper.

    Args:
        x: `[..., N]` clean clips.
        delta: `[..., N]` what was added to them.

    Returns:
        `[...]` in dB; NaN where x is zero, infinity where only delta is.
    """
    return _ratio_db(rms(x), rms(delta))


def snr_ac_db(x: jax.Array, delta: jax.Array) -> jax.Array:
    """Signal-to-noise ratio of the mean-free signals: what an ear would call SNR.

    Args and returns are those of `snr_db`; a constant clip counts as silent.
    """
    return _ratio_db(rms(_mean_free(x)), rms(_mean_free(delta)))


def relative_loudness_db(x: jax.Array, delta: jax.Array) -> jax.Array:
    """Peak level of delta over that of x, 20 log10(max|delta| / max|x|), Eq. 15.

    The paper prints no absolute value, without which Eq. 15 is undefined for negative
    samples.

    Args:
        x: `[..., N]` clean clips.
        delta: `[..., N]` what was added to them.

    Returns:
        `[...]` in dB; NaN where x is zero, minus infinity where only delta is.
    """
    peak_x = jnp.max(jnp.abs(x), axis=-1)
    return -_ratio_db(peak_x, jnp.max(jnp.abs(delta), axis=-1))


def _mean_free(x: jax.Array) -> jax.Array:
    # The mean of a constant in float32 may miss it by rounding; what is left of such a
    # clip must not count as sound.
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    constant = jnp.max(x, axis=-1) == jnp.min(x, axis=-1)
    return jnp.where(constant[..., None], jnp.zeros_like(x), centred)


def _ratio_db(signal: jax.Array, noise: jax.Array) -> jax.Array:
    ratio = 20 * (jnp.log10(signal) - jnp.log10(noise))
    return jnp.where(signal > 0, ratio, jnp.full_like(ratio, jnp.nan))
