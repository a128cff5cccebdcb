"""Convolution and wide max pooling as one, for the sake of the gradient.

Of a window's outputs the maximum alone has a gradient, so the gradient of the
convolution's outputs is nearly all zeros: for windows of 64, a convolution of it is 64
times the work of adding up the kernel where the maxima are.
"""

import functools

import jax
import jax.numpy as jnp

from uap_jax.models.kernels.convolutions import conv_1d_polyphase
from uap_jax.models.kernels.pooling import first_maximum
from uap_jax.models.kernels.windows import num_windows

# The narrowest window for which adding kernels one after the other is faster, and the
# widest whose outputs are compared one by one.
MIN_SPARSE_WINDOW = 32
MAX_SPARSE_WINDOW = 64


def pools_sparsely(window: tuple[int, ...]) -> bool:
    """Returns whether `conv_1d_max_pool` is faster than a convolution, then pooling."""
    return len(window) == 1 and MIN_SPARSE_WINDOW <= window[0] <= MAX_SPARSE_WINDOW


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_1d_max_pool(
    x: jax.Array, kernel: jax.Array, window: int, stride: int
) -> jax.Array:
    """`conv_1d`, then `max_pool`; the gradient adds up kernels where the maxima are."""
    return _forward(x, kernel, window, stride)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, window: int, stride: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y = conv_1d_polyphase(x, kernel, stride=stride)
    num_outputs = num_windows(y.shape[1], size=window, stride=window)
    y = y[:, : num_outputs * window]
    y = y.reshape(y.shape[0], num_outputs, window, y.shape[2])
    parts = [jax.lax.index_in_dim(y, i, 2, keepdims=False) for i in range(window)]
    _, index = first_maximum(parts)
    # Not the maximum above: what follows would compute it again, value by value.
    return jnp.max(y, axis=2), (x, kernel, index)


def _backward(
    window: int, stride: int, residuals: tuple[jax.Array, ...], direction: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel, index = residuals
    first_outputs = window * jnp.arange(index.shape[1], dtype=jnp.int32)
    starts = (first_outputs[None, :, None] + index.astype(jnp.int32)) * stride
    x_gradient = sum_of_kernels(direction, starts, kernel, x.shape[1])
    # Needed for training alone, so the dense form is good enough.
    indices = jax.lax.broadcasted_iota(index.dtype, (*index.shape, window), 3)
    dense = jnp.where(index[..., None] == indices, direction[..., None], 0.0)
    dense = dense.swapaxes(2, 3).reshape(x.shape[0], -1, kernel.shape[2])
    steps = (dense.shape[1] - 1) * stride + kernel.shape[0]
    _, pull_back = jax.vjp(
        lambda k: conv_1d_polyphase(x[:, :steps], k, stride=stride), kernel
    )
    return x_gradient, *pull_back(dense)


conv_1d_max_pool.defvjp(_forward, _backward)


def sum_of_kernels(
    factors: jax.Array, starts: jax.Array, kernel: jax.Array, num_steps: int
) -> jax.Array:
    """Adds up multiples `[B, W, O]` of a kernel's filters, each from its start.

    `y[b, t, i] = sum_{w, o} factors[b, w, o] kernel[t - starts[b, w, o], i, o]`, with
    T steps; starts are int32, from 0 to T - K.
    """
    kernel_size, channels, features = kernel.shape
    num_clips = factors.shape[0]
    size = kernel_size * channels

    # With a separate axis for every slice, the loop would be one of gathers.
    @jax.custom_batching.sequential_vmap
    def run(factors: jax.Array, starts: jax.Array, filters: jax.Array) -> jax.Array:
        def add(number: jax.Array, y: jax.Array) -> jax.Array:
            index = number // features, number % features
            piece = jax.lax.dynamic_slice(y, (starts[index],), (size,))
            piece += factors[index] * filters[index[1]]
            return jax.lax.dynamic_update_slice(y, piece, (starts[index],))

        # Zeros known to be constant are made outside of a loop around this one, and
        # copied in every iteration.
        zero = (starts[0, 0] < 0).astype(factors.dtype)
        y = jnp.full(num_clips * num_steps * channels, zero)
        return jax.lax.fori_loop(0, factors.size, add, y)

    clip_starts = num_steps * jnp.arange(num_clips, dtype=starts.dtype)
    starts = (starts + clip_starts[:, None, None]) * channels
    filters = kernel.transpose(2, 0, 1).reshape(features, size)
    # Only with the filters last are these computed along whole rows.
    y = run(factors.reshape(-1, features), starts.reshape(-1, features), filters)
    return y.reshape(num_clips, num_steps, channels)
