"""The operations as XLA has them: the reference, and the form of accelerators.

All raise ValueError where an input is too small for one output.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.models.kernels.windows import num_windows

# Added to the variance of a layer norm.
EPSILON = 1e-6


def conv_1d(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """`[B, T, I]`, `[K, I, O]` to `[B, (T - K) // s + 1, O]`, without padding.

    `y[b, t, o] = sum_{k, i} kernel[k, i, o] x[b, t s + k, i]`, s being the stride.
    """
    num_windows(x.shape[1], size=kernel.shape[0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def conv_2d(x: jax.Array, kernel: jax.Array, *, padding: int = 0) -> jax.Array:
    """`[B, H, W, I]`, `[K, L, I, O]` to `[B, H + 2 p - K + 1, W + 2 p - L + 1, O]`.

    p zeros on all four sides (`padding`), fewer than K and L.
    """
    check_kernel_fits(x, kernel, padding)
    return xla_conv_2d(x, kernel, ((padding, padding),) * 2)


def max_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Takes the maximum over windows that do not overlap; a short last one is dropped.

    `[B, ..., C]` keeps its axes, those between divided by their windows. Where values
    tie, one of them has the gradient, not the same one in both forms.
    """
    for axis, size in enumerate(window, start=1):
        num_windows(x.shape[axis], size=size)
    sizes = (1, *window, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, sizes, "VALID")


def pools_sparsely(window: tuple[int, ...]) -> bool:
    """Returns whether `conv_1d_max_pool` is faster than a convolution, then pooling."""
    del window
    return False


def filter_bank(
    x: jax.Array, filters: jax.Array, *, pool_size: int = 1, symmetric: bool = False
) -> jax.Array:
    """Clips `[B, N]`, filters `[K, F]` to `[B, (N - K + 1) // P, F]`, pooled.

    `y[b, t, f] = max_{0 <= j < P} sum_k filters[k, f] x[b, t P + j + k]`

    `symmetric` promises that each filter equals its reverse, which halves the work of
    the fast form; its gradient of the filters then holds for changes that keep the
    promise.
    """
    del symmetric
    return max_pool(conv_1d(x[:, :, None], filters[:, None, :]), (pool_size,))


def leaky_layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, leak: float
) -> jax.Array:
    """`leaky_relu((x - mean) / sqrt(variance + 1e-6) scale + bias)`, of `[R, C]`."""
    x = x - jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.mean(x * x, axis=1, keepdims=True)
    normalised = x * jax.lax.rsqrt(variance + EPSILON)
    return nn.leaky_relu(normalised * scale[None] + bias[None], leak)


def xla_conv_2d(
    x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """Convolves `[B, H, W, I]` with `[K, L, I, O]`."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def check_kernel_fits(x: jax.Array, kernel: jax.Array, padding: int) -> None:
    """Raises ValueError where `conv_2d` would have no output."""
    for axis in (0, 1):
        num_windows(x.shape[1 + axis] + 2 * padding, size=kernel.shape[axis])


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """`[B, ..., I]`, `[..., I / groups, O]` to `[B, ..., O]`, any number of axes."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(x.ndim),
        feature_group_count=groups,
    )


def max_over_windows(
    x: jax.Array,
    window: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Maxima of `[B, ..., C]` over windows that may overlap."""
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *padding, (0, 0)),
        window_dilation=(1, *dilation, 1),
    )


def sum_over_windows(
    x: jax.Array,
    window: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Sums of `[B, ..., C]` over windows that may overlap."""
    return jax.lax.reduce_window(
        x,
        0.0,
        jax.lax.add,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *padding, (0, 0)),
        window_dilation=(1, *dilation, 1),
    )


def channels_last(ndim: int) -> tuple[str, str, str]:
    """Returns the dimension numbers of a convolution of arrays with `ndim` axes."""
    axes = "DHW"[-(ndim - 2) :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"
