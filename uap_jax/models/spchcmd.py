"""SpchCMD, the speech command network (Table 17 of the paper).

Experiment 106 of the winner of the TensorFlow Speech Recognition challenge: frames of
raw audio, separable convolutions, attention over time. The table's misprints are
resolved as the shapes demand: every second separable layer has stride 2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.models.blocks import SeparableConv, batch_norm

FRAME_HOP = 20
# (features, stride) of the separable layers.
SEPARABLE_LAYERS = (
    (128, 1),
    (192, 2),
    (192, 1),
    (256, 2),
    (256, 1),
    (320, 2),
    (320, 1),
    (384, 2),
    (384, 1),
    (448, 2),
    (448, 1),
)


class FrameConv(nn.Module):
    """Frames of 40 samples every 20, then a convolution over 3 frames, stride 2.

    `[B, N] -> [B, T, features]`. A frame is two blocks of 20 samples, so the
    convolution sees four consecutive blocks and moves on by two: it is one matrix
    product with the kernels of overlapping halves added up, a third cheaper than on
    frames.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel = self.param(
            "kernel",
            nn.initializers.glorot_uniform(),
            (3, 2 * FRAME_HOP, self.features),
        )
        num_frames = -(-x.shape[1] // FRAME_HOP)
        num_outputs = (num_frames - 3) // 2 + 1
        # As many zeros as frames of the whole clip need, split as SAME padding does.
        missing = (num_frames + 1) * FRAME_HOP - x.shape[1]
        x = jnp.pad(x, ((0, 0), (missing // 2, missing - missing // 2)))
        x = x[:, : (num_outputs + 1) * 2 * FRAME_HOP]
        blocks = x.reshape(x.shape[0], num_outputs + 1, 2 * FRAME_HOP)
        windows = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=2)
        first, second = kernel[:, :FRAME_HOP], kernel[:, FRAME_HOP:]
        zeros = jnp.zeros_like(first[:1])
        per_block = jnp.concatenate([first, zeros]) + jnp.concatenate([zeros, second])
        x = windows.reshape(-1, 4 * FRAME_HOP) @ per_block.reshape(-1, self.features)
        x = x.reshape(-1, num_outputs, self.features)
        return nn.relu6(batch_norm(x, train=train))


class SpchCMD(nn.Module):
    """`[B, N]` clips in the box [0, 1] to `[B, num_classes]` logits."""

    num_classes: int
    dropout_rate: float = 0.4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = x - jnp.mean(x, axis=1, keepdims=True)
        x = FrameConv(64, name="frames")(x, train=train)
        for index, (features, stride) in enumerate(SEPARABLE_LAYERS):
            x = SeparableConv(features, stride, name=f"separable_{index}")(
                x, train=train
            )
        attention = nn.Dense(x.shape[1], use_bias=False, name="attention")(
            x.reshape(x.shape[0], -1)
        )
        weights = nn.softmax(attention, axis=1)
        # The paper's average is this sum over the number of steps, a factor that the
        # logits' weights take up; with it they would learn that much more slowly.
        x = jnp.sum(x * weights[:, :, None], axis=1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, use_bias=False, name="logits")(x)
