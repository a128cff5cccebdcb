"""Max pooling whose gradient is fast on a CPU."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from uap_jax.models.kernels.windows import num_windows


def max_pool(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """`plain.max_pool` one axis after the other, each window as a separate axis."""
    for axis, size in enumerate(window, start=1):
        num_outputs = num_windows(x.shape[axis], size=size, stride=size)
        x = jax.lax.slice_in_dim(x, 0, num_outputs * size, axis=axis)
        shape = (*x.shape[:axis], num_outputs, size, *x.shape[axis + 1 :])
        x = max_over(x.reshape(shape), axis + 1)
    return x


def max_over(x: jax.Array, axis: int) -> jax.Array:
    """Returns the maximum over an axis; the first of equal values has its gradient.

    `jnp.max` locates it again by comparing x with its maximum. Where XLA computes x
    twice and rounds it in two ways, no value equals it and the gradient is 0 / 0; and
    over few values it is slower.
    """
    index = jax.lax.argmax(jax.lax.stop_gradient(x), axis, jnp.int32)
    indices = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    is_top = jnp.expand_dims(index, axis) == indices
    return jnp.sum(jnp.where(is_top, x, jnp.zeros_like(x)), axis=axis)


def first_maximum(parts: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum of up to 128 arrays and, int8, the first that has it."""
    top, index = parts[0], jnp.zeros(parts[0].shape, jnp.int8)
    for number, part in enumerate(parts[1:], start=1):
        index = jnp.where(part > top, jnp.int8(number), index)
        top = jnp.maximum(top, part)
    return top, index
