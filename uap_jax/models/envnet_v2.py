"""EnvNet-v2 (Table 14 of the paper): learned spectrogram, then 2D convolutions.

The table ends after the convolution with 128 filters, at 153 million parameters; the
authors' released network has two more convolutions and 70 million. Both
are here. Batch norm is in neither table nor text; the released network has it after the
relu of every convolution.
"""

import functools

import flax.linen as nn
import jax

from uap_jax.models import kernels
from uap_jax.models.blocks import ConvBlock, ReluHead, remove_mean

# (features, kernel size, stride, pooling or None).
WAVE_LAYERS = (
    (32, 64, 2, None),
    (64, 16, 2, 64),
)
# (features, kernel size, pooling or None), over frequency and time.
MAP_LAYERS = (
    (32, (8, 8), None),
    (32, (8, 8), (5, 3)),
    (64, (1, 4), None),
    (64, (1, 4), (1, 2)),
    (128, (1, 2), None),
)
DEEP_MAP_LAYERS = (
    *MAP_LAYERS[:-1],
    (128, (1, 2), (1, 2)),
    (256, (1, 2), None),
    (256, (1, 2), (1, 2)),
)
# Of the convolutions' fast form; see `clips_at_once`.
MAX_CLIPS_AT_ONCE = 5


class EnvNetV2(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits.

    Source: Tokozume, Ushiku and Harada, "Learning from between-class examples for deep
    sound recognition", 2018.
    """

    num_classes: int
    deep: bool = False
    hidden: tuple[int, ...] = (4096, 4096)
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        size = len(x)
        if kernels.ops() is kernels.fast:
            size = clips_at_once(len(x))
        if train or self.is_initializing() or size == len(x):
            x = _convolutions(self, x, train=train)
        else:
            x = self._by_parts(x.reshape(-1, size, x.shape[1]))
            x = x.reshape(-1, *x.shape[2:])
        return ReluHead(self.num_classes, self.hidden, self.dropout_rate, name="head")(
            x, train=train
        )

    def _by_parts(self, x: jax.Array) -> jax.Array:
        """Convolutions in evaluation of `[R, B, N]`, one part after the other."""
        scanned = nn.scan(
            lambda module, _, part: (None, _convolutions(module, part, train=False)),
            variable_broadcast=("params", "batch_stats"),
            variable_axes={"intermediates": 0},
            split_rngs={},
        )
        return scanned(self, None, x)[1]


EnvNetV2Deep = functools.partial(EnvNetV2, deep=True)


def clips_at_once(num_clips: int) -> int:
    """Returns how many clips' convolutions are fastest at once, a divisor of all.

    The dense layers are faster with more clips, as their weights are read once for all.
    The outputs of the first convolutions, 3 MB each a clip, should stay in a cache.
    """
    sizes = range(MAX_CLIPS_AT_ONCE, MAX_CLIPS_AT_ONCE // 2 - 1, -1)
    return next((size for size in sizes if num_clips % size == 0), num_clips)


def _convolutions(module: EnvNetV2, x: jax.Array, *, train: bool) -> jax.Array:
    """All before the dense layers, in the scope of a compact call of the module."""
    x = remove_mean(x)
    x = x[:, :, None]
    for index, (features, size, stride, pool_size) in enumerate(WAVE_LAYERS):
        x = ConvBlock(
            features,
            (size,),
            stride,
            window=(pool_size,) if pool_size else None,
            name=f"wave_{index}",
        )(x, train=train)
    x = x.swapaxes(1, 2)[:, :, :, None]
    for index, (features, sizes, window) in enumerate(_map_layers(module.deep)):
        x = ConvBlock(features, sizes, window=window, name=f"map_{index}")(
            x, train=train
        )
    return x


def _map_layers(
    deep: bool,
) -> tuple[tuple[int, tuple[int, int], tuple[int, int] | None], ...]:
    return DEEP_MAP_LAYERS if deep else MAP_LAYERS
