"""Max pooling in the form that runs fastest, with the plain form beside.

XLA's CPU backend has no fast path for the gradient of its pooling.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from uap_jax.models.kernels.operations import is_fast, num_windows


def max_pool(x: jax.Array, window: tuple[int, ...], *, form: str = "auto") -> jax.Array:
    """Takes the maximum over windows that do not overlap; a last, short one is dropped.

    Args:
        x: `[B, ..., C]` with as many axes between as the window has.
        window: Its size along each.
        form: One of `FORMS`. Where values tie, one of them has the gradient, not the
            same one in both.

    Returns:
        The same with each axis between divided by its window, rounded down.

    Raises:
        ValueError: The form is unknown, or x is smaller than the window.
    """
    return max_pool_reshape(x, window) if is_fast(form) else max_pool_plain(x, window)


def max_pool_plain(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """`max_pool` as XLA has it."""
    for axis, size in enumerate(window, start=1):
        num_windows(x.shape[axis], size=size)
    sizes = (1, *window, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, sizes, "VALID")


def max_pool_reshape(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """`max_pool` one axis after the other, each window an axis of its own."""
    for axis, size in enumerate(window, start=1):
        num_outputs = num_windows(x.shape[axis], size=size, stride=size)
        x = jax.lax.slice_in_dim(x, 0, num_outputs * size, axis=axis)
        shape = (*x.shape[:axis], num_outputs, size, *x.shape[axis + 1 :])
        x = max_over(x.reshape(shape), axis + 1)
    return x


def max_over(x: jax.Array, axis: int) -> jax.Array:
    """Returns the maximum over an axis; the first of equal values has its gradient.

    `jnp.max` finds the place again by comparing x with its maximum. Where XLA computes
    x twice and rounds it in two ways, no value equals it and the gradient is 0 / 0; and
    over few values it is slower.
    """
    index = jax.lax.argmax(jax.lax.stop_gradient(x), axis, jnp.int32)
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    is_top = jnp.expand_dims(index, axis) == places
    return jnp.sum(jnp.where(is_top, x, jnp.zeros_like(x)), axis=axis)


def first_maximum(parts: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum of up to 128 arrays and, int8, the first that has it."""
    top, place = parts[0], jnp.zeros(parts[0].shape, jnp.int8)
    for number, part in enumerate(parts[1:], start=1):
        place = jnp.where(part > top, jnp.int8(number), place)
        top = jnp.maximum(top, part)
    return top, place


def unstacked(x: jax.Array, axis: int) -> list[jax.Array]:
    return [
        jax.lax.index_in_dim(x, place, axis, keepdims=False)
        for place in range(x.shape[axis])
    ]
