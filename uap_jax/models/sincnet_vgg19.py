"""SincNet+VGG19 (Table 16 of the paper): sinc filters over time as VGG19's image.

The table's pooling has stride 218, as its shapes demand, not 1, and its bank 227
channels.
"""

import flax.linen as nn
import jax

from uap_jax.models import kernels
from uap_jax.models.blocks import Conv, ReluHead, remove_mean
from uap_jax.models.sinc import SincBank

NUM_FILTERS = 227
POOL_SIZE = 218
# (convolutions, features) of VGG19's groups, each followed by 2 x 2 pooling.
VGG19_GROUPS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class SincNetVGG19(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits.

    The kernels start at He's scale: at the authors', half the variance is lost in each
    of the sixteen convolutions, and there is no norm between them.

    Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale
    image recognition", 2015 (configuration E), as the paper's authors use it: random at
    first and with one dense layer of 4096 before the logits.
    """

    num_classes: int
    groups: tuple[tuple[int, int], ...] = VGG19_GROUPS
    hidden: tuple[int, ...] = (4096,)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = remove_mean(x)
        x = SincBank(NUM_FILTERS, POOL_SIZE, name="sinc")(x)
        # As in `LeakyLayerNorm`, without the relu.
        x = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name="sinc_norm")(x)
        x = x[:, :, :, None]
        for group, (num_layers, features) in enumerate(self.groups):
            for index in range(num_layers):
                conv = Conv(
                    features,
                    (3, 3),
                    padding=1,
                    kernel_init=nn.initializers.he_normal(),
                    name=f"conv_{group}_{index}",
                )
                x = nn.relu(conv(x))
            x = kernels.ops().max_pool(x, (2, 2))
        return ReluHead(self.num_classes, self.hidden, name="head")(x, train=train)
