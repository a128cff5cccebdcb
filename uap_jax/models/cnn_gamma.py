"""1D CNN Gamma (Table 13 of the paper): a frozen gammatone bank, then 1D CNN Rand."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.models import kernels
from uap_jax.models.blocks import (
    ReluHead,
    norm_params,
    remove_mean,
    scaled_batch_norm,
    sign_of,
)
from uap_jax.models.cnn_rand import CONV_LAYERS, HIDDEN, ConvTrunk
from uap_jax.models.gammatone import gammatone_bank

NUM_FILTERS = 64
NUM_TAPS = 512
POOL_SIZE = 8


class FrozenBank(nn.Module):
    """Frozen gammatone filters, relu, batch norm, max pooling.

    `[B, N] -> [B, (N - 511) // 8, 64]`. Filters and their bias of zero are variables of
    the collection "frozen", which no optimizer sees. In evaluation the maximum is
    taken first, as in `ConvBlock`, so that the unpooled outputs never exist as a
    whole.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        filters = self.variable("frozen", "filters", _filters).value
        shift = self.variable("frozen", "bias", jnp.zeros, NUM_FILTERS).value
        scale, bias = norm_params(self, NUM_FILTERS)
        ops = kernels.ops()
        if train:
            y = nn.relu(ops.filter_bank(x, filters) + shift[None, None])
            y = scaled_batch_norm(y, scale, bias, train=True)
            return ops.max_pool(y, (POOL_SIZE,))
        sign = sign_of(scale)
        y = ops.filter_bank(x, filters * sign[None], pool_size=POOL_SIZE)
        y = nn.relu(y * sign[None, None] + shift[None, None])
        return scaled_batch_norm(y, scale, bias, train=False)


class CNNGamma(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits.

    Source: Abdoli, Cardinal and Koerich, "End-to-end environmental sound classification
    using a 1D convolutional neural network", 2019.
    """

    num_classes: int
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = remove_mean(x)
        x = FrozenBank(name="bank")(x, train=train)
        x = ConvTrunk(CONV_LAYERS[1:], name="trunk")(x, train=train)
        return ReluHead(self.num_classes, HIDDEN, self.dropout_rate, name="head")(
            x, train=train
        )


def _filters() -> jax.Array:
    return jnp.asarray(gammatone_bank(NUM_FILTERS, num_taps=NUM_TAPS), jnp.float32)
