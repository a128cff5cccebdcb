"""Layer normalisation with the activation that follows it, plain and fast."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.models.kernels.operations import is_fast

# Added to the variance.
EPSILON = 1e-6


class LeakyLayerNorm(nn.Module):
    """Normalises each step `[..., C]` over its channels, then a leaky relu.

    SincNet's authors divide by the deviation plus 1e-6, whose gradient at silence is
    0 / 0; here it is the root of the variance plus 1e-6. The variance is of differences
    from the mean: as a difference of squares it would be lost in rounding.
    """

    leak: float
    form: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return leaky_layer_norm(x, scale, bias, leak=self.leak, form=self.form)


def leaky_layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, leak: float, form: str = "auto"
) -> jax.Array:
    """Returns `leaky_relu((x - mean) / sqrt(variance + 1e-6) scale + bias)`.

    Args:
        x: `[..., C]`; mean and variance are over C.
        scale: `[C]`.
        bias: `[C]`.
        leak: Slope below 0.
        form: One of `operations.FORMS`.

    Returns:
        The shape of x.

    Raises:
        ValueError: The form is unknown.
    """
    rows = x.reshape(-1, x.shape[-1])
    norm = leaky_layer_norm_rows if is_fast(form) else leaky_layer_norm_plain
    return norm(rows, scale, bias, leak).reshape(x.shape)


def leaky_layer_norm_plain(
    x: jax.Array, scale: jax.Array, bias: jax.Array, leak: float
) -> jax.Array:
    """`leaky_layer_norm` of `[R, C]` as XLA has it."""
    x = x - jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.mean(x * x, axis=1, keepdims=True)
    normalised = x * jax.lax.rsqrt(variance + EPSILON)
    return nn.leaky_relu(normalised * scale[None] + bias[None], leak)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def leaky_layer_norm_rows(
    x: jax.Array, scale: jax.Array, bias: jax.Array, leak: float
) -> jax.Array:
    """`leaky_layer_norm` of `[R, C]`, its means as products with a column.

    XLA's sums along short rows take longer than all the rest. With n the normalised x,
    r what it was multiplied by and d the direction with respect to n, the gradient is
    `r (d - mean(d) - n mean(d n))`.
    """
    return _forward(x, scale, bias, leak)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, leak: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x = x - _row_means(x)
    factor = jax.lax.rsqrt(_row_means(x * x) + EPSILON)
    normalised = x * factor
    y = nn.leaky_relu(normalised * scale[None] + bias[None], leak)
    return y, (normalised, factor, scale, bias)


def _backward(
    leak: float, residuals: tuple[jax.Array, ...], direction: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    normalised, factor, scale, bias = residuals
    is_positive = normalised * scale[None] + bias[None] >= 0
    direction = jnp.where(is_positive, direction, leak * direction)
    scaled = direction * scale[None]
    centred = scaled - _row_means(scaled)
    x_gradient = factor * (centred - normalised * _row_means(scaled * normalised))
    return x_gradient, jnp.sum(direction * normalised, 0), jnp.sum(direction, 0)


leaky_layer_norm_rows.defvjp(_forward, _backward)


def _row_means(x: jax.Array) -> jax.Array:
    """Returns `[R, 1]`."""
    num_channels = x.shape[1]
    return x @ jnp.full((num_channels, 1), 1 / num_channels, x.dtype)
