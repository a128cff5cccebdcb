"""DDN against float64, step by step, and against Foolbox.

Foolbox runs the same method on JAX: without quantisation and the random directions.
"""

import contextlib
import functools
import warnings

import greedy_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from toy_networks import linear_logits, mlp_clips, mlp_logits, mlp_weights, predictions

from uap_jax import attacks


def linear_oracle(variables):
    templates = np.float64(variables["templates"])
    return (
        lambda clip: templates @ (clip - 0.5),
        lambda clip, by_logits: templates.T @ by_logits,
    )


def mlp_oracle(variables):
    weights = {name: np.float64(weights) for name, weights in variables.items()}
    return (
        functools.partial(reference.network_logits, weights),
        functools.partial(reference.network_gradient, weights),
    )


@pytest.mark.parametrize(
    ("network", "targeted", "settings"),
    [
        # The one step reaches far enough, so that its very delta comes back.
        ("mlp", False, {"num_steps": 2, "init_norm": 1.5}),
        ("mlp", True, {"num_steps": 2, "init_norm": 2.5}),
        ("mlp", False, {"num_steps": 9}),
        ("mlp", True, {"num_steps": 30, "gamma": 0.1, "init_norm": 0.5}),
        ("linear", False, {"num_steps": 30}),
        ("linear", True, {"num_steps": 12, "init_norm": 3.0, "gamma": 0.3}),
        ("mlp", False, {"num_steps": 9, "quantization_levels": 16}),
        ("mlp", True, {"num_steps": 20, "quantization_levels": 65536}),
    ],
    ids=str,
)
def test_steps_against_float64(network, targeted, settings):
    logits_fn, variables, oracle = mlp_logits, mlp_weights(), mlp_oracle
    if network == "linear":
        templates = np.random.default_rng(1).standard_normal((4, 32))
        variables = {"templates": templates.astype(np.float32)}
        logits_fn, oracle = linear_logits, linear_oracle
    x, _ = mlp_clips(8)
    labels = predictions(logits_fn, variables, x)
    classes = (labels + 1) % 4 if targeted else labels
    classes = classes.astype(np.int32)
    config = attacks.DDNConfig(**settings)
    result = attacks.ddn(
        logits_fn, variables, x, classes, targeted=targeted, config=config
    )
    expected = [
        greedy_reference.ddn(
            *oracle(variables), clip, label, targeted=targeted, **settings
        )
        for clip, label in zip(np.asarray(x), classes, strict=True)
    ]
    # No decision is one of rounding.
    assert min(clip.closest for clip in expected) > 1e-4
    success = [clip.success for clip in expected]
    np.testing.assert_array_equal(result.success, success)
    assert sum(success) >= 4
    deltas = np.stack([clip.delta for clip in expected])
    # A rounding to many levels goes either way where float32 and float64 differ.
    levels = settings.get("quantization_levels", 2)
    atol = 1e-5 if levels < 1000 else 1.5 / levels
    np.testing.assert_allclose(result.delta, deltas, rtol=0, atol=atol)
    l2 = np.linalg.norm(deltas, axis=1)
    np.testing.assert_allclose(result.l2, l2, rtol=0, atol=5 * atol)


def conv_logits(variables, x):
    """A small convolutional network, `[B, N]` to `[B, 4]`."""
    hidden = x[:, :, None] - 0.5
    for name in ("conv0", "conv1"):
        hidden = jax.lax.conv_general_dilated(
            hidden,
            variables[name],
            window_strides=(2,),
            padding="SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        hidden = jax.nn.relu(hidden)
    return hidden.reshape(x.shape[0], -1) @ variables["dense"]


@pytest.mark.parametrize("targeted", [False, True])
def test_foolbox_finds_the_same(targeted):
    # Here, as the processes of a session import every file of tests.
    with warnings.catch_warnings():
        # SciPy tells Foolbox that a namespace has moved.
        warnings.filterwarnings("ignore", "Please import", DeprecationWarning)
        import foolbox
    rng = np.random.default_rng(4)

    def normal(*shape):
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)

    variables = {"conv0": normal(9, 1, 8), "conv1": normal(5, 8, 8)}
    variables["dense"] = 5.0 * normal(32 * 8, 4)
    x = jnp.asarray(0.1 + 0.8 * rng.random((24, 128)), jnp.float32)
    labels = jnp.asarray(predictions(conv_logits, variables, x), jnp.int32)
    assert len(np.unique(labels)) >= 3
    classes = (labels + 1) % 4 if targeted else labels
    result = attacks.ddn(conv_logits, variables, x, classes, targeted=targeted)
    criterion = (
        foolbox.criteria.TargetedMisclassification(classes)
        if targeted
        else foolbox.criteria.Misclassification(classes)
    )
    logits_of = jax.jit(functools.partial(conv_logits, variables))
    attack = foolbox.attacks.DDNAttack(init_epsilon=0.2, steps=50, gamma=0.05)
    with contextlib.ExitStack() as stack:
        # Foolbox is not written for the strict settings of these tests.
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        model = foolbox.JAXModel(logits_of, bounds=(0, 1))
        _, adversarial, success = attack(model, x, criterion, epsilons=None)
    np.testing.assert_array_equal(result.success, success)
    success = np.asarray(success)
    assert np.mean(success) > 0.8
    theirs = np.linalg.norm(np.asarray(adversarial - x), axis=1)[success]
    ours = np.asarray(result.l2)[success]
    # The smallest norms are a distance from the boundary, not that of the first step.
    assert np.std(ours) > 0.1 * np.mean(ours)
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.02)
    np.testing.assert_allclose(ours, theirs, rtol=0.06)
