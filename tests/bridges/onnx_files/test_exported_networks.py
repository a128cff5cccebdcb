"""Networks that PyTorch exports, against the official runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import bridges

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from exported_networks import (  # noqa: E402
    NETWORKS,
    NUM_CLASSES,
    NUM_SAMPLES,
    export,
    make,
)


@pytest.fixture(scope="module", params=NETWORKS)
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / f"{request.param}.onnx"
    export(make(request.param), path)
    return path


@pytest.fixture(scope="module")
def classifier(path):
    return bridges.from_onnx(path, num_samples=NUM_SAMPLES, framework="jax")


def clips(num_clips):
    """Sounds of all levels in the box, silence and full scale among them."""
    rng = np.random.default_rng(0)
    levels = np.linspace(0.0, 0.5, num_clips)[:, None]
    noise = rng.uniform(-1.0, 1.0, (num_clips, NUM_SAMPLES))
    return (0.5 + levels * noise).astype(np.float32)


def test_logits_of_the_runtime(path, classifier):
    x = clips(100)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"clips": x})
    found = jax.jit(classifier.logits)(classifier.variables, x)
    assert found.shape == (100, NUM_CLASSES)
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_directional_derivative(classifier):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        variables = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), classifier.variables
        )
        x = jnp.asarray(clips(4)[1:], jnp.float64)
        factors = jnp.asarray(rng.standard_normal((3, NUM_CLASSES)))

        @jax.jit
        def total(x):
            return jnp.sum(factors * classifier.logits(variables, x))

        gradient = jax.grad(total)(x)
        direction = jnp.asarray(rng.standard_normal(x.shape))
        step = 1e-7
        ahead, behind = total(x + step * direction), total(x - step * direction)
        expected = (ahead - behind) / (2 * step)
        assert gradient.dtype == jnp.float64
        np.testing.assert_allclose(jnp.vdot(gradient, direction), expected, rtol=1e-3)


def test_gradient_at_silence_and_full_scale(classifier):
    square = np.sign(np.sin(np.arange(NUM_SAMPLES)))
    x = jnp.asarray(np.stack([0 * square, 0.5 + 0.5 * square]), jnp.float32)
    x = x.at[0].set(0.5)
    gradient = jax.jit(
        jax.grad(lambda x: jnp.sum(classifier.logits(classifier.variables, x)))
    )(x)
    assert np.all(np.isfinite(gradient))
