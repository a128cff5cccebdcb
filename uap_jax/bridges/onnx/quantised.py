"""Quantised operations of ONNX.

Integers that depend on the clips are held in floating point, where sums of products of
8-bit numbers are exact. Rounding has the gradient of the identity (straight-through),
the limits of a type that of a clip.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.onnx import layers
from uap_jax.bridges.onnx.files import Node


@jax.custom_jvp
def _round(x: jax.Array) -> jax.Array:
    return jnp.round(x)


_round.defjvps(lambda tangent, rounded, x: tangent)


def _limited(x: jax.Array, low: float, high: float) -> jax.Array:
    """Clips; at the limits themselves the gradient is that of the identity."""
    return jnp.where(x > high, high, jnp.where(x < low, low, x))


def _along(parameter: Any, axis: int, ndim: int) -> Any:
    """Returns a parameter that is per channel with its axis in its position."""
    if np.size(parameter) == 1:
        return jnp.reshape(parameter, ())
    shape = [1] * ndim
    shape[axis] = -1
    return jnp.reshape(parameter, shape)


def _quantise(node: Node, x: Any, scale: Any, zero: Any = None) -> jax.Array:
    axis = node.attributes.get("axis", 1)
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    zero = np.uint8(0) if zero is None else zero
    limits = np.iinfo(dtype)
    q = _round(x / _along(scale, axis, x.ndim)) + _real(_along(zero, axis, x.ndim))
    return _limited(q, float(limits.min), float(limits.max))


def _dequantise(node: Node, x: Any, scale: Any, zero: Any = None) -> jax.Array:
    if node.attributes.get("block_size"):
        raise ValueError("expected block_size 0")
    axis = node.attributes.get("axis", 1)
    offset = 0.0 if zero is None else _real(_along(zero, axis, np.ndim(x)))
    return (_real(x) - offset) * _along(scale, axis, np.ndim(x))


def _quantise_by_clip(node: Node, x: jax.Array) -> list[jax.Array]:
    """To uint8, between the smallest and the largest number and 0."""
    del node
    low, high = jnp.minimum(jnp.min(x), 0.0), jnp.maximum(jnp.max(x), 0.0)
    scale = jax.lax.stop_gradient((high - low) / 255.0)
    scale = jnp.where(scale == 0.0, 1.0, scale)
    zero = jax.lax.stop_gradient(jnp.clip(jnp.round(-low / scale), 0.0, 255.0))
    return [_limited(_round(x / scale) + zero, 0.0, 255.0), scale, zero]


def _multiply(node: Node, a: Any, b: Any, a_zero: Any = 0, b_zero: Any = 0) -> Any:
    del node
    a_zero = _real(0 if a_zero is None else a_zero)
    a_zero = a_zero[..., None] if np.size(a_zero) > 1 else a_zero
    return (_real(a) - a_zero) @ (_real(b) - _real(0 if b_zero is None else b_zero))


def _convolve(node: Node, x: Any, w: Any, x_zero: Any = 0, w_zero: Any = 0) -> Any:
    x = _real(x) - _real(0 if x_zero is None else x_zero)
    zero = 0.0 if w_zero is None else _along(_real(w_zero), 0, w.ndim)
    y = layers.convolve(node, jnp.moveaxis(x, 1, -1), _real(w) - zero)
    return jnp.moveaxis(y, -1, 1)


def _real(x: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    return jnp.asarray(x).astype(np.float32)


OPERATIONS = {
    "ConvInteger": _convolve,
    "DequantizeLinear": _dequantise,
    "DynamicQuantizeLinear": _quantise_by_clip,
    "MatMulInteger": _multiply,
    "QuantizeLinear": _quantise,
}
