"""Convolutions and pooling of foreign networks, with any strides, padding and groups.

Each is reduced to a form that a CPU is fast with: a matrix product, or one of
`convolutions`.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from uap_jax.models.kernels import plain
from uap_jax.models.kernels.convolutions import (
    conv_1d_polyphase,
    conv_1d_toeplitz,
    conv_2d_canonical,
    conv_2d_rows,
)
from uap_jax.models.kernels.pooling import max_pool
from uap_jax.models.kernels.windows import cut_or_pad, num_windows

Padding = Sequence[tuple[int, int]]
# Up to so many taps a depthwise or dilated convolution is a sum, or one product, of
# shifted arrays.
MAX_TAPS = 64


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """`plain.conv` of one or two axes in the form that is fastest."""
    size, channels = kernel.shape[:-2], x.shape[-1]
    settings = {"strides": strides, "padding": padding, "dilation": dilation}
    is_dilated = any(d > 1 and k > 1 for d, k in zip(dilation, size, strict=True))
    is_depthwise = groups > 1 and groups == channels
    many_taps = (is_depthwise or is_dilated) and math.prod(size) > MAX_TAPS
    if len(size) > 2 or many_taps or (groups > 1 and not is_depthwise):
        return plain.conv(x, kernel, **settings, groups=groups)
    if is_depthwise:
        return _depthwise(x, kernel, **settings)
    if math.prod(size) == 1:
        x = _padded(x, padding)[(slice(None), *(slice(None, None, s) for s in strides))]
        return x @ kernel.reshape(channels, -1)
    if is_dilated:
        taps = _taps(_padded(x, padding), size, strides, dilation)
        return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])
    if len(size) == 1:
        form = conv_1d_toeplitz if channels == 1 else conv_1d_polyphase
        return form(_padded(x, padding), kernel, stride=strides[0])
    return _conv_2d(x, kernel, strides, padding)


def _conv_2d(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding
) -> jax.Array:
    # An axis whose kernel is a single tap and stride 1 can be one of the batch.
    if kernel.shape[0] == 1 and strides[0] == 1 and padding[0] == (0, 0):
        rows = x.reshape(-1, *x.shape[2:])
        form = conv_1d_toeplitz if x.shape[-1] == 1 else conv_1d_polyphase
        y = form(_padded(rows, padding[1:]), kernel[0], stride=strides[1])
        return y.reshape(*x.shape[:2], *y.shape[1:])
    form = conv_2d_rows if x.shape[-1] == 1 else conv_2d_canonical
    first = padding[0][0]
    same = all(pair == (first, first) for pair in padding)
    if tuple(strides) == (1, 1):
        if same and first < min(kernel.shape[:2]):
            return form(x, kernel, first)
        return form(_padded(x, padding), kernel)
    if x.shape[-1] == 1:
        return _conv_2d_strided_rows(_padded(x, padding), kernel, strides)
    return _conv_2d_polyphase(_padded(x, padding), kernel, strides)


def _conv_2d_strided_rows(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int]
) -> jax.Array:
    """`conv_2d_rows` with strides."""
    num_rows, width, channels, features = kernel.shape
    step = strides[0]
    height = num_windows(x.shape[1], size=num_rows, stride=step)
    last = (height - 1) * step + 1
    rows = [x[:, k : k + last : step] for k in range(num_rows)]
    y = conv_1d_toeplitz(
        jnp.concatenate(rows, axis=3).reshape(-1, x.shape[2], num_rows * channels),
        kernel.transpose(1, 0, 2, 3).reshape(width, num_rows * channels, features),
        stride=strides[1],
    )
    return y.reshape(x.shape[0], height, -1, features)


def _conv_2d_polyphase(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int]
) -> jax.Array:
    """A convolution of stride 1, the strides turned into channels."""
    for axis, stride in enumerate(strides):
        size = kernel.shape[axis]
        count = num_windows(x.shape[1 + axis], size=size, stride=stride)
        taps = -(-size // stride)
        widths = [(0, 0)] * 4
        widths[axis] = (0, taps * stride - size)
        kernel = jnp.pad(kernel, widths)
        x = jnp.moveaxis(x, 1 + axis, 1)
        x = cut_or_pad(x, (count - 1 + taps) * stride)
        x = jnp.moveaxis(x, 1, 1 + axis)
    (rows, columns), (num_taps, width, channels, features) = strides, kernel.shape
    batch, height, length = x.shape[:3]
    x = x.reshape(batch, height // rows, rows, length // columns, columns, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], -1)
    kernel = kernel.reshape(
        num_taps // rows, rows, width // columns, columns, channels, features
    ).transpose(0, 2, 1, 3, 4, 5)
    return conv_2d_canonical(
        x, kernel.reshape(*kernel.shape[:2], rows * columns * channels, features)
    )


def _depthwise(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> jax.Array:
    """`[B, ..., I]` and `[..., 1, I m]` to `[B, ..., I m]`."""
    size, features = kernel.shape[:-2], kernel.shape[-1]
    x = jnp.repeat(_padded(x, padding), features // x.shape[-1], axis=-1)
    factors = kernel.reshape(-1, features)
    taps = _taps(x, size, strides, dilation)
    products = (tap * factors[i] for i, tap in enumerate(taps))
    return functools.reduce(jnp.add, products)


def max_over_windows(
    x: jax.Array,
    window: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> jax.Array:
    """`plain.max_over_windows`, one axis after the other."""
    apart = tuple(window) == tuple(strides) and not any(map(any, padding))
    if apart and set(dilation) == {1}:
        return max_pool(x, tuple(window))
    x = _padded(x, padding, -jnp.inf)
    return _by_axis(x, window, strides, dilation, jnp.maximum)


def sum_over_windows(
    x: jax.Array,
    window: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> jax.Array:
    """`plain.sum_over_windows`, one axis after the other."""
    return _by_axis(_padded(x, padding), window, strides, dilation, jnp.add)


def _by_axis(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    for axis, size in enumerate(window):
        ones = [1] * len(window)
        sizes, steps, gaps = ones.copy(), ones.copy(), ones.copy()
        sizes[axis], steps[axis], gaps[axis] = size, strides[axis], dilation[axis]
        x = functools.reduce(combine, _taps(x, sizes, steps, gaps))
    return x


def _taps(
    x: jax.Array, size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[jax.Array]:
    """Returns what each tap of a kernel is multiplied by, in the kernel's order."""
    counts = [
        num_windows(n, size=d * (k - 1) + 1, stride=s)
        for n, k, s, d in zip(x.shape[1:-1], size, strides, dilation, strict=True)
    ]
    taps = []
    for flat in range(math.prod(size)):
        index, left = [], flat
        for k in reversed(size):
            left, position = divmod(left, k)
            index.insert(0, position)
        starts = [i * d for i, d in zip(index, dilation, strict=True)]
        ends = [
            b + s * (n - 1) + 1 for b, s, n in zip(starts, strides, counts, strict=True)
        ]
        taps.append(
            jax.lax.slice(
                x, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]), (1, *strides, 1)
            )
        )
    return taps


def _padded(x: jax.Array, padding: Padding, value: float = 0.0) -> jax.Array:
    if not any(map(any, padding)):
        return x
    return jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)
