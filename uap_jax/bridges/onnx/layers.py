"""Layers of ONNX: convolutions, pooling, normalisation; channels last.

Which form of a convolution or pooling is computed is chosen in `models.kernels`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from uap_jax.bridges.onnx.files import Node
from uap_jax.models import kernels

_KNOWN = (np.ndarray, np.generic, int, float, type(None))
Pads = list[tuple[int, int]]


def np_of(*values: Any) -> Any:
    """Returns numpy if all values are known when compiling, jax.numpy otherwise."""
    return np if all(isinstance(value, _KNOWN) for value in values) else jnp


def static(value: Any, name: str) -> np.ndarray:
    """Returns an input that must be known when compiling.

    Raises:
        ValueError: It depends on the clips.
    """
    if np_of(value) is np:
        return np.asarray(value)
    raise ValueError(f"expected {name} that does not depend on the clips")


def square_root(x: Any) -> Any:
    """sqrt(x) with a gradient of 0 at 0."""
    if np_of(x) is np:
        return np.sqrt(x)
    is_zero = x == 0.0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, x)))


def convolve(node: Node, x: jax.Array, kernel: Any, bias: Any = None) -> jax.Array:
    """`[B, ..., I]` and `[O, I / groups, ...]` to `[B, ..., O]`."""
    size = kernel.shape[2:]
    strides, dilation = _per_axis(node, "strides", size), _dilation(node, size)
    y = kernels.ops().conv(
        x,
        jnp.moveaxis(jnp.asarray(kernel), (0, 1), (-1, -2)),
        strides=strides,
        padding=_pads(node, x.shape[1:-1], size, strides, dilation),
        dilation=dilation,
        groups=node.attributes.get("group", 1),
    )
    return y if bias is None else y + bias


def convolve_transposed(
    node: Node, x: jax.Array, kernel: Any, bias: Any = None
) -> jax.Array:
    """`[B, ..., I]` and `[I, O / groups, ...]` to `[B, ..., O]`."""
    get, size = node.attributes.get, kernel.shape[2:]
    if get("auto_pad", "NOTSET") != "NOTSET" or get("output_shape"):
        raise ValueError("expected pads, got auto_pad or output_shape")
    strides, dilation = _per_axis(node, "strides", size), _dilation(node, size)
    groups, extra = get("group", 1), get("output_padding", (0,) * len(size))
    starts, ends = _split_pads(get("pads", (0,) * 2 * len(size)))
    extents = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
    pads = [
        (extent - start, extent - end + more)
        for extent, start, end, more in zip(extents, starts, ends, extra, strict=True)
    ]
    # [groups, I / groups, O / groups, ...] to [..., I / groups, O].
    kernel = jnp.asarray(kernel).reshape(groups, -1, *kernel.shape[1:])
    kernel = jnp.flip(kernel, tuple(range(3, kernel.ndim)))
    kernel = jnp.moveaxis(kernel, (1, 0, 2), (-3, -2, -1))
    kernel = kernel.reshape(*kernel.shape[:-2], -1)
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1,) * len(size),
        pads,
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=kernels.plain.channels_last(x.ndim),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias


def pool_max(node: Node, x: jax.Array) -> jax.Array:
    if len(node.outputs) > 1:
        raise ValueError("expected one output, the maxima, got their indices too")
    size, strides, dilation, pads = _window(node, x)
    return kernels.ops().max_over_windows(
        x, size, strides=strides, padding=pads, dilation=dilation
    )


def pool_average(node: Node, x: jax.Array) -> jax.Array:
    size, strides, dilation, pads = _window(node, x)
    settings = {"strides": strides, "dilation": dilation}
    total = kernels.ops().sum_over_windows(x, size, padding=pads, **settings)
    ones = np.ones((1, *x.shape[1:-1], 1), np.float32)
    if node.attributes.get("count_include_pad"):
        # What ceil_mode adds at the end does not count.
        starts, ends = _split_pads(node.attributes.get("pads", (0,) * 2 * len(size)))
        stated = list(zip(starts, ends, strict=True))
        ones = np.pad(ones, [(0, 0), *stated, (0, 0)], constant_values=1.0)
        pads = [(0, b - e) for (_, b), e in zip(pads, ends, strict=True)]
    with jax.ensure_compile_time_eval():
        counts = kernels.plain.sum_over_windows(
            jnp.asarray(ones), size, padding=pads, **settings
        )
    return total / counts


def pool_globally(reduce: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda node, x: reduce(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)


def normalise_batch(
    node: Node, x: jax.Array, scale: Any, bias: Any, mean: Any, variance: Any
) -> jax.Array:
    if node.attributes.get("training_mode"):
        raise ValueError("expected evaluation mode, got training_mode")
    factor = scale * lax.rsqrt(variance + node.attributes.get("epsilon", 1e-5))
    return x * factor + (bias - mean * factor)


def normalise_instance(node: Node, x: jax.Array, scale: Any, bias: Any) -> jax.Array:
    axes = tuple(range(1, x.ndim - 1))
    return _normalised(x, axes, node.attributes.get("epsilon", 1e-5)) * scale + bias


def normalise_layer(node: Node, x: Any, scale: Any, bias: Any = None) -> jax.Array:
    if len(node.outputs) > 1:
        raise ValueError("expected one output, got mean or deviation too")
    axes = tuple(range(node.attributes.get("axis", -1) % x.ndim, x.ndim))
    y = _normalised(x, axes, node.attributes.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


def normalise_mean_square(node: Node, x: Any, scale: Any) -> jax.Array:
    axes = tuple(range(node.attributes.get("axis", -1) % x.ndim, x.ndim))
    power = jnp.mean(x * x, axes, keepdims=True)
    return x * lax.rsqrt(power + node.attributes.get("epsilon", 1e-5)) * scale


def normalise_groups(node: Node, x: Any, scale: Any, bias: Any) -> jax.Array:
    """Of `[B, C, ...]`, in this case channels second."""
    groups = node.attributes["num_groups"]
    parts = x.reshape(x.shape[0], groups, -1)
    y = _normalised(parts, (2,), node.attributes.get("epsilon", 1e-5))
    if node.version < 21:
        shape = (groups, 1)
        return (y * scale.reshape(shape) + bias.reshape(shape)).reshape(x.shape)
    shape = (x.shape[1], *(1,) * (x.ndim - 2))
    return y.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape)


def _normalised(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    x = x - jnp.mean(x, axes, keepdims=True)
    return x * lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + epsilon)


def _per_axis(node: Node, name: str, size: Sequence[int]) -> tuple[int, ...]:
    return tuple(node.attributes.get(name) or (1,) * len(size))


def _dilation(node: Node, size: Sequence[int]) -> tuple[int, ...]:
    return _per_axis(node, "dilations", size)


def _window(
    node: Node, x: jax.Array
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads]:
    size = tuple(node.attributes["kernel_shape"])
    strides, dilation = _per_axis(node, "strides", size), _dilation(node, size)
    pads = _pads(node, x.shape[1:-1], size, strides, dilation)
    if node.attributes.get("ceil_mode"):
        axes = zip(pads, x.shape[1:-1], size, strides, dilation, strict=True)
        pads = [_with_last_window(*axis) for axis in axes]
    return size, strides, dilation, pads


def _with_last_window(
    pads: tuple[int, int], length: int, size: int, stride: int, dilation: int
) -> tuple[int, int]:
    """Returns the padding with which a window that is cut off has an output."""
    start, end = pads
    extent = dilation * (size - 1) + 1
    count = -(-(length + start + end - extent) // stride) + 1
    # It must begin inside of the array or of the padding before it.
    if (count - 1) * stride >= length + start:
        count -= 1
    return start, max(end, (count - 1) * stride + extent - length - start)


def _pads(
    node: Node,
    lengths: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> Pads:
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        starts, ends = _split_pads(node.attributes.get("pads", (0,) * 2 * len(size)))
        return list(zip(starts, ends, strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(size)
    pads = []
    for n, k, s, d in zip(lengths, size, strides, dilation, strict=True):
        total = max(0, (math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if mode == "SAME_UPPER" else (more, less))
    return pads


def _split_pads(pads: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    return pads[: len(pads) // 2], pads[len(pads) // 2 :]
