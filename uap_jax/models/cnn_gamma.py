"""1D CNN Gamma (Table 13 of the paper): a frozen gammatone bank, then 1D CNN Rand."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.models.blocks import (
    ReluHead,
    norm_params,
    remove_mean,
    scaled_batch_norm,
    sign_of,
)
from uap_jax.models.cnn_rand import CONV_LAYERS, HIDDEN, ConvTrunk, min_trunk_steps
from uap_jax.models.gammatone import gammatone_bank
from uap_jax.models.kernels.filter_bank import filter_bank
from uap_jax.models.kernels.pooling import max_pool

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

    form: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        filters = self.variable("frozen", "filters", _filters).value
        shift = self.variable("frozen", "bias", jnp.zeros, NUM_FILTERS).value
        scale, bias = norm_params(self, NUM_FILTERS)
        if train:
            y = nn.relu(filter_bank(x, filters, form=self.form) + shift[None, None])
            y = scaled_batch_norm(y, scale, bias, train=True)
            return max_pool(y, (POOL_SIZE,), form=self.form)
        sign = sign_of(scale)
        y = filter_bank(x, filters * sign[None], pool_size=POOL_SIZE, form=self.form)
        y = nn.relu(y * sign[None, None] + shift[None, None])
        return scaled_batch_norm(y, scale, bias, train=False)


class CNNGamma(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits.

    The clip's mean is subtracted first: under per-clip scaling the resting level
    wanders from clip to clip, and the network hardly learns with it.

    Source: Abdoli, Cardinal and Koerich, "End-to-end environmental sound classification
    using a 1D convolutional neural network", 2019.
    """

    num_classes: int
    dropout_rate: float = 0.5
    form: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = remove_mean(x)
        x = FrozenBank(self.form, name="bank")(x, train=train)
        x = ConvTrunk(CONV_LAYERS[1:], self.form, name="trunk")(x, train=train)
        return ReluHead(self.num_classes, HIDDEN, self.dropout_rate, name="head")(
            x, train=train
        )


def min_num_samples() -> int:
    """Returns the shortest clip that leaves one step before the dense layers."""
    return min_trunk_steps(CONV_LAYERS[1:]) * POOL_SIZE + NUM_TAPS - 1


def _filters() -> jax.Array:
    return jnp.asarray(gammatone_bank(NUM_FILTERS, num_taps=NUM_TAPS), jnp.float32)
