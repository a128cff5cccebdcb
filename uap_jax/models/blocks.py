"""Layers shared by the victim networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.models import kernels


def same_padding(num_steps: int, *, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after that give ceil(num_steps / stride) outputs.

    An odd total puts the extra zero at the end, as TensorFlow does.
    """
    num_outputs = -(-num_steps // stride)
    total = max((num_outputs - 1) * stride + kernel_size - num_steps, 0)
    return total // 2, total - total // 2


def remove_mean(x: jax.Array) -> jax.Array:
    """Subtracts the mean of each clip `[B, N]`; a constant clip gives exact zeros.

    Networks begin with it: under per-clip scaling the resting level differs from clip
    to clip, a network hardly learns with it, and the lowest filters of a bank pass it
    on, some louder than any sound.
    """
    # The mean of equal values need not be that value in rounding, and layer norms would
    # make sound of the difference. The result does not depend on the first sample.
    x = x - jax.lax.stop_gradient(x[:, :1])
    return x - jnp.mean(x, axis=1, keepdims=True)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: tuple[int, int]
) -> jax.Array:
    """`[B, T, C]`, `[K, C]` to `[B, (T + sum(padding) - K) // stride + 1, C]`.

    `y[b, t, c] = sum_k kernel[k, c] x_padded[b, t stride + k, c]`, as shifted
    multiply-adds: XLA's grouped convolution is an order of magnitude slower on a CPU.
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


def batch_norm(
    x: jax.Array, *, train: bool, affine: bool = True, name: str = "norm"
) -> jax.Array:
    """Batch normalisation over all axes but the last; call in a compact module."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        use_bias=affine,
        use_scale=affine,
        name=name,
    )(x)


class Conv(nn.Module):
    """Convolution with a bias, over one axis or two.

    `[B, T, I] -> [B, (T - K) // stride + 1, features]` with `kernel_size` `(K,)` and no
    padding, or `[B, H, W, I] -> [B, H + 2 p - K + 1, W + 2 p - L + 1, features]` with
    `(K, L)`, padding p and stride 1. Called with a window and a sign `[1, 1, features]`
    of 1 and -1, it gives the maximum over windows of its outputs, or the minimum.
    """

    features: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, window: int | None = None, sign: jax.Array | None = None
    ) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        ops = kernels.ops()
        if window and sign is not None:
            y = sign * ops.conv_1d_max_pool(x, kernel * sign, window, self.stride)
        elif len(self.kernel_size) == 1:
            y = ops.conv_1d(x, kernel, stride=self.stride)
        else:
            y = ops.conv_2d(x, kernel, padding=self.padding)
        return y + jnp.expand_dims(bias, range(y.ndim - 1))


class ConvBlock(nn.Module):
    """Convolution, relu, batch norm, max pooling.

    In evaluation the maximum is taken first, of the values or, where the norm's scale
    is negative, of their negatives: relu and norm then see the pooled steps alone and
    give the same, as neither changes the order of a channel's values.
    """

    features: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    window: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        ops = kernels.ops()
        conv = Conv(self.features, self.kernel_size, self.stride, name="conv")
        scale, bias = norm_params(self, self.features)
        window = None if train else self.window
        sign = jnp.expand_dims(sign_of(scale), range(x.ndim - 1))
        if window and ops.pools_sparsely(window):
            y = conv(x, window=window[0], sign=sign)
        elif window:
            y = sign * ops.max_pool(sign * conv(x), window)
        else:
            y = conv(x)
        y = scaled_batch_norm(nn.relu(y), scale, bias, train=train)
        if self.window and train:
            y = ops.max_pool(y, self.window)
        return y


def norm_params(module: nn.Module, features: int) -> tuple[jax.Array, jax.Array]:
    """Declares the parameters of `scaled_batch_norm` on a module: scale and bias."""
    return (
        module.param("scale", nn.initializers.ones, (features,)),
        module.param("bias", nn.initializers.zeros, (features,)),
    )


def scaled_batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, train: bool
) -> jax.Array:
    """Batch normalisation whose scale the caller knows; call in a compact module."""
    x = batch_norm(x, train=train, affine=False)
    axes = range(x.ndim - 1)
    return x * jnp.expand_dims(scale, axes) + jnp.expand_dims(bias, axes)


def sign_of(scale: jax.Array) -> jax.Array:
    """Returns -1 where the scale is negative, otherwise 1; it has no gradient."""
    return jnp.where(scale < 0, -1.0, 1.0)


class LeakyLayerNorm(nn.Module):
    """Normalises each step `[..., C]` over its channels, then a leaky relu.

    SincNet's authors divide by the deviation plus 1e-6, whose gradient at silence is
    0 / 0; here it is the root of the variance plus 1e-6. The variance is of differences
    from the mean: as a difference of squares it would be lost in rounding.
    """

    leak: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        rows = x.reshape(-1, x.shape[-1])
        return (
            kernels.ops()
            .leaky_layer_norm(rows, scale, bias, self.leak)
            .reshape(x.shape)
        )


class ReluHead(nn.Module):
    """Dense layers with relu and dropout, then the logits: `[B, ...] -> [B, C]`."""

    num_classes: int
    hidden: tuple[int, ...]
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for index, features in enumerate(self.hidden):
            dense = nn.Dense(
                features,
                kernel_init=nn.initializers.glorot_uniform(),
                name=f"dense_{index}",
            )
            x = nn.relu(dense(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="logits")(x)
