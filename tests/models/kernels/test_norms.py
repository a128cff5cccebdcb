"""The fast layer norm against the plain one, in values and gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models import kernels
from uap_jax.models.blocks import LeakyLayerNorm
from uap_jax.models.kernels import fast, plain


def normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(form, x, scale, bias, direction):
    y, pull_back = jax.vjp(lambda *a: form(*a, 0.2), x, scale, bias)
    return y, *pull_back(direction)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("shape", [(1, 1), (13, 7), (64, 80)])
def test_forms_agree(shape, offset):
    arguments = normal(*shape) + offset, normal(shape[1]), normal(shape[1])
    direction = normal(*shape)
    results, references = (
        value_and_gradients(form, *arguments, direction)
        for form in (fast.leaky_layer_norm, plain.leaky_layer_norm)
    )
    for value, expected in zip(results, references, strict=True):
        assert value.shape == expected.shape
        # What is lost of x beside its offset is lost in both.
        atol = 1e-5 * max(1, offset) * (np.abs(expected).max() + 1)
        np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("form", [fast, plain])
def test_module_is_flax_layer_norm_and_leaky_relu(form, monkeypatch):
    monkeypatch.setattr(kernels, "ops", lambda: form)
    x = normal(2, 5, 6)
    module = LeakyLayerNorm(0.2)
    params = {"scale": normal(6), "bias": normal(6)}
    reference = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)
    expected = nn.leaky_relu(reference.apply({"params": params}, x), 0.2)
    y = module.apply({"params": params}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    initial = module.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(initial["scale"], 1.0)
    np.testing.assert_array_equal(initial["bias"], 0.0)


@pytest.mark.parametrize("form", [fast, plain])
def test_silence_gives_the_bias_and_a_finite_gradient(form):
    x, scale, bias = jnp.zeros((3, 4)), normal(4), jnp.abs(normal(4))

    def run(x):
        return form.leaky_layer_norm(x, scale, bias, 0.2)

    y, pull_back = jax.vjp(run, x)
    np.testing.assert_array_equal(y, jnp.broadcast_to(bias, x.shape))
    assert np.all(np.isfinite(pull_back(jnp.ones_like(x))[0]))
