"""1D CNN Rand (Table 12 of the paper): five convolutions on the raw waveform."""

import flax.linen as nn
import jax

from uap_jax.models.blocks import ConvBlock, ReluHead, remove_mean

STRIDE = 2
# (features, kernel size, pooling or None) of the convolutions. The table's last pooling
# row has a misprint: it has as many channels as the convolution above it.
CONV_LAYERS = (
    (16, 64, 8),
    (32, 32, 8),
    (64, 16, None),
    (128, 8, None),
    (256, 4, 4),
)
HIDDEN = (128, 64)


class ConvTrunk(nn.Module):
    """Strided convolutions with relu, batch norm and pooling: `[B, T, I] -> [B, U, F]`.

    `layers` are `(features, kernel size, pooling or None)`.
    """

    layers: tuple[tuple[int, int, int | None], ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index, (features, kernel_size, pool_size) in enumerate(self.layers):
            x = ConvBlock(
                features,
                (kernel_size,),
                STRIDE,
                window=(pool_size,) if pool_size else None,
                name=f"block_{index}",
            )(x, train=train)
        return x


class CNNRand(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits.

    Source: Abdoli, Cardinal and Koerich, "End-to-end environmental sound classification
    using a 1D convolutional neural network", 2019.
    """

    num_classes: int
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = remove_mean(x)
        x = ConvTrunk(CONV_LAYERS, name="trunk")(x[:, :, None], train=train)
        return ReluHead(self.num_classes, HIDDEN, self.dropout_rate, name="head")(
            x, train=train
        )
