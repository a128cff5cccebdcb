"""Convolutions as matrix products, or in the one form that XLA is fast with."""

import functools

import jax
import jax.numpy as jnp

from uap_jax.models.kernels.plain import check_kernel_fits, xla_conv_2d
from uap_jax.models.kernels.windows import (
    cut_or_pad,
    num_windows,
    overlapping_blocks,
)

# Columns that the Toeplitz product is widened to, and the most outputs that one of its
# rows gives. More outputs repeat less of the input and multiply more zeros.
TOEPLITZ_COLUMNS = 128
MAX_BLOCK_OUTPUTS = 4


def conv_1d_toeplitz(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """`conv_1d` as one matrix product over overlapping blocks of the input.

    A block of `(P - 1) s + K` steps gives P outputs, so the matrix holds P shifted
    copies of the kernel: worth it where the kernel alone is a thin matrix.
    """
    kernel_size, channels, features = kernel.shape
    block_outputs = max(1, min(MAX_BLOCK_OUTPUTS, TOEPLITZ_COLUMNS // features))
    num_outputs = num_windows(x.shape[1], size=kernel_size, stride=stride)
    num_blocks = -(-num_outputs // block_outputs)
    size = (block_outputs - 1) * stride + kernel_size
    matrix = toeplitz_matrix(kernel, size, block_outputs=block_outputs, stride=stride)
    blocks = overlapping_blocks(
        x, num_blocks=num_blocks, hop=block_outputs * stride, size=size
    )
    y = blocks.reshape(-1, size * channels) @ matrix
    return y.reshape(x.shape[0], -1, features)[:, :num_outputs]


def toeplitz_matrix(
    kernel: jax.Array, size: int, *, block_outputs: int, stride: int = 1
) -> jax.Array:
    """Returns `[S I, P O]` from a block of S steps to its P outputs."""
    kernel_size, channels, features = kernel.shape
    # Row p of a repetition with period `size + stride`, cut into rows of `size`, is
    # the kernel moved on by p strides.
    padded = jnp.pad(kernel, ((0, size + stride - kernel_size), (0, 0), (0, 0)))
    copies = jnp.tile(padded, (block_outputs, 1, 1))[: block_outputs * size]
    matrix = copies.reshape(block_outputs, size, channels, features)
    return matrix.transpose(1, 2, 0, 3).reshape(
        size * channels, block_outputs * features
    )


def conv_1d_polyphase(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """`conv_1d` as `conv_2d_canonical` of one row, its stride turned into channels."""
    kernel_size, channels, features = kernel.shape
    num_outputs = num_windows(x.shape[1], size=kernel_size, stride=stride)
    num_taps = -(-kernel_size // stride)
    missing = num_taps * stride - kernel_size
    kernel = jnp.pad(kernel, ((0, missing), (0, 0), (0, 0)))
    x = cut_or_pad(x, (num_outputs - 1 + num_taps) * stride)
    return conv_2d_canonical(
        x.reshape(x.shape[0], 1, -1, stride * channels),
        kernel.reshape(1, num_taps, stride * channels, features),
    )[:, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_2d_canonical(x: jax.Array, kernel: jax.Array, padding: int = 0) -> jax.Array:
    """`conv_2d` and its gradients as XLA's CPU backend is fastest with them.

    Without any padding it is several times slower than with one more column. The
    gradient of x is a convolution with the reversed kernel; left alone, XLA reverses
    it where a loop does not see it and then has no fast path. The kernel's own
    gradient is that of `conv_2d_rows`, a matrix product.
    """
    check_kernel_fits(x, kernel, padding)
    if padding:
        return xla_conv_2d(x, kernel, ((padding, padding),) * 2)
    return xla_conv_2d(x, kernel, ((0, 0), (1, 0)))[:, :, 1:]


def _conv_2d_forward(
    x: jax.Array, kernel: jax.Array, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_2d_canonical(x, kernel, padding), (x, kernel)


def _conv_2d_backward(
    padding: int, residuals: tuple[jax.Array, jax.Array], direction: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    swapped = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    margins = [size - 1 - padding for size in kernel.shape[:2]]
    x_gradient = xla_conv_2d(
        direction,
        jax.lax.optimization_barrier(swapped),
        [(margin, margin) for margin in margins],
    )
    _, pull_back = jax.vjp(lambda k: conv_2d_rows(x, k, padding), kernel)
    return x_gradient, *pull_back(direction)


conv_2d_canonical.defvjp(_conv_2d_forward, _conv_2d_backward)


def conv_2d_rows(x: jax.Array, kernel: jax.Array, padding: int = 0) -> jax.Array:
    """`conv_2d` as a Toeplitz product, the rows of the kernel turned into channels."""
    check_kernel_fits(x, kernel, padding)
    num_rows, width, channels, features = kernel.shape
    sides = (padding, padding)
    x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
    height = num_windows(x.shape[1], size=num_rows)
    stacked = jnp.concatenate([x[:, k : k + height] for k in range(num_rows)], axis=3)
    y = conv_1d_toeplitz(
        stacked.reshape(-1, x.shape[2], num_rows * channels),
        kernel.transpose(1, 0, 2, 3).reshape(width, num_rows * channels, features),
    )
    return y.reshape(x.shape[0], height, -1, features)
