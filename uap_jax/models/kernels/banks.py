"""Banks of long filters on raw audio, with the pooling that follows them.

The outputs of such a bank are by far the largest array of its network (46 MB a clip for
227 filters), and pooling keeps few of them: computed and pooled block by block, they
never exist as a whole.

Symmetric filters take half the work by folding. A block that is read backwards gives
the block's outputs backwards: sums of the outputs p and P - 1 - p need only the sums of
its samples s and S - 1 - s, and differences their differences.
"""

import functools

import jax
import jax.numpy as jnp

from uap_jax.models.kernels.convolutions import toeplitz_matrix
from uap_jax.models.kernels.pooling import first_maximum, max_over
from uap_jax.models.kernels.windows import num_windows, overlapping_blocks

MIN_FFT_SIZE = 2048
# Outputs of one block, an even number; more repeat less of the input and multiply more
# zeros. Taken at once: steps of each clip, or blocks, few enough to stay in a cache.
BLOCK_OUTPUTS = 24
CHUNK_STEPS = 6144
CHUNK_BLOCKS = 256
# The widest windows of `folded_blocks_bank` that divide half a block well.
MAX_BLOCKS_POOL_SIZE = 6

# Maxima of the first half's windows and of the second half's, and where they are.
_Halves = tuple[jax.Array, jax.Array]


def fft_bank(x: jax.Array, filters: jax.Array, pool_size: int = 1) -> jax.Array:
    """`filter_bank` by overlap-save, one block of all filters after the other."""
    kernel_size, num_filters = filters.shape
    num_steps = num_windows(x.shape[1], size=kernel_size)
    num_outputs = num_windows(num_steps, size=pool_size, stride=pool_size)
    # Twice what one pooled output needs at least, so that most of a block is of use.
    fft_size = max(MIN_FFT_SIZE, 1 << (2 * (kernel_size + pool_size)).bit_length())
    block_outputs = (fft_size - kernel_size + 1) // pool_size
    hop = block_outputs * pool_size
    num_blocks = -(-num_outputs // block_outputs)
    blocks = overlapping_blocks(x, num_blocks=num_blocks, hop=hop, size=fft_size)
    # The conjugate makes the product a correlation.
    responses = jnp.conj(jnp.fft.rfft(filters.T, fft_size))

    def filter_and_pool(block: jax.Array) -> jax.Array:
        spectrum = jnp.fft.rfft(block)[:, None, :] * responses[None]
        y = jnp.fft.irfft(spectrum, fft_size)[:, :, :hop]
        return max_over(y.reshape(-1, num_filters, block_outputs, pool_size), 3)

    y = jax.lax.map(filter_and_pool, blocks.transpose(1, 0, 2))
    y = y.transpose(1, 0, 3, 2).reshape(x.shape[0], -1, num_filters)
    return y[:, :num_outputs]


def folded_bank(x: jax.Array, filters: jax.Array, pool_size: int = 1) -> jax.Array:
    """`filter_bank` of symmetric filters, with windows of any size."""
    kernel_size, num_filters = filters.shape
    num_steps = num_windows(x.shape[1], size=kernel_size)
    num_outputs = num_windows(num_steps, size=pool_size, stride=pool_size)
    chunk_outputs = min(max(1, CHUNK_STEPS // pool_size), num_outputs)
    chunk_steps = chunk_outputs * pool_size
    num_blocks = -(-chunk_steps // BLOCK_OUTPUTS)
    size = BLOCK_OUTPUTS + kernel_size - 1
    sums, differences = _folded_matrices(filters, BLOCK_OUTPUTS)
    chunks = overlapping_blocks(
        x,
        num_blocks=-(-num_outputs // chunk_outputs),
        hop=chunk_steps,
        size=(num_blocks - 1) * BLOCK_OUTPUTS + size,
    )

    def filter_and_pool(chunk: jax.Array) -> jax.Array:
        blocks = overlapping_blocks(
            chunk, num_blocks=num_blocks, hop=BLOCK_OUTPUTS, size=size
        )
        first, second = _folded(blocks)
        shape = (-1, BLOCK_OUTPUTS // 2, num_filters)
        a = (first @ sums).reshape(shape)
        b = (second @ differences).reshape(shape)
        y = jnp.concatenate([a + b, (a - b)[:, ::-1]], axis=1)
        y = y.reshape(chunk.shape[0], -1, num_filters)[:, :chunk_steps]
        return max_over(y.reshape(-1, chunk_outputs, pool_size, num_filters), 2)

    y = jax.lax.map(filter_and_pool, chunks.transpose(1, 0, 2))
    y = y.transpose(1, 0, 2, 3).reshape(x.shape[0], -1, num_filters)
    return y[:, :num_outputs]


def folded_blocks_bank(
    x: jax.Array, filters: jax.Array, pool_size: int = 1
) -> jax.Array:
    """`filter_bank` of symmetric filters, with windows much smaller than a block.

    Half a block is a whole number of windows, so that the maximum is taken of sum and
    difference apart. The columns of the products are ordered by the position in a
    window first: every step between the products then runs along whole rows.
    """
    num_filters = filters.shape[1]
    num_steps = num_windows(x.shape[1], size=filters.shape[0])
    num_outputs = num_windows(num_steps, size=pool_size, stride=pool_size)
    half_windows = max(1, BLOCK_OUTPUTS // 2 // pool_size)
    block_outputs = 2 * half_windows * pool_size
    sums, differences = (
        matrix.reshape(-1, half_windows, pool_size, num_filters)
        .transpose(0, 2, 1, 3)
        .reshape(matrix.shape)
        for matrix in _folded_matrices(filters, block_outputs)
    )
    blocks = overlapping_blocks(
        x,
        num_blocks=-(-num_outputs // (2 * half_windows)),
        hop=block_outputs,
        size=block_outputs + filters.shape[0] - 1,
    )
    folded = _folded(blocks)
    num_blocks = folded[0].shape[0]
    num_chunks = -(-num_blocks // CHUNK_BLOCKS)
    missing = num_chunks * CHUNK_BLOCKS - num_blocks
    first, second = jax.lax.map(
        lambda chunk: _product_maxima(*chunk, sums, differences, pool_size),
        tuple(
            jnp.pad(part, ((0, missing), (0, 0))).reshape(num_chunks, CHUNK_BLOCKS, -1)
            for part in folded
        ),
    )
    shape = (-1, half_windows * num_filters)
    second = _windows_reversed(second.reshape(shape), half_windows)
    y = jnp.concatenate([first.reshape(shape), second], axis=1)
    y = y[:num_blocks].reshape(x.shape[0], -1, num_filters)
    return y[:, :num_outputs]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _product_maxima(
    x_sums: jax.Array,
    x_differences: jax.Array,
    sums: jax.Array,
    differences: jax.Array,
    pool_size: int,
) -> _Halves:
    """Returns the maxima of `a + b` and of `a - b`, the products of sums, differences.

    `x_sums`, `x_differences` are `[R, S / 2]`; `sums`, `differences` `[S / 2, P W]`,
    the position in a window first; the maxima over P positions are `[R, W]`.
    """
    arguments = x_sums, x_differences, sums, differences
    return _product_maxima_forward(*arguments, pool_size)[0]


def _product_maxima_forward(
    x_sums: jax.Array,
    x_differences: jax.Array,
    sums: jax.Array,
    differences: jax.Array,
    pool_size: int,
) -> tuple[_Halves, tuple[jax.Array, ...]]:
    a, b = x_sums @ sums, x_differences @ differences
    first, first_index = first_maximum(jnp.split(a + b, pool_size, axis=1))
    second, second_index = first_maximum(jnp.split(a - b, pool_size, axis=1))
    arguments = x_sums, x_differences, sums, differences
    return (first, second), (first_index, second_index, *arguments)


def _product_maxima_backward(
    pool_size: int, residuals: tuple[jax.Array, ...], directions: _Halves
) -> tuple[jax.Array, ...]:
    # One product per position: joining the positions again costs more.
    first_index, second_index, x_sums, x_differences, sums, differences = residuals
    x_gradients, gradients = [], []
    for position in range(pool_size):
        first, second = (
            jnp.where(index == position, direction, 0.0)
            for index, direction in zip(
                (first_index, second_index), directions, strict=True
            )
        )
        for_sums, for_differences = first + second, first - second
        columns = slice(position * first.shape[1], (position + 1) * first.shape[1])
        x_gradients.append(
            (
                for_sums @ sums[:, columns].T,
                for_differences @ differences[:, columns].T,
            )
        )
        gradients.append((x_sums.T @ for_sums, x_differences.T @ for_differences))
    return (
        *(sum(parts[1:], start=parts[0]) for parts in zip(*x_gradients, strict=True)),
        *(jnp.concatenate(parts, axis=1) for parts in zip(*gradients, strict=True)),
    )


_product_maxima.defvjp(_product_maxima_forward, _product_maxima_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _windows_reversed(x: jax.Array, num_windows: int) -> jax.Array:
    """Returns `[R, W F]` with its W windows in reverse order, by slices alone."""
    return jnp.concatenate(jnp.split(x, num_windows, axis=1)[::-1], axis=1)


_windows_reversed.defvjp(
    lambda x, num_windows: (_windows_reversed(x, num_windows), None),
    # Left alone, the gradient is a sum of padded slices.
    lambda num_windows, _, direction: (_windows_reversed(direction, num_windows),),
)


def _folded(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `[B R, ceil(S / 2)]` sums and differences of halves of `[B, R, S]`."""
    size = blocks.shape[2]
    blocks = blocks.reshape(-1, size)
    first, second = blocks[:, : -(-size // 2)], blocks[:, size // 2 :][:, ::-1]
    return first + second, first - second


def _folded_matrices(
    filters: jax.Array, block_outputs: int
) -> tuple[jax.Array, jax.Array]:
    """Returns `[ceil(S / 2), P / 2 F]` from folded samples to half the outputs."""
    half_outputs = block_outputs // 2
    size = block_outputs + filters.shape[0] - 1
    outputs = toeplitz_matrix(filters[:, None], size, block_outputs=block_outputs)
    outputs = outputs.reshape(size, block_outputs, -1)[: -(-size // 2)]
    # The sample in the middle of an odd block is in both halves.
    weight = jnp.full(outputs.shape[0], 0.5, filters.dtype)
    if size % 2:
        weight = weight.at[-1].set(0.25)
    outputs = outputs * weight[:, None, None]
    first, second = outputs[:, :half_outputs], outputs[:, half_outputs:][:, ::-1]
    shape = (outputs.shape[0], -1)
    return (first + second).reshape(shape), (first - second).reshape(shape)
