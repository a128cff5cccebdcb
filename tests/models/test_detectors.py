"""Detectors: thresholds in closed form, labels of taggers, streaming networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import attacks
from uap_jax.models import Classifier
from uap_jax.models.detectors import detected, detector, unroll

N = 24
RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RNG.normal(size=(3, N)), jnp.float32)
CLIPS = jnp.asarray(RNG.uniform(0.2, 0.8, (6, N)), jnp.float32)


def linear(weights, x):
    return (2.0 * x - 1.0) @ weights.T


def tagger(**settings):
    given = {"num_samples": N, "sample_rate_hz": N, "class_names": ("a", "b", "c")}
    return Classifier(linear, WEIGHTS, **given | {"threshold": 0.5} | settings)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.93])
def test_fires_above_its_threshold(threshold):
    made = detector(tagger(), label="b", threshold=threshold)
    logits = made.logits(made.variables, CLIPS)
    probability = jax.nn.sigmoid(linear(WEIGHTS, CLIPS)[:, 1])
    np.testing.assert_array_equal(jnp.argmax(logits, 1), probability > threshold)
    margin = linear(WEIGHTS, CLIPS)[:, 1] - jax.scipy.special.logit(threshold)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], margin, atol=1e-5)
    assert made.class_names == ("no b", "b") and made.threshold is None
    assert detected(made.class_names) == "b" and made.num_classes == 2
    assert detected(("a", "b")) is None and detected(None) is None


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_a_single_score_needs_no_names(shape):
    def one(weights, x):
        return linear(weights, x)[:, 0].reshape(shape)

    made = detector(
        Classifier(one, WEIGHTS, num_samples=N, sample_rate_hz=N), label="voice"
    )
    logits = made.logits(WEIGHTS, CLIPS)
    np.testing.assert_allclose(logits[:, 1], linear(WEIGHTS, CLIPS)[:, 0], atol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="label: expected one of a, b, c, got 'd'"):
        detector(tagger(), label="d")
    with pytest.raises(ValueError, match="label: expected one of class_names"):
        detector(tagger(class_names=None), label="a")
    with pytest.raises(ValueError, match=r"inside \(0, 1\), got 1.0"):
        detector(tagger(), label="a", threshold=1.0)


def leaky(variables, state, frame):
    """A recurrent cell with a context of one sample, one score a frame."""
    last, context = state
    carry = 0.5 * last + variables["w"] @ jnp.concatenate([context, frame])
    return (carry, frame[-1:]), jnp.tanh(carry) + variables["b"]


VARIABLES = {"w": jnp.asarray(RNG.normal(size=6), jnp.float32), "b": jnp.float32(0.1)}
STREAM = unroll(leaky, state=(0.0, np.zeros(1, np.float32)), frame_samples=5)


def test_unrolls_like_a_loop_over_frames():
    """24 samples are five frames of 5, the last one with a sample of silence."""
    w, b = np.asarray(VARIABLES["w"]), float(VARIABLES["b"])
    expected = []
    for clip in 2.0 * np.asarray(CLIPS) - 1.0:
        padded, carry, context, scores = np.append(clip, 0.0), 0.0, 0.0, []
        for start in range(0, 25, 5):
            frame = padded[start : start + 5]
            carry = 0.5 * carry + w @ np.append(context, frame)
            context = frame[-1]
            scores.append(np.tanh(carry) + b)
        expected.append(max(scores))
    scores = STREAM(VARIABLES, CLIPS)
    assert scores.shape == (6, 1)
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5)
    compiled = jax.jit(STREAM)(VARIABLES, CLIPS)
    mapped = jax.vmap(STREAM, in_axes=(None, 0))(VARIABLES, CLIPS[:, None])
    np.testing.assert_allclose(compiled, scores, rtol=1e-5)
    np.testing.assert_allclose(mapped[:, 0], scores, rtol=1e-5)


def test_its_gradient_is_that_of_central_differences():
    with jax.enable_x64(True):
        variables = {
            k: jnp.asarray(np.asarray(v), "float64") for k, v in VARIABLES.items()
        }

        def total(x):
            return jnp.sum(STREAM(variables, x))

        x = jnp.asarray(np.asarray(CLIPS), jnp.float64)
        direction = jnp.asarray(RNG.normal(size=x.shape))
        step = 1e-6 * direction
        numeric = (total(x + step) - total(x - step)) / 2e-6
        exact = jnp.vdot(jax.grad(total)(x), direction)
    np.testing.assert_allclose(exact, numeric, rtol=1e-6)


def test_other_reductions():
    mean = unroll(leaky, state=(0.0, np.zeros(1)), frame_samples=5, reduce=jnp.mean)
    assert np.all(mean(VARIABLES, CLIPS) < STREAM(VARIABLES, CLIPS))


@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_the_smallest_change_of_a_linear_detector(threshold):
    """|s - logit(t)| / ||ds/dx||, towards the boundary: DDN reaches it."""
    made = detector(tagger(), label="a", threshold=threshold)
    margin = linear(WEIGHTS, CLIPS)[:, 0] - jax.scipy.special.logit(threshold)
    expected = jnp.abs(margin) / jnp.linalg.norm(2.0 * WEIGHTS[0])
    states = (margin > 0).astype(jnp.int32)
    config = attacks.DDNConfig(num_steps=200, gamma=0.02)
    result = attacks.ddn(made.logits, WEIGHTS, CLIPS, states, config=config)
    assert np.all(result.success)
    assert np.all(result.l2 >= expected * (1 - 1e-4))
    np.testing.assert_allclose(result.l2, expected, rtol=0.02)
