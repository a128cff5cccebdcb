"""The convolution with a sparse gradient against the plain one and the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models.kernels import fast, plain
from uap_jax.models.kernels.sparse_pool import (
    MAX_SPARSE_WINDOW,
    MIN_SPARSE_WINDOW,
    conv_1d_max_pool,
    sum_of_kernels,
)


def normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def conv_1d_max_pool_plain(x, kernel, window, stride):
    return plain.max_pool(plain.conv_1d(x, kernel, stride=stride), (window,))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def value_and_gradients(form, x, kernel, direction, window, stride):
    y, pull_back = jax.vjp(lambda x, k: form(x, k, window, stride), x, kernel)
    return y, *pull_back(direction)


@pytest.mark.parametrize(
    ("num_clips", "num_steps", "channels", "kernel_size", "stride", "window"),
    [
        (1, 101, 2, 8, 2, 5),
        (2, 102, 1, 7, 3, 4),
        (2, 64, 3, 3, 5, 3),  # steps that no output sees
        (3, 10, 2, 7, 1, 4),  # a single window
        (1, 150, 2, 5, 1, MIN_SPARSE_WINDOW),
    ],
)
def test_forms_agree(num_clips, num_steps, channels, kernel_size, stride, window):
    x, kernel = normal(num_clips, num_steps, channels), normal(kernel_size, channels, 6)
    shape = jax.eval_shape(
        lambda: conv_1d_max_pool_plain(x, kernel, window, stride)
    ).shape
    results, references = (
        value_and_gradients(form, x, kernel, normal(*shape), window, stride)
        for form in (conv_1d_max_pool, conv_1d_max_pool_plain)
    )
    for value, expected in zip(results, references, strict=True):
        assert value.shape == expected.shape
        np.testing.assert_allclose(
            value, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


def test_sum_of_kernels_by_definition_also_under_vmap_and_in_a_loop():
    kernel, num_steps = normal(4, 2, 3), 12
    factors = normal(2, 2, 5, 3)
    starts = np.random.default_rng(0).integers(0, num_steps - 4 + 1, factors.shape)
    expected = np.zeros((2, 2, num_steps, 2))
    for *clip, window, feature in np.ndindex(factors.shape):
        start = starts[*clip, window, feature]
        added = factors[*clip, window, feature] * kernel[:, :, feature]
        expected[*clip, start : start + 4] += added

    def run(arguments):
        return sum_of_kernels(*arguments, kernel, num_steps)

    arguments = factors, jnp.asarray(starts, jnp.int32)
    for y in (jax.vmap(run)(arguments), jax.lax.map(run, arguments)):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((MIN_SPARSE_WINDOW - 1,), False),
        ((MIN_SPARSE_WINDOW,), True),
        ((MAX_SPARSE_WINDOW,), True),
        ((MAX_SPARSE_WINDOW + 1,), False),
        ((MIN_SPARSE_WINDOW, 1), False),
    ],
)
def test_windows_for_which_it_is_faster(window, expected):
    assert fast.pools_sparsely(window) is expected
    assert plain.pools_sparsely(window) is False


def test_too_short_a_clip_is_an_error():
    with pytest.raises(ValueError, match="x: expected at least"):
        conv_1d_max_pool(normal(1, 10, 2), normal(5, 2, 3), 4, 2)
