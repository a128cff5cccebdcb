"""Banks of long filters on raw audio, with the pooling that follows them.

The outputs of such a bank are by far the largest array of its network (46 MB a clip for
227 filters), and pooling keeps few of them: computed and pooled block by block, they
never exist as a whole.
"""

import jax
import jax.numpy as jnp

from uap_jax.models.operations import (
    conv_1d_plain,
    is_fast,
    max_over,
    max_pool_plain,
    num_windows,
    overlapping_blocks,
    toeplitz_matrix,
)

MIN_FFT_SIZE = 2048
# Of the matrix product: outputs of one row, an even number, and steps taken at once,
# few enough to stay in a cache.
BLOCK_OUTPUTS = 24
CHUNK_STEPS = 6144


def filter_bank(
    x: jax.Array,
    filters: jax.Array,
    *,
    pool_size: int = 1,
    symmetric: bool = False,
    form: str = "auto",
) -> jax.Array:
    """Correlates clips with every filter and takes the maximum over windows.

    `y[b, t, f] = max_{0 <= j < P} sum_k filters[k, f] x[b, t P + j + k]`, unpadded.

    Args:
        x: `[B, N]` clips.
        filters: `[K, F]`.
        pool_size: P; 1 for no pooling.
        symmetric: Promises that each filter equals its reverse, which halves the work.
            The gradient of the filters then holds for changes that keep the promise.
        form: One of `operations.FORMS`.

    Returns:
        `[B, (N - K + 1) // P, F]`.

    Raises:
        ValueError: The form is unknown, or the clips are too short for one output.
    """
    if is_fast(form):
        fast = filter_bank_folded if symmetric else filter_bank_fft
        return fast(x, filters, pool_size=pool_size)
    return filter_bank_plain(x, filters, pool_size=pool_size)


def filter_bank_plain(
    x: jax.Array, filters: jax.Array, *, pool_size: int = 1
) -> jax.Array:
    """`filter_bank` as XLA's convolution and pooling."""
    y = conv_1d_plain(x[:, :, None], filters[:, None, :])
    return max_pool_plain(y, (pool_size,))


def filter_bank_fft(
    x: jax.Array, filters: jax.Array, *, pool_size: int = 1
) -> jax.Array:
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


def filter_bank_folded(
    x: jax.Array, filters: jax.Array, *, pool_size: int = 1
) -> jax.Array:
    """`filter_bank` of symmetric filters, as two matrix products of half the size.

    A block that is read backwards gives the block's outputs backwards. So sums of the
    outputs p and P - 1 - p need the sums of its samples s and S - 1 - s alone, and
    differences their differences.
    """
    kernel_size, num_filters = filters.shape
    num_steps = num_windows(x.shape[1], size=kernel_size)
    num_outputs = num_windows(num_steps, size=pool_size, stride=pool_size)
    chunk_outputs = min(max(1, CHUNK_STEPS // pool_size), num_outputs)
    chunk_steps = chunk_outputs * pool_size
    num_blocks = -(-chunk_steps // BLOCK_OUTPUTS)
    size = BLOCK_OUTPUTS + kernel_size - 1
    sums, differences = _folded_matrices(filters, size)
    chunks = overlapping_blocks(
        x,
        num_blocks=-(-num_outputs // chunk_outputs),
        hop=chunk_steps,
        size=(num_blocks - 1) * BLOCK_OUTPUTS + size,
    )

    def filter_and_pool(chunk: jax.Array) -> jax.Array:
        blocks = overlapping_blocks(
            chunk, num_blocks=num_blocks, hop=BLOCK_OUTPUTS, size=size
        ).reshape(-1, size)
        first, second = blocks[:, : -(-size // 2)], blocks[:, size // 2 :][:, ::-1]
        shape = (-1, BLOCK_OUTPUTS // 2, num_filters)
        a = ((first + second) @ sums).reshape(shape)
        b = ((first - second) @ differences).reshape(shape)
        y = jnp.concatenate([a + b, (a - b)[:, ::-1]], axis=1)
        y = y.reshape(chunk.shape[0], -1, num_filters)[:, :chunk_steps]
        return max_over(y.reshape(-1, chunk_outputs, pool_size, num_filters), 2)

    y = jax.lax.map(filter_and_pool, chunks.transpose(1, 0, 2))
    y = y.transpose(1, 0, 2, 3).reshape(x.shape[0], -1, num_filters)
    return y[:, :num_outputs]


def _folded_matrices(filters: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `[ceil(S / 2), P / 2 F]` from folded samples to half the outputs."""
    half_outputs = BLOCK_OUTPUTS // 2
    outputs = toeplitz_matrix(filters[:, None], size, block_outputs=BLOCK_OUTPUTS)
    outputs = outputs.reshape(size, BLOCK_OUTPUTS, -1)[: -(-size // 2)]
    # The sample in the middle of an odd block is in both halves.
    weight = jnp.full(outputs.shape[0], 0.5, filters.dtype)
    if size % 2:
        weight = weight.at[-1].set(0.25)
    outputs = outputs * weight[:, None, None]
    first, second = outputs[:, :half_outputs], outputs[:, half_outputs:][:, ::-1]
    shape = (outputs.shape[0], -1)
    return (first + second).reshape(shape), (first - second).reshape(shape)
