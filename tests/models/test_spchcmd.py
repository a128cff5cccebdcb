"""SpchCMD: the shapes of Table 17, framing, and behaviour at the edges."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import models
from uap_jax.models import registry
from uap_jax.models.spchcmd import FrameConv, SpchCMD

NUM_SAMPLES = 6_500
NUM_CLASSES = 5

# Rows of Table 17 after the framing, with the strides that its shapes demand.
TABLE_17 = (
    ("frames", 399, 64),
    ("separable_0", 397, 128),
    ("separable_1", 199, 192),
    ("separable_2", 197, 192),
    ("separable_3", 99, 256),
    ("separable_4", 97, 256),
    ("separable_5", 49, 320),
    ("separable_6", 47, 320),
    ("separable_7", 24, 384),
    ("separable_8", 22, 384),
    ("separable_9", 11, 448),
    ("separable_10", 9, 448),
)


def shapes_of(num_samples: int) -> dict[str, tuple[int, ...]]:
    """Output shapes of every layer for two clips; computes nothing."""
    module = SpchCMD(32)

    def run(key, x):
        variables = module.init(key, x)
        return module.apply(
            variables, x, capture_intermediates=True, mutable=["intermediates"]
        )

    x = jax.ShapeDtypeStruct((2, num_samples), jnp.float32)
    logits, state = jax.eval_shape(run, jax.random.key(0), x)
    layers = state["intermediates"]
    shapes = {
        name: layer["__call__"][0].shape
        for name, layer in layers.items()
        if name != "__call__"
    }
    return {**shapes, "output": logits.shape}


@pytest.fixture(scope="module")
def spec() -> models.Architecture:
    return models.create("spchcmd", num_classes=NUM_CLASSES, num_samples=NUM_SAMPLES)


@pytest.fixture(scope="module")
def variables(spec):
    """Random weights that keep every layer alive; drawn by NumPy to compile nothing."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim == 1:
            ones = path[-1].key in ("scale", "var")
            return jnp.full(leaf.shape, 1.0 if ones else 0.0)
        fan_in = leaf.size // leaf.shape[-1]
        values = rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
        return jnp.asarray(values, jnp.float32)

    shapes = jax.eval_shape(spec.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def logits_fn(spec):
    return jax.jit(spec.logits)


def test_every_row_of_table_17():
    shapes = shapes_of(16_000)
    for name, num_steps, num_channels in TABLE_17:
        assert shapes.pop(name) == (2, num_steps, num_channels), name
    assert shapes.pop("attention") == (2, 9)
    assert shapes.pop("logits") == shapes.pop("output") == (2, 32)
    assert set(shapes) <= {"Dropout_0"}


def test_number_of_parameters():
    spec = models.create("spchcmd", num_classes=32)
    variables = jax.eval_shape(spec.init, jax.random.key(0))
    trained = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    averaged = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    assert (trained, averaged) == (1_085_632, 6_784)
    assert f"{(trained + averaged) / 1e6:.2f}" == "1.09"


@pytest.mark.parametrize("num_samples", [200, 201, 210, 219, 239, 1_000])
def test_frames_are_40_samples_every_20(num_samples):
    rng = np.random.default_rng(num_samples)
    x = rng.uniform(-1, 1, (2, num_samples))
    kernel = rng.normal(size=(3, 40, 7)) / 8
    ones, zeros = np.ones(7, np.float32), np.zeros(7, np.float32)
    variables = {
        "params": {
            "kernel": kernel.astype(np.float32),
            "norm": {"scale": ones, "bias": zeros},
        },
        "batch_stats": {"norm": {"mean": zeros, "var": ones}},
    }
    run = jax.jit(lambda x: FrameConv(7).apply(variables, x, train=False))
    y = run(jnp.asarray(x, jnp.float32))

    num_frames = -(-num_samples // 20)
    missing = 20 * (num_frames + 1) - num_samples
    padded = np.pad(x, ((0, 0), (missing // 2, missing - missing // 2)))
    frames = np.stack([padded[:, 20 * t : 20 * t + 40] for t in range(num_frames)], 1)
    outputs = [
        np.einsum("bki,kio->bo", frames[:, t : t + 3], kernel)
        for t in range(0, num_frames - 2, 2)
    ]
    expected = np.clip(np.stack(outputs, 1) / np.sqrt(1 + 1e-5), 0, 6)
    assert 0.2 < np.mean(expected > 0) < 0.8
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_shortest_clip_leaves_one_step():
    shortest = registry._ENTRIES["spchcmd"].min_num_samples
    # Some versions of Flax divide by the number of steps, which is 0.
    with contextlib.suppress(ZeroDivisionError):
        assert 0 in shapes_of(shortest - 1)["separable_10"]
    assert shapes_of(shortest)["separable_10"] == (2, 1, 448)
    spec = models.create("spchcmd", num_classes=2, num_samples=shortest)
    variables = jax.eval_shape(spec.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, shortest), jnp.float32)
    assert jax.eval_shape(spec.logits, variables, x).shape == (1, 2)
    with pytest.raises(ValueError, match=f"num_samples: expected at least {shortest} "):
        models.create("spchcmd", num_classes=2, num_samples=shortest - 1)


def test_logits_do_not_depend_on_an_offset(logits_fn, variables, key):
    x = 0.1 + 0.4 * jax.random.uniform(key, (4, NUM_SAMPLES))
    logits = logits_fn(variables, x)
    np.testing.assert_allclose(
        logits_fn(variables, x + 0.4), logits, atol=1e-4 * float(jnp.abs(logits).max())
    )
    # It is the offset alone: another clip gives other logits.
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 1e-2 * float(
        jnp.abs(logits).max()
    )


def test_attention_weighs_the_steps_of_the_last_layer(variables, key):
    run = jax.jit(
        lambda x: SpchCMD(NUM_CLASSES).apply(
            variables, x, capture_intermediates=True, mutable=["intermediates"]
        )
    )
    logits, state = run(jax.random.uniform(key, (2, NUM_SAMPLES)))
    layers = state["intermediates"]
    steps, attention = (
        np.asarray(layers[name]["__call__"][0], np.float64)
        for name in ("separable_10", "attention")
    )
    kernels = jax.device_get(variables["params"])
    np.testing.assert_allclose(
        attention,
        steps.reshape(2, -1) @ kernels["attention"]["kernel"],
        rtol=1e-4,
        atol=1e-5,
    )
    weights = np.exp(attention) / np.exp(attention).sum(axis=1, keepdims=True)
    pooled = np.einsum("btc,bt->bc", steps, weights)
    np.testing.assert_allclose(
        logits, pooled @ kernels["logits"]["kernel"], rtol=1e-4, atol=1e-5
    )


def test_logits_of_a_clip_are_its_own(logits_fn, variables, key):
    x = jax.random.uniform(key, (4, NUM_SAMPLES))
    others = x.at[1:].set(0.0).at[2].set(1.0 - x[0])
    first, second = logits_fn(variables, x), logits_fn(variables, others)
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[2], second[2])


def test_gradients_at_silence_are_finite(spec, variables):
    x = jnp.stack([jnp.full(NUM_SAMPLES, level) for level in (0.0, 0.5, 1.0)])
    # Untrained, silence less its mean is on the kink of every unit.
    noise = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + noise.normal(0, 0.01, leaf.shape).astype(np.float32),
        variables["params"],
    )
    variables = {**variables, "params": params}
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(spec.logits(variables, x)[:, 0])))(x)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert float(jnp.abs(gradient).max()) > 0
