"""The fast layers against plain ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models.layers import (
    SeparableConv,
    depthwise_conv,
    depthwise_conv_plain,
    same_padding,
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
