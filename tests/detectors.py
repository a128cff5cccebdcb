"""Small detectors of `tones`: entry points and a tagger."""

import jax.numpy as jnp
import own_networks

from uap_jax.models import Classifier
from uap_jax.models.detectors import detector, unroll

RATE_HZ = own_networks.RATE_HZ


def tagger():
    """Scores of independent sigmoids, positive where a word's band is the loudest."""

    def scores(variables, x):
        levels = own_networks.jax_logits(variables, x)
        return levels - jnp.mean(levels, axis=1, keepdims=True) - 3.0

    return Classifier(
        scores,
        own_networks.weights(),
        class_names=own_networks.NAMES,
        threshold=0.5,
        **own_networks.SIZES,
    )


def tones(num_samples=RATE_HZ // 2):
    """Streaming: fires where the power of any 100 ms is above a threshold."""

    def step(variables, last, frame):
        power = jnp.mean(frame**2)
        return power, variables["slope"] * jnp.log((power + last + 1e-3) / 0.02)

    scores = unroll(step, state=0.0, frame_samples=RATE_HZ // 10)
    given = Classifier(scores, {"slope": jnp.float32(2.0)}, num_samples, RATE_HZ)
    return detector(given, label="tone")
