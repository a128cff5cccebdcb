"""The fast pooling against the plain one, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models.kernels import fast, plain
from uap_jax.models.kernels.pooling import first_maximum, max_pool

# Compiling takes nearly all the time here.
QUICKLY = {"xla_backend_optimization_level": 0}


def normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 23, 5), (4,)),
        ((2, 24, 1), (3,)),
        ((2, 9, 3), (1,)),
        ((2, 11, 7, 3), (5, 3)),
        ((1, 8, 8, 2), (1, 2)),
    ],
)
def test_max_pool_forms_agree(shape, window):
    x = normal(*shape)
    direction = normal(*jax.eval_shape(lambda: plain.max_pool(x, window)).shape)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(x, direction):
        values = []
        for pool in (max_pool, plain.max_pool):
            y, pull_back = jax.vjp(lambda x, pool=pool: pool(x, window), x)
            values.append((y, *pull_back(direction)))
        return values

    results, references = run(x, direction)
    for value, expected in zip(results, references, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_one_of_equal_values_has_the_gradient(level):
    x = jnp.full((1, 6, 2), level).at[0, 1, 0].add(1.0).at[0, 3, 1].add(-1.0)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, (3,))))(x)[0]
    expected = [[0, 1], [1, 0], [0, 0], [1, 0], [0, 1], [0, 0]]
    assert gradient.tolist() == expected


def test_gradient_of_a_maximum_keeps_its_sum_on_ties():
    x = jnp.round(normal(2, 11, 13, 3))
    direction = normal(2, 2, 4, 3)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(x, direction):
        _, pull_back = jax.vjp(lambda x: max_pool(x, (5, 3)), x)
        return pull_back(direction)[0]

    gradient = run(x, direction)[:, :10, :12].reshape(2, 2, 5, 4, 3, 3)
    np.testing.assert_allclose(gradient.sum(axis=(2, 4)), direction, rtol=1e-6)


def test_maximum_has_a_forward_derivative_too():
    x, tangent = normal(1, 6, 2), normal(1, 6, 3)[:, :, :2]
    y, derivative = jax.jvp(lambda x: max_pool(x, (3,)), (x,), (tangent,))
    index = np.argmax(np.asarray(x).reshape(1, 2, 3, 2), axis=2)[:, :, None]
    for value, source in ((y, x), (derivative, tangent)):
        expected = np.take_along_axis(np.asarray(source).reshape(1, 2, 3, 2), index, 2)
        np.testing.assert_array_equal(value, expected[:, :, 0])


def test_first_maximum_names_the_first_place():
    x = jnp.round(normal(2, 5, 7))
    top, place = first_maximum(list(x.swapaxes(0, 1)))
    np.testing.assert_array_equal(top, jnp.max(x, 1))
    np.testing.assert_array_equal(place, jnp.argmax(x, 1))


@pytest.mark.parametrize("form", [fast, plain])
def test_too_short_an_input_is_an_error(form):
    assert jax.eval_shape(lambda x: form.max_pool(x, (2,)), normal(1, 9, 3)).shape == (
        *(1, 4, 3),
    )
    with pytest.raises(ValueError, match="x: expected at least 3 steps, got 2"):
        form.max_pool(normal(1, 2, 1), (3,))
