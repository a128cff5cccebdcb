"""DDN against float64, step by step, and against Foolbox; its direction; projections.

Foolbox runs the same method on JAX: without quantisation and the random directions.
"""

import contextlib
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from greedy_reference import cross_entropy_gradient, ddn
from toy_networks import linear_logits, mlp_clips, mlp_logits, mlp_weights, predictions
from uap_jax.attacks.objectives import cross_entropy_ascent
from uap_jax.attacks.projections import project_l2, project_linf

from uap_jax import attacks

with warnings.catch_warnings():
    # SciPy tells Foolbox that a namespace has moved.
    warnings.filterwarnings("ignore", "Please import", DeprecationWarning)
    import foolbox


def linear_weights():
    rng = np.random.default_rng(1)
    return {"templates": rng.standard_normal((4, 32)).astype(np.float32)}


def as_float64(variables):
    return {name: np.float64(weights) for name, weights in variables.items()}


def linear_oracle(variables):
    templates = as_float64(variables)["templates"]
    return (
        lambda clip: templates @ (clip - 0.5),
        lambda clip, by_logits: templates.T @ by_logits,
    )


def mlp_oracle(variables):
    weights = as_float64(variables)
    return (
        functools.partial(reference.network_logits, weights),
        functools.partial(reference.network_gradient, weights),
    )


NETWORKS = {
    "linear": (linear_logits, linear_weights, linear_oracle),
    "mlp": (mlp_logits, mlp_weights, mlp_oracle),
}


@pytest.mark.parametrize(
    ("network", "targeted", "settings"),
    [
        # The one step reaches far enough, so that its very delta comes back.
        ("mlp", False, {"num_steps": 2, "init_norm": 1.5}),
        ("mlp", True, {"num_steps": 2, "init_norm": 2.5}),
        ("linear", True, {"num_steps": 2, "init_norm": 1.5}),
        ("mlp", False, {"num_steps": 9}),
        ("mlp", True, {"num_steps": 30, "gamma": 0.1, "init_norm": 0.5}),
        ("linear", False, {"num_steps": 30}),
        ("linear", True, {"num_steps": 9, "init_norm": 0.4}),
        ("linear", True, {"num_steps": 12, "init_norm": 3.0, "gamma": 0.3}),
        ("mlp", False, {"num_steps": 9, "quantization_levels": 16}),
        ("linear", True, {"num_steps": 9, "quantization_levels": 256}),
        ("mlp", True, {"num_steps": 20, "quantization_levels": 65536}),
    ],
    ids=str,
)
def test_steps_against_float64(network, targeted, settings):
    logits_fn, weights, oracle = NETWORKS[network]
    variables = weights()
    x, _ = mlp_clips(8)
    labels = predictions(logits_fn, variables, x)
    classes = (labels + 1) % 4 if targeted else labels
    found = attacks.ddn(
        logits_fn,
        variables,
        x,
        jnp.asarray(classes, jnp.int32),
        targeted=targeted,
        config=attacks.DDNConfig(**settings),
    )
    expected = [
        ddn(*oracle(variables), clip, label, targeted=targeted, **settings)
        for clip, label in zip(np.asarray(x), classes, strict=True)
    ]
    # No decision is one of rounding.
    assert min(clip.closest for clip in expected) > 1e-4
    success = [clip.success for clip in expected]
    np.testing.assert_array_equal(found.success, success)
    assert sum(success) >= 4
    deltas = np.stack([clip.delta for clip in expected])
    # A rounding to many levels goes either way where float32 and float64 differ.
    levels = settings.get("quantization_levels", 2)
    atol = 1e-5 if levels < 1000 else 1.5 / levels
    np.testing.assert_allclose(found.delta, deltas, rtol=0, atol=atol)
    l2 = np.linalg.norm(deltas, axis=1)
    np.testing.assert_allclose(found.l2, l2, rtol=0, atol=5 * atol)


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


def conv_problem():
    """Weights, clips and the classes that they are given."""
    rng = np.random.default_rng(4)

    def normal(*shape):
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)

    variables = {
        "conv0": normal(9, 1, 8),
        "conv1": normal(5, 8, 8),
        "dense": 5.0 * normal(32 * 8, 4),
    }
    x = jnp.asarray(0.1 + 0.8 * rng.random((24, 128)), jnp.float32)
    labels = jnp.asarray(predictions(conv_logits, variables, x), jnp.int32)
    return variables, x, labels


@pytest.mark.parametrize("targeted", [False, True])
def test_foolbox_finds_the_same(targeted):
    variables, x, labels = conv_problem()
    assert len(np.unique(labels)) >= 3
    classes = (labels + 1) % 4 if targeted else labels
    found = attacks.ddn(conv_logits, variables, x, classes, targeted=targeted)
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
    np.testing.assert_array_equal(found.success, success)
    assert np.mean(success) > 0.8
    l2 = np.linalg.norm(np.asarray(adversarial - x), axis=1)[np.asarray(success)]
    own = np.asarray(found.l2)[np.asarray(success)]
    # The smallest norms are a distance from the boundary, not that of the first step.
    assert np.std(own) > 0.1 * np.mean(own)
    np.testing.assert_allclose(np.median(own), np.median(l2), rtol=0.02)
    np.testing.assert_allclose(own, l2, rtol=0.06)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ascent_is_the_direction_of_the_cross_entropy(scale):
    rng = np.random.default_rng(2)
    logits = np.float32(scale * rng.standard_normal((40, 5)))
    classes = rng.integers(0, 5, 40)
    found = np.asarray(
        cross_entropy_ascent(jnp.asarray(logits), jnp.asarray(classes, jnp.int32))
    )
    np.testing.assert_array_equal(found[np.arange(40), classes], -1.0)
    for row, of_class, own in zip(np.float64(logits), classes, found, strict=True):
        gradient = cross_entropy_gradient(row, of_class)
        expected = gradient / -gradient[of_class]
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-7)


def test_ascent_where_float32_has_no_softmax_left():
    logits = jnp.array([[1e4, 0, -1e4], [3e38, 0, 1], [0, 0, 0]], jnp.float32)
    found = cross_entropy_ascent(logits, jnp.array([0, 0, 2], jnp.int32))
    expected = [[-1, 1, 0], [-1, 1 / (1 + np.e), np.e / (1 + np.e)], [0.5, 0.5, -1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("radius", [1e-3, 0.3, 1.0, 50.0])
def test_projections_against_optax(radius):
    rng = np.random.default_rng(6)
    for numbers in (rng.standard_normal(64), 0.01 * rng.standard_normal(1000)):
        v = jnp.asarray(numbers, jnp.float32)
        flat = project_linf(v, radius=radius)
        np.testing.assert_array_equal(
            flat, optax.projections.projection_box(v, -radius, radius)
        )
        np.testing.assert_allclose(
            flat, optax.projections.projection_linf_ball(v, radius), rtol=1e-6
        )
        np.testing.assert_allclose(
            flat, reference.project_linf(numbers, radius), rtol=1e-6
        )
        np.testing.assert_allclose(
            project_l2(v, radius=radius),
            optax.projections.projection_l2_ball(v, radius),
            rtol=1e-5,
        )


def test_projections_at_their_edges():
    zeros = jnp.zeros(5, jnp.float32)
    for project in (project_linf, project_l2):
        np.testing.assert_array_equal(project(zeros, radius=0.2), zeros)
        inside = jnp.array([0.1, -0.1, 0.0, 0.05, 0.0], jnp.float32)
        np.testing.assert_array_equal(project(inside, radius=0.2), inside)
        np.testing.assert_array_equal(project(inside, radius=0.0), zeros)
