"""Layers shared by the victim networks, in the form that runs fastest on a CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def same_padding(num_steps: int, *, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after that give ceil(num_steps / stride) outputs.

    An odd total puts the extra zero at the end, as TensorFlow does.
    """
    num_outputs = -(-num_steps // stride)
    total = max((num_outputs - 1) * stride + kernel_size - num_steps, 0)
    return total // 2, total - total // 2


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]
) -> jax.Array:
    """Convolves each channel with its own short filter, as shifted multiply-adds.

    `y[b, t, c] = sum_k kernel[k, c] x_padded[b, t stride + k, c]`. XLA's grouped
    convolution is an order of magnitude slower on a CPU; `depthwise_conv_plain` is
    that form, to compare with.

    Args:
        x: `[B, T, C]`.
        kernel: `[K, C]`.
        stride: Steps between outputs.
        padding: Zeros before and after.

    Returns:
        `[B, (T + sum(padding) - K) // stride + 1, C]`.
    """
    if padding != (0, 0):
        x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    kernel_size = kernel.shape[0]
    num_outputs = (x.shape[1] - kernel_size) // stride + 1
    span = (num_outputs - 1) * stride + 1
    taps = (
        jax.lax.slice_in_dim(x, k, k + span, stride, axis=1) * kernel[k][None, None, :]
        for k in range(kernel_size)
    )
    return sum(taps, start=next(taps))


def depthwise_conv_plain(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]
) -> jax.Array:
    """The same as `depthwise_conv`, as one grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, None, :],
        window_strides=(stride,),
        padding=(padding,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[2],
    )


class SeparableConv(nn.Module):
    """Depthwise convolution of width 3, pointwise convolution, batch norm, relu6.

    `[B, T, C] -> [B, T', features]`; no bias and nothing between the two
    convolutions. Stride 1 is unpadded (T' = T - 2), stride 2 padded (ceil(T / 2)).
    """

    features: int
    stride: int = 1
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel = self.param(
            "depthwise",
            nn.initializers.variance_scaling(
                1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(), batch_axis=1
            ),
            (self.kernel_size, x.shape[2]),
        )
        padding = (0, 0)
        if self.stride > 1:
            padding = same_padding(
                x.shape[1], kernel_size=self.kernel_size, stride=self.stride
            )
        x = depthwise_conv(x, kernel, stride=self.stride, padding=padding)
        num_clips, num_steps, channels = x.shape
        # On matrices the weights' gradient needs no transposed copy of x.
        x = nn.Dense(self.features, use_bias=False, name="pointwise")(
            x.reshape(-1, channels)
        ).reshape(num_clips, num_steps, self.features)
        return nn.relu6(batch_norm(x, train=train))


def batch_norm(x: jax.Array, *, train: bool) -> jax.Array:
    """Batch normalisation over all axes but the last; call in a compact module."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, name="norm"
    )(x)
