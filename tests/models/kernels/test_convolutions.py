"""The fast operations against the plain ones, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models import kernels
from uap_jax.models.kernels import fast, plain
from uap_jax.models.kernels.convolutions import (
    conv_1d_polyphase,
    conv_1d_toeplitz,
    conv_2d_canonical,
    conv_2d_rows,
)
from uap_jax.models.kernels.windows import (
    num_windows,
    overlapping_blocks,
)

# Compiling takes nearly all the time here.
QUICKLY = {"xla_backend_optimization_level": 0}


def normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(shape)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@functools.cache
def with_settings(conv, **settings: int):
    """One object for equal arguments, so that it is compiled once."""
    return lambda x, kernel: conv(x, kernel, **settings)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def value_and_gradients(form, x, kernel, direction):
    y, pull_back = jax.vjp(form, x, kernel)
    return y, *pull_back(direction)


def assert_equals_plain(fast, plain, x, kernel):
    """Values and both gradients to 1e-5 of the sum of the terms' magnitudes."""
    arguments = x, kernel, normal(*jax.eval_shape(plain, x, kernel).shape)
    results = zip(
        value_and_gradients(fast, *arguments),
        value_and_gradients(plain, *arguments),
        value_and_gradients(plain, *map(jnp.abs, arguments)),
        strict=True,
    )
    for value, expected, magnitude in results:
        assert value.shape == expected.shape
        assert np.all(np.abs(value - expected) <= 1e-5 * magnitude)
        assert np.any(np.asarray(expected) != 0)


@pytest.mark.parametrize(
    ("fast", "num_clips", "num_steps", "channels", "kernel_size", "stride"),
    [
        (conv_1d_toeplitz, 1, 101, 1, 8, 2),
        (conv_1d_toeplitz, 3, 102, 1, 7, 3),
        (conv_1d_toeplitz, 2, 47, 2, 3, 5),  # steps that no output sees
        (conv_1d_toeplitz, 2, 7, 1, 7, 1),  # a single output
        (conv_1d_polyphase, 3, 102, 1, 7, 3),
        (conv_1d_polyphase, 1, 80, 3, 4, 2),
        (conv_1d_polyphase, 2, 47, 2, 3, 5),
        (conv_1d_polyphase, 2, 7, 1, 7, 1),
    ],
)
def test_conv_1d_forms_agree(fast, num_clips, num_steps, channels, kernel_size, stride):
    assert_equals_plain(
        with_settings(fast, stride=stride),
        with_settings(plain.conv_1d, stride=stride),
        normal(num_clips, num_steps, channels),
        normal(kernel_size, channels, 6),
    )


def test_conv_1d_by_definition():
    x, kernel = normal(2, 20, 3), normal(4, 3, 5)
    for form in (fast, plain):
        y = form.conv_1d(x, kernel, stride=3)
        windows = [np.asarray(x, np.float64)[:, t : t + 4] for t in range(0, 17, 3)]
        expected = np.stack([np.einsum("bki,kio->bo", w, kernel) for w in windows], 1)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fast", [conv_2d_rows, conv_2d_canonical])
@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "padding"),
    [
        ((1, 9, 13, 3), (4, 5, 3, 6), 0),
        ((2, 5, 11, 2), (1, 4, 2, 3), 0),
        ((2, 5, 6, 2), (3, 3, 2, 4), 1),
        ((1, 4, 5, 1), (4, 5, 1, 2), 0),  # a single output
        ((1, 3, 2, 2), (5, 4, 2, 3), 2),  # a kernel larger than what it covers
    ],
)
def test_conv_2d_forms_agree(fast, x_shape, kernel_shape, padding):
    assert_equals_plain(
        with_settings(fast, padding=padding),
        with_settings(plain.conv_2d, padding=padding),
        normal(*x_shape),
        normal(*kernel_shape),
    )


@pytest.mark.parametrize("conv", [conv_2d_rows, conv_2d_canonical, plain.conv_2d])
def test_conv_2d_refuses_what_the_kernel_does_not_fit_into(conv):
    with pytest.raises(ValueError, match="x: expected at least 5 steps, got 4"):
        conv(normal(1, 9, 4, 1), normal(3, 5, 1, 1))


@pytest.mark.slow
def test_conv_2d_canonical_in_a_loop_and_under_vmap():
    x, kernel = normal(3, 2, 6, 7, 2), normal(3, 3, 2, 4)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(conv_2d_canonical(x, kernel))))(x)

    expected = np.stack([gradient(clips) for clips in x])
    for mapped in (jax.vmap(gradient)(x), jax.lax.map(gradient, x)):
        np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-5)


def test_blocks_overlap_and_end_with_zeros():
    x = jnp.arange(1.0, 8.0)[None]
    blocks = overlapping_blocks(x, num_blocks=3, hop=3, size=5)
    assert blocks.tolist() == [[[1, 2, 3, 4, 5], [4, 5, 6, 7, 0], [7, 0, 0, 0, 0]]]
    blocks = overlapping_blocks(x, num_blocks=2, hop=3, size=2)
    assert blocks.tolist() == [[[1, 2], [4, 5]]]


@pytest.mark.parametrize("form", [fast, plain])
def test_operations_have_their_shapes_and_name_what_was_expected(form):
    for channels in (1, 2):
        x, kernel = normal(1, 9, channels), normal(3, channels, 2)
        run = functools.partial(form.conv_1d, stride=2)
        assert jax.eval_shape(run, x, kernel).shape == (1, 4, 2)
    x, kernel = normal(1, 9, 8, 2), normal(3, 2, 2, 4)
    assert jax.eval_shape(form.conv_2d, x, kernel).shape == (1, 7, 7, 4)
    with pytest.raises(ValueError, match="x: expected at least 3 steps, got 2"):
        form.conv_1d(normal(1, 2, 1), normal(3, 1, 2))
    with pytest.raises(ValueError, match="x: expected at least 3 steps, got 2"):
        form.conv_2d(normal(1, 4, 2, 1), normal(2, 3, 1, 2))


def test_form_follows_the_platform(monkeypatch):
    for platform, expected in (("cpu", fast), ("gpu", plain), ("tpu", plain)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert kernels.ops() is expected


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2), (2, 4)])
def test_windows_lie_wholly_inside(size, stride):
    for num_steps in range(size, 20):
        starts = range(0, num_steps - size + 1, stride)
        assert num_windows(num_steps, size=size, stride=stride) == len(starts)
