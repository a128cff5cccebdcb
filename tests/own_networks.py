"""Classifiers of `tones`, trained already: each hears the power in a word's band.

The same network in JAX, as entry points, and in PyTorch.
"""

import jax.numpy as jnp
import numpy as np
from tones import WORDS

from uap_jax import bridges, models

# In another order than a corpus has them.
NAMES = ("mid", "low", "high")
FRAME = 200
RATE_HZ = 16_000
SIZES = {"num_samples": RATE_HZ, "sample_rate_hz": RATE_HZ}


def weights():
    """Waves at the frequencies near a word's, and which of them are of which word."""
    at_hz = np.arange(1, 25) * RATE_HZ / FRAME
    phase = 2 * np.pi * at_hz * np.arange(FRAME)[:, None] / RATE_HZ
    centers_hz = np.array([WORDS[name] for name in NAMES])
    near = np.abs(at_hz[:, None] / centers_hz - 1) < 0.25
    arrays = {"cos": np.cos(phase), "sin": np.sin(phase), "near": near}
    return {name: np.float32(array) for name, array in arrays.items()}


def jax_logits(variables, x):
    frames = (2.0 * x - 1.0).reshape(x.shape[0], -1, FRAME)
    power = (frames @ variables["cos"]) ** 2 + (frames @ variables["sin"]) ** 2
    return 4.0 * jnp.log(power.mean(1) @ variables["near"] + 0.1)


def named():
    return models.Classifier(jax_logits, weights(), class_names=NAMES, **SIZES)


def unnamed():
    return models.Classifier(
        lambda variables, x: jax_logits(variables, x)[:, jnp.array([2, 1, 0])],
        weights(),
        **SIZES,
    )


def closed():
    """Its weights are in its code only."""
    arrays = weights()
    return models.Classifier(
        lambda variables, x: jax_logits(arrays, x), {}, class_names=NAMES, **SIZES
    )


def probabilities():
    def predict(variables, x):
        logits = jax_logits(variables, x)
        return jnp.exp(logits) / jnp.sum(jnp.exp(logits), axis=1, keepdims=True)

    return models.Classifier(predict, weights(), **SIZES)


def without_gradient():
    arrays = weights()

    def forward(x):
        frames = (2 * x - 1).reshape(len(x), -1, FRAME)
        power = (frames @ arrays["cos"]) ** 2 + (frames @ arrays["sin"]) ** 2
        return 4 * np.log(power.mean(1) @ arrays["near"] + np.float32(0.1))

    return bridges.from_numpy(forward, num_classes=3, **SIZES)
