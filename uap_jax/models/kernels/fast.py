"""The operations as CPUs are fastest with them; each has its namesake in `plain`."""

import jax

from uap_jax.models.kernels import banks, general, norms, pooling, sparse_pool
from uap_jax.models.kernels.convolutions import (
    conv_1d_polyphase,
    conv_1d_toeplitz,
    conv_2d_canonical,
    conv_2d_rows,
)

conv = general.conv
conv_1d_max_pool = sparse_pool.conv_1d_max_pool
leaky_layer_norm = norms.leaky_layer_norm
max_over_windows = general.max_over_windows
max_pool = pooling.max_pool
pools_sparsely = sparse_pool.pools_sparsely
sum_over_windows = general.sum_over_windows


def conv_1d(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    conv = conv_1d_toeplitz if x.shape[2] == 1 else conv_1d_polyphase
    return conv(x, kernel, stride=stride)


def conv_2d(x: jax.Array, kernel: jax.Array, *, padding: int = 0) -> jax.Array:
    conv = conv_2d_rows if x.shape[3] == 1 else conv_2d_canonical
    return conv(x, kernel, padding)


def filter_bank(
    x: jax.Array, filters: jax.Array, *, pool_size: int = 1, symmetric: bool = False
) -> jax.Array:
    if not symmetric:
        bank = banks.fft_bank
    elif pool_size <= banks.MAX_BLOCKS_POOL_SIZE:
        bank = banks.folded_blocks_bank
    else:
        bank = banks.folded_bank
    return bank(x, filters, pool_size)
