"""A perturbation on a model that it was not made for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.attacks import Perturbation
from uap_jax.data.dataset import Dataset
from uap_jax.evaluation.transfer import evaluate_transfer

NUM_SAMPLES = 8


def loud(variables, x):
    """Says 1 where the mean is above a threshold, else 0; never 2."""
    above = jnp.mean(x, axis=1) - variables
    zero = jnp.zeros_like(above)
    return jnp.stack([-above, above, zero - 9.0], axis=1)


def evaluate(perturbation, *, target=None, labels=(0, 0, 1, 2), scaling="fixed"):
    # Means of 0.45, 0.5, 0.6 and 0.45 in the box.
    levels = np.array([-0.1, 0.0, 0.2, -0.1], np.float32)
    wiggle = np.tile(np.array([0.05, -0.05], np.float32), NUM_SAMPLES // 2)
    dataset = Dataset(
        name="levels",
        clips=levels[:, None] + wiggle[None],
        labels=np.array(labels, np.int32),
        class_names=("quiet", "loud", "none"),
        groups=np.array(list("abcd")),
        names=np.array(list("abcd")),
        sample_rate_hz=16_000,
        fingerprint="",
    )
    return evaluate_transfer(
        loud,
        jnp.float32(0.55),
        dataset,
        np.arange(4),
        perturbation,
        scaling=scaling,
        gain=1.0,
        target=target,
        key=jax.random.key(0),
    )


def shift(value, **settings):
    value = jnp.full(NUM_SAMPLES, value, jnp.float32)
    return Perturbation(value, space="signal", **settings)


def test_rates_and_chance():
    # 0.08 more takes the clip at 0.5 over the threshold of 0.55.
    result = evaluate(shift(0.08))
    assert result["clean_accuracy"] == 0.75
    assert result["test"]["asr"] == 0.25
    assert result["test"]["num_clips"] == 4
    assert result["chance"] is None
    targeted = evaluate(shift(0.08), target=1)
    assert targeted["test"]["asr"] == 0.5
    assert targeted["chance"] == 0.25
    assert 0 <= targeted["control"]["asr"] <= 1


def test_nothing_added_is_chance_of_a_perfect_model():
    result = evaluate(shift(0.0), target=1, labels=(0, 0, 1, 0))
    assert result["test"]["asr"] == result["chance"] == 0.25
    assert evaluate(shift(0.0))["test"]["asr"] == 0.0


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"perturbation: expected \[8\] .* got \(5,\)"):
        evaluate(Perturbation(jnp.zeros(5), space="signal"))
    with pytest.raises(ValueError, match=r"scaling: expected 'peak' .* got 'fixed'"):
        evaluate(shift(0.0, scaling="peak"))
