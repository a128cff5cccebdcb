"""Layers of TFLite: convolutions, dense layers and pooling, channels last.

Linear ones are homogeneous in the clip and in the weights, so that integers go in and
the scales are multiplied in behind them: sums of integers are exact in float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Options = dict[str, Any]
_PADDINGS = ("SAME", "VALID")
# Up to this many taps a convolution is a product of matrices, or depthwise a sum of
# products: XLA's gradient of a convolution on a CPU is many times slower.
_MAX_TAPS = 64
# An accelerator would round the factors to fewer bits than float32 has.
_PRECISION = lax.Precision.HIGHEST


def convolve(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]` and `[out, h, w, C / groups]` to `[B, H', W', out]`."""
    num_outputs, height, width, depth = kernel.shape
    if depth == x.shape[-1] and height * width <= _MAX_TAPS:
        x, steps = _padded(options, x, height, width)
        columns = jnp.concatenate(_shifted(steps, x, height, width), axis=-1)
        matrix = kernel.reshape(num_outputs, -1).T
        return jnp.matmul(columns, matrix, precision=_PRECISION)
    return lax.conv_general_dilated(
        x,
        kernel,
        _pair(options, "StrideH", "StrideW"),
        _PADDINGS[options["Padding"]],
        rhs_dilation=_pair(options, "DilationHFactor", "DilationWFactor"),
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        feature_group_count=x.shape[-1] // depth,
        precision=_PRECISION,
    )


def convolve_depthwise(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]` and `[1, h, w, C m]` to `[B, H', W', C m]`."""
    height, width, channels = kernel.shape[1:]
    if height * width > _MAX_TAPS:
        return lax.conv_general_dilated(
            x,
            kernel[0][:, :, None],
            _pair(options, "StrideH", "StrideW"),
            _PADDINGS[options["Padding"]],
            rhs_dilation=_pair(options, "DilationHFactor", "DilationWFactor"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
            precision=_PRECISION,
        )
    x = jnp.repeat(x, channels // x.shape[-1], axis=-1)
    x, steps = _padded(options, x, height, width)
    return _sum_taps(steps, x, kernel[0])


# (strides, dilation) of a convolution.
_Steps = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_taps(steps: _Steps, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `sum_ij kernel_ij x_ij`, x_ij being what a tap `[h, w, C]` meets."""
    taps = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
    parts = _shifted(steps, x, *kernel.shape[:2])
    return functools.reduce(jnp.add, map(jnp.multiply, parts, taps))


def _sum_taps_forward(
    steps: _Steps, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_taps(steps, x, kernel), (x, kernel)


def _sum_taps_backward(
    steps: _Steps, inputs: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradient as such a sum again: JAX's is one of padded arrays, and slow."""
    (x, kernel), (strides, dilation) = inputs, steps
    pads = []
    for axis in (1, 2):
        before = dilation[axis - 1] * (kernel.shape[axis - 1] - 1)
        spread = (cotangent.shape[axis] - 1) * strides[axis - 1] + 1
        pads.append((before, x.shape[axis] - spread, strides[axis - 1] - 1))
    zero = jnp.zeros((), cotangent.dtype)
    spread = lax.pad(cotangent, zero, ((0, 0, 0), *pads, (0, 0, 0)))
    to_x = _sum_taps(((1, 1), dilation), spread, kernel[::-1, ::-1])
    parts = _shifted(steps, x, *kernel.shape[:2])
    to_kernel = jnp.stack([jnp.sum(part * cotangent, axis=(0, 1, 2)) for part in parts])
    return to_x, to_kernel.reshape(kernel.shape)


_sum_taps.defvjp(_sum_taps_forward, _sum_taps_backward)


def _padded(
    options: Options, x: jax.Array, height: int, width: int
) -> tuple[jax.Array, _Steps]:
    strides = _pair(options, "StrideH", "StrideW")
    dilation = _pair(options, "DilationHFactor", "DilationWFactor")
    extent = [d * (n - 1) + 1 for d, n in zip(dilation, (height, width), strict=True)]
    padding = _PADDINGS[options["Padding"]]
    pads = lax.padtype_to_pads(x.shape[1:3], extent, strides, padding)
    return jnp.pad(x, ((0, 0), *pads, (0, 0))), (strides, dilation)


def _shifted(steps: _Steps, x: jax.Array, height: int, width: int) -> list[jax.Array]:
    """Returns what each tap of a kernel meets, each `[B, H', W', C]`, row by row."""
    strides, dilation = steps
    # From the first step's first sample to the last step's.
    spans = [
        (size - dilation[axis] * (taps - 1) - 1) // strides[axis] * strides[axis] + 1
        for axis, (size, taps) in enumerate(
            zip(x.shape[1:3], (height, width), strict=True)
        )
    ]

    def shifted(row: int, column: int) -> jax.Array:
        top, left = row * dilation[0], column * dilation[1]
        bottom, right = top + spans[0], left + spans[1]
        return x[:, top : bottom : strides[0], left : right : strides[1]]

    return [shifted(row, column) for row in range(height) for column in range(width)]


def connect(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., n]` and `[out, n]` to `[rows, out]`, or `[..., out]`."""
    rows = x.reshape(-1, kernel.shape[1])
    out = jnp.matmul(rows, kernel.T, precision=_PRECISION)
    return out.reshape(*x.shape[:-1], -1) if options.get("KeepNumDims") else out


def multiply_matrices(options: Options, a: jax.Array, b: jax.Array) -> jax.Array:
    a = jnp.swapaxes(a, -1, -2) if options["AdjX"] else a
    b = jnp.swapaxes(b, -1, -2) if options["AdjY"] else b
    return jnp.matmul(a, b, precision=_PRECISION)


def pool_average(options: Options, x: jax.Array) -> jax.Array:
    total = _pool(options, x, 0.0, lax.add)
    return total / _pool(options, jnp.ones_like(x[:1, ..., :1]), 0.0, lax.add)


def pool_max(options: Options, x: jax.Array) -> jax.Array:
    return _pool(options, x, -jnp.inf, lax.max)


def _pool(options: Options, x: jax.Array, start: float, combine: Any) -> jax.Array:
    window = (1, *_pair(options, "FilterHeight", "FilterWidth"), 1)
    strides = (1, *_pair(options, "StrideH", "StrideW"), 1)
    padding = _PADDINGS[options["Padding"]]
    if x.ndim == 4 and window[1:3] == x.shape[1:3] and padding == "VALID":
        reduce = jnp.sum if combine is lax.add else jnp.max
        return reduce(x, axis=(1, 2), keepdims=True)
    first = np.asarray(start, x.dtype)
    return lax.reduce_window(x, first, combine, window, strides, padding)


def activate(number: int, x: jax.Array, scale: float | jax.Array = 1.0) -> jax.Array:
    """An operation's fused activation, of x in units of `scale`."""
    match number:
        case 0:
            return x
        case 1:
            return jnp.maximum(x, 0.0)
        case 2:
            return jnp.clip(x, -1.0 / scale, 1.0 / scale)
        case 3:
            return jnp.clip(x, 0.0, 6.0 / scale)
        case 4:
            return jnp.tanh(scale * x) / scale
    raise ValueError(f"expected a fused activation up to 4, got number {number}")


def softmax_scale(options: Options) -> float:
    """What logits are multiplied by before their softmax."""
    beta = options.get("Beta", 1.0)
    return beta if math.isfinite(beta) and beta else 1.0


def _pair(options: Options, first: str, second: str) -> tuple[int, int]:
    return options.get(first, 1), options.get(second, 1)
