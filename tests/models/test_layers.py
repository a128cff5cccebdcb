"""The fast layers against plain ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models import kernels
from uap_jax.models.blocks import (
    ConvBlock,
    SeparableConv,
    depthwise_conv,
    remove_mean,
    same_padding,
)
from uap_jax.models.cnn_gamma import FrozenBank
from uap_jax.models.kernels import fast, plain


def depthwise_conv_plain(x, kernel, *, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, None, :],
        window_strides=(stride,),
        padding=(padding,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[2],
    )


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("num_clips", "num_steps", "kernel_size"), [(1, 9, 3), (1, 10, 3), (3, 11, 4)]
)
def test_depthwise_conv_is_the_grouped_convolution(
    num_clips, num_steps, kernel_size, stride, padding
):
    rng = np.random.default_rng(num_steps)
    num_outputs = (num_steps + sum(padding) - kernel_size) // stride + 1
    x, kernel, direction = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in (
            (num_clips, num_steps, 5),
            (kernel_size, 5),
            (num_clips, num_outputs, 5),
        )
    )

    @jax.jit
    def run(x, kernel, direction):
        results = []
        for conv in (depthwise_conv, depthwise_conv_plain):
            layer = functools.partial(conv, stride=stride, padding=padding)
            y, pull_back = jax.vjp(layer, x, kernel)
            results.append((y, *pull_back(direction)))
        return results

    fast, plain = run(x, kernel, direction)
    for value, expected in zip(fast, plain, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_depthwise_conv_of_a_known_signal():
    x = jnp.arange(6.0).reshape(1, 6, 1)
    kernel = jnp.asarray([[1.0], [10.0], [100.0]])
    y = depthwise_conv(x, kernel, stride=2, padding=(0, 1))
    assert y[0, :, 0].tolist() == [210.0, 432.0, 54.0]


@pytest.mark.parametrize(
    ("num_steps", "kernel_size", "stride", "expected"),
    [
        (397, 3, 2, (1, 1)),  # the strided layers of SpchCMD
        (22, 3, 2, (0, 1)),
        (10, 3, 1, (1, 1)),
        (10, 4, 1, (1, 2)),
        (800, 40, 20, (10, 10)),
        (4, 1, 3, (0, 0)),
    ],
)
def test_same_padding_by_hand(num_steps, kernel_size, stride, expected):
    assert same_padding(num_steps, kernel_size=kernel_size, stride=stride) == expected


def test_same_padding_is_tensorflow_s():
    for num_steps, kernel_size, stride in itertools.product(
        range(1, 25), range(1, 6), range(1, 4)
    ):
        before, after = same_padding(num_steps, kernel_size=kernel_size, stride=stride)
        ((low, high),) = jax.lax.padtype_to_pads(
            (num_steps,), (kernel_size,), (stride,), "SAME"
        )
        assert (before, after) == (low, high)
        num_outputs = (num_steps + before + after - kernel_size) // stride + 1
        assert num_outputs == -(-num_steps // stride)


@pytest.mark.parametrize(("stride", "num_steps"), [(1, 12), (2, 12), (2, 13)])
def test_separable_conv_is_two_convolutions_and_a_norm(stride, num_steps, key):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, num_steps, 4)), jnp.float32)
    module = SeparableConv(6, stride)
    shapes = jax.eval_shape(lambda: module.init(key, x, train=False))
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32), shapes
    )
    y = jax.jit(lambda variables, x: module.apply(variables, x, train=False))(
        variables, x
    )

    params, statistics = variables["params"], variables["batch_stats"]["norm"]
    padding = (0, 0) if stride == 1 else (num_steps % 2, 1)
    plain = depthwise_conv_plain(x, params["depthwise"], stride=stride, padding=padding)
    plain = np.asarray(plain, np.float64) @ params["pointwise"]["kernel"]
    scale = params["norm"]["scale"] / np.sqrt(statistics["var"] + 1e-5)
    plain = (plain - statistics["mean"]) * scale + params["norm"]["bias"]
    assert 0 < np.mean((plain > 0) & (plain < 6)) < 1
    np.testing.assert_allclose(y, np.clip(plain, 0, 6), rtol=1e-4, atol=1e-4)


def test_depthwise_kernel_starts_at_unit_gain(key):
    """A scale of 1 / K, not 1 / (K C): each channel has its own fan-in."""
    x = jnp.zeros((1, 5, 3000))
    variables = jax.jit(lambda key: SeparableConv(4).init(key, x, train=False))(key)
    kernel = variables["params"]["depthwise"]
    assert float(np.var(kernel)) == pytest.approx(1 / 3, rel=0.05)


def draw(shapes, rng):
    """Random variables, scales of both signs and variances above zero among them."""

    def draw_leaf(path, leaf):
        value = rng.normal(size=leaf.shape)
        return (value**2 + 0.1 if path[-1].key == "var" else value).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw_leaf, shapes)


def norm_and_pool(y, params, statistics, size):
    """Relu, batch norm and pooling in this order; returns the statistics of y too."""
    y = np.maximum(y, 0)
    axes = tuple(range(y.ndim - 1))
    moments = y.mean(axes), y.var(axes)
    mean, var = moments if statistics is None else statistics
    y = (y - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    num_windows = y.shape[1] // size
    y = y[:, : num_windows * size].reshape(len(y), num_windows, size, -1)
    return y.max(axis=2), moments


def assert_norm_then_pools(module, x, convolve, pool_size):
    """Evaluation may pool first, and must give the same; training moves statistics."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x[:1], train=False))
    variables = draw(shapes, np.random.default_rng(1))
    assert (variables["params"]["scale"] < 0).any()
    assert (variables["params"]["scale"] > 0).any()
    norm = variables["batch_stats"]["norm"]
    convolved = convolve(variables, np.asarray(x, np.float64))

    y = jax.jit(lambda v: module.apply(v, x, train=False))(variables)
    statistics = norm["mean"], norm["var"]
    expected, _ = norm_and_pool(convolved, variables["params"], statistics, pool_size)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    y, state = jax.jit(
        lambda v: module.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables)
    expected, moments = norm_and_pool(convolved, variables["params"], None, pool_size)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
    for name, old, new in zip(("mean", "var"), statistics, moments, strict=True):
        np.testing.assert_allclose(
            state["batch_stats"]["norm"][name], 0.9 * old + 0.1 * new, rtol=1e-3
        )


@pytest.mark.parametrize("form", [fast, plain])
def test_conv_block_norms_then_pools(form, monkeypatch):
    monkeypatch.setattr(kernels, "ops", lambda: form)
    x = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)

    def convolve(variables, x):
        params = variables["params"]["conv"]
        windows = [x[:, t : t + 4] for t in range(0, 27, 2)]
        y = np.stack([np.einsum("bki,kio->bo", w, params["kernel"]) for w in windows])
        return y.swapaxes(0, 1) + params["bias"]

    module = ConvBlock(8, (4,), 2, window=(3,))
    assert_norm_then_pools(module, jnp.asarray(x), convolve, 3)


@pytest.mark.parametrize("form", [fast, plain])
def test_frozen_bank_norms_then_pools(form, monkeypatch):
    monkeypatch.setattr(kernels, "ops", lambda: form)
    x = np.random.default_rng(0).normal(size=(2, 550)).astype(np.float32)

    def convolve(variables, x):
        windows = np.lib.stride_tricks.sliding_window_view(x, 512, axis=1)
        frozen = variables["frozen"]
        return windows @ frozen["filters"].astype(np.float64) + frozen["bias"]

    assert_norm_then_pools(FrozenBank(), jnp.asarray(x), convolve, 8)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
def test_a_constant_clip_less_its_mean_is_zero(level):
    x = jnp.full((2, 50_999), level, jnp.float32)
    np.testing.assert_array_equal(jax.jit(remove_mean)(x), 0.0)


def test_mean_is_removed_with_its_gradient(key):
    x = jax.random.uniform(key, (2, 50))
    direction = jax.random.normal(key, (2, 50))
    y, pull_back = jax.vjp(remove_mean, x)
    for value, source in ((y, x), (pull_back(direction)[0], direction)):
        expected = np.asarray(source, np.float64)
        expected = expected - expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(value, expected, atol=1e-6)
