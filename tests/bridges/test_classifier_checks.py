"""Classifiers that an attack would be wasted on are refused when they are bridged."""

import bridged_networks as networks
import jax.numpy as jnp
import numpy as np
import pytest
from bridged_networks import NUM_CLASSES, NUM_SAMPLES

from uap_jax import bridges
from uap_jax.bridges import checks

SIZES = {"num_classes": NUM_CLASSES, "num_samples": NUM_SAMPLES}


def softmax(logits):
    exponentials = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    return exponentials / np.sum(exponentials, axis=1, keepdims=True)


def probabilities(x):
    return softmax(networks.numpy_forward(x))


def not_finite(x):
    """As of a network that divides by the level of a clip."""
    level = np.max(np.abs(x - 0.5), axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return networks.numpy_forward(x) * (level / level)


def coupled(x):
    """As of batch normalisation in training mode."""
    logits = networks.numpy_forward(x)
    return logits - np.mean(logits, axis=0)


def one_clip_only(x):
    if len(x) > 1:
        raise RuntimeError("expected a batch of 1\nsecond line")
    return networks.numpy_forward(x)


REFUSED = {
    "probabilities": (probabilities, "expected logits, got rows .* softmax"),
    "not_finite": (not_finite, "expected finite logits, got NaN or infinity"),
    "coupled": (coupled, "logits that depend on the clip alone, got .*training mode"),
    "shape": (
        lambda x: networks.numpy_forward(x)[:, 1:],
        r"float32 \(3, 4\), got float32 \(3, 3\)",
    ),
    "dtype": (
        lambda x: networks.numpy_forward(x).astype(np.float64),
        "got float64",
    ),
    "list": (lambda x: networks.numpy_forward(x).tolist(), "got list"),
    "jax": (lambda x: jnp.asarray(networks.numpy_forward(x)), "got ArrayImpl"),
    "raises": (
        one_clip_only,
        "expected logits for 3 clips of 48 samples, got RuntimeError: expected a "
        "batch of 1$",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    forward, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^forward: .*{message}"):
        bridges.from_numpy(forward, **SIZES)


def test_log_probabilities_are_logits():
    bridges.from_numpy(lambda x: np.log(probabilities(x)), **SIZES)


@pytest.mark.parametrize(
    ("vjp", "message"),
    [
        (lambda x, u: u, r"expected a gradient \(vjp\) as .* \(3, 48\), got"),
        (lambda x: x, r"expected a gradient \(vjp\) for 3 clips .*TypeError"),
    ],
)
def test_refused_gradient(vjp, message):
    with pytest.raises(ValueError, match=f"^forward: {message}"):
        bridges.from_numpy_vjp(networks.numpy_forward, vjp, **SIZES)


def test_clips_of_one_s_own():
    def fails_when_loud(x):
        loud = np.max(x, axis=1, keepdims=True) > 0.999
        logits = networks.numpy_forward(x)
        return np.where(loud, np.float32(np.inf), logits)

    bridge = bridges.from_numpy(fails_when_loud, **SIZES)
    x, _ = networks.clips()
    bridges.check_logits(bridge, x)
    with pytest.raises(ValueError, match="classifier: expected finite logits"):
        bridges.check_logits(bridge, x.at[1, 2].set(1.0))


def test_probes_are_silence_and_noise():
    probes = checks.probe_clips(1000)
    assert probes.dtype == np.float32 and np.all((probes >= 0) & (probes <= 1))
    levels = np.std(probes, axis=1)
    assert levels[0] == 0 and 0 < levels[1] < 0.01 and levels[2] > 0.2
    np.testing.assert_array_equal(probes[0], 0.5)
    np.testing.assert_array_equal(probes, checks.probe_clips(1000))
