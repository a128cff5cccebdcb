"""Windows of steps: how many there are, and how to cut them without a gather."""

import jax
import jax.numpy as jnp


def num_windows(num_steps: int, *, size: int, stride: int = 1) -> int:
    """Returns how many windows of `size` steps lie wholly inside `num_steps`.

    Raises:
        ValueError: Not even one.
    """
    if num_steps < size:
        raise ValueError(f"x: expected at least {size} steps, got {num_steps}")
    return (num_steps - size) // stride + 1


def cut_or_pad(x: jax.Array, num_steps: int) -> jax.Array:
    """Returns the first steps of x along its axis 1, with zeros after its end."""
    x = x[:, :num_steps]
    missing = num_steps - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))


def overlapping_blocks(
    x: jax.Array, *, num_blocks: int, hop: int, size: int
) -> jax.Array:
    """Returns `[B, num_blocks, size, ...]`, a block every `hop` steps of `[B, T, ...]`.

    Zeros follow the end of x. Only slices are used: the gradient of a gather is slow.
    """
    repeats = -(-size // hop)
    x = cut_or_pad(x, (num_blocks - 1 + repeats) * hop)
    pieces = x.reshape(x.shape[0], -1, hop, *x.shape[2:])
    shifted = [pieces[:, r : r + num_blocks] for r in range(repeats)]
    return jnp.concatenate(shifted, axis=2)[:, :, :size]
