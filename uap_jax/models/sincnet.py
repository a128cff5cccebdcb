"""SincNet (Table 15 of the paper): learned band-pass filters, then 1D convolutions.

The table's pooling has stride 3, as its shapes demand, not 1.
"""

import flax.linen as nn
import jax

from uap_jax.models import kernels
from uap_jax.models.blocks import Conv, LeakyLayerNorm, batch_norm, remove_mean
from uap_jax.models.sinc import SincBank

NUM_FILTERS = 80
POOL_SIZE = 3
# (features, pooling or None) of the convolutions.
CONV_LAYERS = ((60, 3), (60, None))
CONV_SIZE = 5
HIDDEN = (128, 64)
LEAK = 0.2


class SincNet(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits.

    Source: Ravanelli and Bengio, "Speaker Recognition from Raw Waveform with SincNet",
    2018, in the variant of the paper's authors.
    """

    num_classes: int
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = remove_mean(x)
        x = SincBank(NUM_FILTERS, POOL_SIZE, name="sinc")(x)
        x = LeakyLayerNorm(LEAK, name="sinc_norm")(x)
        for index, (features, pool_size) in enumerate(CONV_LAYERS):
            x = Conv(
                features,
                (CONV_SIZE,),
                kernel_init=nn.initializers.glorot_normal(),
                name=f"conv_{index}",
            )(x)
            if pool_size:
                x = kernels.ops().max_pool(x, (pool_size,))
            x = LeakyLayerNorm(LEAK, name=f"conv_norm_{index}")(x)
        x = x.reshape(x.shape[0], -1)
        for index, features in enumerate(HIDDEN):
            x = nn.Dense(
                features,
                kernel_init=nn.initializers.glorot_normal(),
                name=f"dense_{index}",
            )(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = batch_norm(x, train=train, name=f"dense_norm_{index}")
            x = nn.leaky_relu(x, LEAK)
        return nn.Dense(self.num_classes, name="logits")(x)
