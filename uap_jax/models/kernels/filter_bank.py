"""Banks of long filters on raw audio, with the pooling that follows them.

The outputs of such a bank are by far the largest array of its network (46 MB a clip for
227 filters), and pooling keeps few of them: computed and pooled block by block, they
never exist as a whole.
"""

import jax
import jax.numpy as jnp

from uap_jax.models.kernels.folded_bank import (
    MAX_BLOCKS_POOL_SIZE,
    filter_bank_folded,
    filter_bank_folded_blocks,
)
from uap_jax.models.kernels.operations import (
    conv_1d_plain,
    is_fast,
    num_windows,
    overlapping_blocks,
)
from uap_jax.models.kernels.pooling import max_over, max_pool_plain

MIN_FFT_SIZE = 2048


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
    if not is_fast(form):
        fastest = filter_bank_plain
    elif not symmetric:
        fastest = filter_bank_fft
    elif pool_size <= MAX_BLOCKS_POOL_SIZE:
        fastest = filter_bank_folded_blocks
    else:
        fastest = filter_bank_folded
    return fastest(x, filters, pool_size=pool_size)


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
