"""Convolutions in the form that runs fastest, with the plain form beside.

Every operation takes `form`: "plain" is XLA's own, "fast" a rewriting of it that equals
it to rounding in values and gradients, "auto" the fast one on a CPU and the plain one
elsewhere. XLA's CPU backend has no fast path for convolutions of one channel, for those
without padding, and for the gradients of most others once they stand inside a loop. The
fast forms of convolutions have derivatives in reverse mode only.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

FORMS = ("auto", "fast", "plain")

# Columns that the Toeplitz product is widened to, and the most outputs that one of its
# rows gives. More outputs repeat less of the input and multiply more zeros.
TOEPLITZ_COLUMNS = 128
MAX_BLOCK_OUTPUTS = 4


def is_fast(form: str) -> bool:
    """Returns whether `form` means the fast one where this is traced.

    Raises:
        ValueError: The form is not one of `FORMS`.
    """
    if form not in FORMS:
        raise ValueError(f"form: expected one of {FORMS}, got {form!r}")
    return form == "fast" or (form == "auto" and jax.default_backend() == "cpu")


def num_windows(num_steps: int, *, size: int, stride: int = 1) -> int:
    """Returns how many windows of `size` steps lie wholly inside `num_steps`.

    Raises:
        ValueError: Not even one.
    """
    if num_steps < size:
        raise ValueError(f"x: expected at least {size} steps, got {num_steps}")
    return (num_steps - size) // stride + 1


def min_num_steps(num_outputs: int, *, size: int, stride: int) -> int:
    """Returns the fewest steps that hold this many windows."""
    return (num_outputs - 1) * stride + size


def conv_1d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, form: str = "auto"
) -> jax.Array:
    """Convolves without padding: `y[b, t, o] = sum kernel[k, i, o] x[b, t s + k, i]`.

    Args:
        x: `[B, T, I]`.
        kernel: `[K, I, O]`.
        stride: s, steps between outputs.
        form: One of `FORMS`.

    Returns:
        `[B, (T - K) // s + 1, O]`.

    Raises:
        ValueError: The form is unknown, or x is shorter than the kernel.
    """
    if not is_fast(form):
        return conv_1d_plain(x, kernel, stride=stride)
    if x.shape[2] == 1:
        return conv_1d_toeplitz(x, kernel, stride=stride)
    return conv_1d_polyphase(x, kernel, stride=stride)


def conv_1d_plain(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """`conv_1d` as XLA has it."""
    num_windows(x.shape[1], size=kernel.shape[0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def conv_1d_toeplitz(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    block_outputs: int | None = None,
) -> jax.Array:
    """`conv_1d` as one matrix product over overlapping blocks of the input.

    A block of `(P - 1) s + K` steps gives P outputs (`block_outputs`; None: by the
    kernel), so the matrix holds P shifted copies of the kernel: worth it where the
    kernel alone is a thin matrix.
    """
    kernel_size, channels, features = kernel.shape
    if block_outputs is None:
        block_outputs = max(1, min(MAX_BLOCK_OUTPUTS, TOEPLITZ_COLUMNS // features))
    num_outputs = num_windows(x.shape[1], size=kernel_size, stride=stride)
    num_blocks = -(-num_outputs // block_outputs)
    size = min_num_steps(block_outputs, size=kernel_size, stride=stride)
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
    x = _cut_or_pad(x, (num_outputs - 1 + num_taps) * stride)
    return conv_2d_canonical(
        x.reshape(x.shape[0], 1, -1, stride * channels),
        kernel.reshape(1, num_taps, stride * channels, features),
    )[:, 0]


def overlapping_blocks(
    x: jax.Array, *, num_blocks: int, hop: int, size: int
) -> jax.Array:
    """Returns `[B, num_blocks, size, ...]`, a block every `hop` steps of `[B, T, ...]`.

    Zeros follow the end of x. By slices alone, since the gradient of a gather is slow.
    """
    repeats = -(-size // hop)
    x = _cut_or_pad(x, (num_blocks - 1 + repeats) * hop)
    pieces = x.reshape(x.shape[0], -1, hop, *x.shape[2:])
    shifted = [pieces[:, r : r + num_blocks] for r in range(repeats)]
    return jnp.concatenate(shifted, axis=2)[:, :, :size]


def conv_2d(
    x: jax.Array, kernel: jax.Array, *, padding: int = 0, form: str = "auto"
) -> jax.Array:
    """Convolves two axes without stride.

    Args:
        x: `[B, H, W, I]`.
        kernel: `[K, L, I, O]`.
        padding: p, zeros on all four sides, fewer than K and L.
        form: One of `FORMS`.

    Returns:
        `[B, H + 2 p - K + 1, W + 2 p - L + 1, O]`.

    Raises:
        ValueError: The form is unknown, or x is smaller than the kernel.
    """
    if not is_fast(form):
        return conv_2d_plain(x, kernel, padding=padding)
    if x.shape[3] == 1:
        return conv_2d_rows(x, kernel, padding=padding)
    return conv_2d_canonical(x, kernel, padding=padding)


def conv_2d_plain(x: jax.Array, kernel: jax.Array, *, padding: int = 0) -> jax.Array:
    """`conv_2d` as XLA has it."""
    _check_kernel_fits(x, kernel, padding)
    return _conv_2d_xla(x, kernel, ((padding, padding),) * 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_2d_canonical(x: jax.Array, kernel: jax.Array, padding: int = 0) -> jax.Array:
    """`conv_2d` and its gradients as XLA's CPU backend is fastest with them.

    Without any padding it is several times slower than with one more column. The
    gradient of x is a convolution with the reversed kernel; left alone, XLA reverses
    it where a loop does not see it and then has no fast path. The kernel's own
    gradient is that of `conv_2d_rows`, a matrix product.
    """
    _check_kernel_fits(x, kernel, padding)
    if padding:
        return _conv_2d_xla(x, kernel, ((padding, padding),) * 2)
    return _conv_2d_xla(x, kernel, ((0, 0), (1, 0)))[:, :, 1:]


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
    x_gradient = _conv_2d_xla(
        direction,
        jax.lax.optimization_barrier(swapped),
        [(margin, margin) for margin in margins],
    )
    _, pull_back = jax.vjp(lambda k: conv_2d_rows(x, k, padding=padding), kernel)
    return x_gradient, *pull_back(direction)


conv_2d_canonical.defvjp(_conv_2d_forward, _conv_2d_backward)


def conv_2d_rows(x: jax.Array, kernel: jax.Array, *, padding: int = 0) -> jax.Array:
    """`conv_2d` as a Toeplitz product, the rows of the kernel turned into channels."""
    _check_kernel_fits(x, kernel, padding)
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


def _conv_2d_xla(
    x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _check_kernel_fits(x: jax.Array, kernel: jax.Array, padding: int) -> None:
    for axis in (0, 1):
        num_windows(x.shape[1 + axis] + 2 * padding, size=kernel.shape[axis])


def _cut_or_pad(x: jax.Array, num_steps: int) -> jax.Array:
    """Returns the first steps of x along its axis 1, with zeros after its end."""
    x = x[:, :num_steps]
    missing = num_steps - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))
