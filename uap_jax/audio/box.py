"""The box [0, 1] of the attacks: scalings of a waveform, and tanh space.

Scalings of a waveform a in [-1, 1]:

- `fixed`: x = (a + 1) / 2. No gain per clip, so the same waveform is added to every
  recording.
- `peak`: x = 0.5 + 0.5 a / max|a|.
- `minmax`: x = (a - min a) / (max a - min a), which the paper's numbers imply.

Under `peak` and `minmax` a constant clip becomes 0.5 everywhere.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.audio import SCALINGS

# Keeps arctanh finite at the faces of the box (the paper's value; float32 resolves 6e-8
# here).
EPSILON = 1e-7


class BoxScale(NamedTuple):
    """How to return from the box: `waveform = offset + scale * x`; both `[...]`."""

    offset: jax.Array
    scale: jax.Array


def to_box(waveform: jax.Array, *, scaling: str) -> tuple[jax.Array, BoxScale]:
    """Scales waveforms to the box.

    Args:
        waveform: `[..., N]` float32 in [-1, 1]; `fixed` clips to this range.
        scaling: One of `SCALINGS`.

    Returns:
        Clips `[..., N]` in [0, 1], and the argument of `from_box`.

    Raises:
        ValueError: `scaling` is unknown.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"scaling: expected one of {SCALINGS}, got {scaling!r}")
    return _to_box(waveform, scaling)


@functools.partial(jax.jit, static_argnames=("scaling",))
def _to_box(waveform: jax.Array, scaling: str) -> tuple[jax.Array, BoxScale]:
    low = jnp.min(waveform, axis=-1)
    high = jnp.max(waveform, axis=-1)
    if scaling == "fixed":
        offset, scale = jnp.full_like(low, -1.0), jnp.full_like(low, 2.0)
        flat = jnp.zeros_like(low, jnp.bool_)
    else:
        if scaling == "peak":
            offset, scale = -jnp.maximum(-low, high), 2 * jnp.maximum(-low, high)
        else:
            offset, scale = low, high - low
        # Below the normal numbers a quotient is no longer exact, or is flushed to 0.
        flat = (high - low) < jnp.finfo(jnp.float32).tiny
        offset = jnp.where(flat, low - 1.0, offset)
        scale = jnp.where(flat, jnp.full_like(scale, 2.0), scale)
    x = jnp.clip((waveform - offset[..., None]) / scale[..., None], 0.0, 1.0)
    # Rounding may have moved a flat clip by a bit.
    x = jnp.where(flat[..., None], 0.5, x)
    return x, BoxScale(offset, scale)


def from_box(x: jax.Array, box_scale: BoxScale) -> jax.Array:
    """Returns the waveforms `[..., N]` of clips in the box."""
    return box_scale.offset[..., None] + box_scale.scale[..., None] * x


def to_tanh_space(x: jax.Array, *, epsilon: float = EPSILON) -> jax.Array:
    """Maps clips to tanh space: x' = arctanh((2 x - 1)(1 - epsilon)), Eq. 7.

    For x in [0, 1] and the default epsilon, |x'| <= 8.4.
    """
    return jnp.arctanh((2 * x - 1) * (1 - epsilon))


def from_tanh_space(x_tanh: jax.Array) -> jax.Array:
    """Maps tanh space to the box: w = (tanh(x') + 1) / 2, Eq. 7."""
    return 0.5 * (jnp.tanh(x_tanh) + 1)


def signal_of_tanh(perturbation: jax.Array, *, epsilon: float = EPSILON) -> jax.Array:
    """Eq. 8 as printed: v = (tanh(v') + 1 - epsilon) / (2 - 2 epsilon).

    It maps v' = 0 to 0.5: a point of the box, not a difference of two.
    """
    return (jnp.tanh(perturbation) + 1 - epsilon) / (2 - 2 * epsilon)


def perturbation_between(w: jax.Array, x_tanh: jax.Array) -> jax.Array:
    """The v' that leads from x' to w: v' = ln(w / (1 - w)) / 2 - x', Eq. 9."""
    return 0.5 * (jnp.log(w) - jnp.log1p(-w)) - x_tanh
