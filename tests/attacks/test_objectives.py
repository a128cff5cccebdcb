"""Hinge, success, projection and the objective of a batch, against float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from toy_networks import mlp_clips, mlp_logits, mlp_weights
from uap_jax.attacks.objectives import hinge, is_fooled
from uap_jax.attacks.penalty_steps import batch_objective
from uap_jax.attacks.projections import project_l2

from uap_jax.attacks import PenaltyConfig, penalty_init, resolve_penalty_config

# The nearest to the paper's 1e-7 that float32 can keep from 1.
EPSILON = 1 - float(np.float32(1 - reference.EPSILON))

NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES = 24, 32, 4


def reference_hinges(logits, classes, confidence, targeted):
    function = reference.hinge_targeted if targeted else reference.hinge_untargeted
    pairs = [function(f, c, confidence) for f, c in zip(logits, classes, strict=True)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("confidence", [0.0, 2.0, 40.0])
def test_hinge_and_gradient(targeted, confidence):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (40, 5)).astype(np.float32)
    classes = rng.integers(0, 5, 40).astype(np.int32)
    expected, expected_gradient = reference_hinges(
        np.float64(logits), classes, confidence, targeted
    )

    def total(logits):
        values = hinge(
            logits, jnp.asarray(classes), confidence=confidence, targeted=targeted
        )
        return jnp.sum(values), values

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert np.min(found) >= -confidence
    if confidence < 40:
        assert np.any(np.asarray(found) == -confidence)


def test_hinge_by_hand():
    logits = jnp.array([[1.0, 5.0, 3.0]] * 4, jnp.float32)
    classes = jnp.array([0, 1, 2, 1], jnp.int32)
    targeted = hinge(logits, classes, confidence=10.0, targeted=True)
    np.testing.assert_array_equal(targeted, [4.0, -2.0, 2.0, -2.0])
    untargeted = hinge(logits, classes, confidence=3.0, targeted=False)
    np.testing.assert_array_equal(untargeted, [-3.0, 2.0, -2.0, 2.0])


@pytest.mark.parametrize("targeted", [True, False])
def test_hinge_at_a_tie(targeted):
    logits = jnp.array([[2.0, 2.0, -1.0]], jnp.float32)

    def total(logits):
        classes = jnp.array([0], jnp.int32)
        return jnp.sum(hinge(logits, classes, confidence=1.0, targeted=targeted))

    value, gradient = jax.value_and_grad(total)(logits)
    assert value == 0.0
    expected = [-1.0, 1.0, 0.0] if targeted else [1.0, -1.0, 0.0]
    np.testing.assert_array_equal(gradient, [expected])


def test_hinge_divides_the_gradient_among_equal_rivals():
    logits = jnp.array([[0.0, 2.0, 2.0]], jnp.float32)

    def total(logits):
        classes = jnp.array([0], jnp.int32)
        return jnp.sum(hinge(logits, classes, confidence=1.0, targeted=True))

    gradient = np.asarray(jax.grad(total)(logits))[0]
    # Any subgradient will do: it points from the class to the rivals.
    assert gradient[0] == -1 and gradient[1] + gradient[2] == 1
    assert np.all(gradient[1:] >= 0)


def test_is_fooled():
    logits = jnp.array(
        [[0.0, 1.0], [1.0, 0.0], [0.0, jnp.nan], [-jnp.inf, 1.0]], jnp.float32
    )
    clean = jnp.zeros(4, jnp.int32)
    target = jnp.asarray(1, jnp.int32)
    for targeted in (True, False):
        fooled = is_fooled(logits, clean, target=target, targeted=targeted)
        np.testing.assert_array_equal(fooled, [True, False, False, False])
    fooled = is_fooled(logits, clean, target=jnp.asarray(0, jnp.int32), targeted=True)
    np.testing.assert_array_equal(fooled, [False, True, False, False])


@pytest.mark.parametrize("radius", [0.0, 1e-3, 1.0, 1e3])
def test_project_l2(radius):
    rng = np.random.default_rng(6)
    for scale in (0.0, 1e-6, 1.0, 1e6):
        v = jnp.asarray(scale * rng.standard_normal(64), jnp.float32)
        projected = project_l2(v, radius=radius)
        assert np.linalg.norm(np.float64(projected)) <= radius * (1 + 1e-5)
        expected = reference.project_l2(v, radius)
        np.testing.assert_allclose(projected, expected, rtol=1e-5)
        if radius:  # Optax gives NaN for a radius of 0.
            by_optax = optax.projections.projection_l2_ball(v, radius)
            np.testing.assert_allclose(projected, by_optax, rtol=1e-5)
        again = project_l2(projected, radius=radius)
        np.testing.assert_allclose(again, projected, rtol=1e-6)
        if np.linalg.norm(v) <= radius:
            np.testing.assert_array_equal(projected, v)


@pytest.fixture(scope="module")
def problems():
    """Clips of several kinds, as problems with their clips: random, at rest, full."""
    x, labels = mlp_clips(NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES)
    full = jnp.asarray(np.round(np.asarray(x)), jnp.float32)
    kinds = {"random": x, "silence": jnp.full_like(x, 0.5), "full_scale": full}
    config = PenaltyConfig(batch_size=12)
    found = {}
    for kind, clips in kinds.items():
        problem, _ = penalty_init(
            mlp_logits,
            mlp_weights(),
            clips,
            labels,
            key=jax.random.key(0),
            target=2,
            config=config,
        )
        found[kind] = (problem, np.float64(clips), np.asarray(labels))
    return found


def value_of(name):
    numbers = np.random.default_rng(7).standard_normal(NUM_SAMPLES)
    scale = {"zero": 0.0, "random": 0.3, "large": 3.0}[name]
    return (scale * numbers).astype(np.float32)


_objective = jax.jit(batch_objective, static_argnames=("logits_fn", "targeted"))


def resolved(targeted, **settings):
    config = resolve_penalty_config(
        PenaltyConfig(**settings), targeted=targeted, num_clips=NUM_CLIPS
    )
    return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), config)


@pytest.mark.parametrize("kind", ["random", "silence", "full_scale"])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "released"])
def test_batch_objective_against_float64(problems, kind, targeted, reduction):
    problem, x, labels = problems[kind]
    config = resolved(targeted, hinge_reduction=reduction, confidence=3.0)
    # A partial batch: nine clips of twelve places.
    clips = np.array([[3, 17, 5, 8], [20, 0, 11, 9], [14, 0, 0, 0]], np.int32)
    weights = np.array([[1] * 4, [1] * 4, [1, 0, 0, 0]], np.float32)
    chosen = clips[weights > 0]
    classes = np.full(9, 2) if targeted else labels[chosen]
    for name in ("zero", "random", "large"):
        value = value_of(name)
        objective, hinges, gradient = _objective(
            mlp_logits,
            mlp_weights(),
            problem,
            value,
            clips,
            weights,
            config=config,
            targeted=targeted,
        )
        expected, expected_hinges, expected_gradient = reference.batch_objective(
            mlp_weights(),
            x[chosen],
            classes,
            np.float64(value),
            coefficient=0.15 if targeted else 0.2,
            confidence=3.0,
            targeted=targeted,
            released=reduction == "released",
            epsilon=EPSILON,
        )
        if name == "zero":
            # The package has a floor where the paper has minus infinity.
            assert expected == -np.inf
            expected = -200 + (0.15 if targeted else 0.2) * expected_hinges
        # The hinges of nine clips may nearly cancel: their sum is off by the rounding
        # of what they are made of, whatever is left of it.
        roundoff = 2.0**-24
        scale = reference.hinge_rounding(mlp_weights(), x[chosen], np.float64(value))
        bound = 8 * roundoff * scale
        np.testing.assert_allclose(hinges, expected_hinges, rtol=0, atol=bound)
        np.testing.assert_allclose(objective, expected, rtol=1e-6, atol=bound)
        scale = max(np.max(np.abs(expected_gradient)), 1.0)
        np.testing.assert_allclose(
            gradient, expected_gradient, rtol=1e-4, atol=5e-6 * scale
        )


@pytest.mark.parametrize("targeted", [True, False])
def test_gradient_is_that_of_finite_differences(targeted):
    """Guards the hand-written derivatives of the reference themselves."""
    x, labels = mlp_clips(6, NUM_SAMPLES, NUM_CLASSES)
    value = np.float64(value_of("random"))
    settings = {"coefficient": 0.7, "confidence": 3.0, "targeted": targeted}

    def evaluate(value):
        return reference.batch_objective(
            mlp_weights(), np.float64(x), np.asarray(labels), value, **settings
        )

    gradient = evaluate(value)[2]
    for n in range(NUM_SAMPLES):
        step = np.zeros(NUM_SAMPLES)
        step[n] = 1e-6
        slope = (evaluate(value + step)[0] - evaluate(value - step)[0]) / 2e-6
        np.testing.assert_allclose(gradient[n], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "released"])
@pytest.mark.parametrize("size", [1, 4])
def test_micro_batches_change_the_gradient_by_rounding_only(problems, size, reduction):
    problem, *_ = problems["random"]
    config = resolved(True, hinge_reduction=reduction)

    def gradient(size):
        return _objective(
            mlp_logits,
            mlp_weights(),
            problem,
            value_of("random"),
            np.arange(12, dtype=np.int32).reshape(-1, size),
            np.ones((12 // size, size), np.float32),
            config=config,
            targeted=True,
        )[2]

    whole = np.asarray(gradient(12))
    norm = np.linalg.norm(whole)
    np.testing.assert_allclose(gradient(size), whole, rtol=1e-5, atol=1e-6 * norm)


def test_weight_zero_keeps_out_what_is_not_finite(problems):
    problem, *_ = problems["random"]
    broken = problem.x_tanh.at[0].set(jnp.nan)
    objective, hinges, _ = _objective(
        mlp_logits,
        mlp_weights(),
        problem._replace(x_tanh=broken),
        value_of("random"),
        np.array([[1, 2, 0]], np.int32),
        np.array([[1, 1, 0]], np.float32),
        config=resolved(False),
        targeted=False,
    )
    assert np.isfinite(objective) and np.isfinite(hinges)


def test_vmap_over_settings_and_batches(problems):
    problem, *_ = problems["random"]
    config = resolved(True)
    coefficients = jnp.array([0.1, 0.5, 2.0], jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)

    def gradient(coefficient, key):
        clips = jax.random.permutation(key, NUM_CLIPS)[:12].astype(jnp.int32)
        return batch_objective(
            mlp_logits,
            mlp_weights(),
            problem,
            jnp.asarray(value_of("random")),
            clips.reshape(3, 4),
            jnp.ones((3, 4), jnp.float32),
            config=dataclasses.replace(config, penalty_coefficient=coefficient),
            targeted=True,
        )

    together = jax.jit(jax.vmap(gradient))(coefficients, keys)
    alone = jax.jit(gradient)
    for index in range(3):
        expected = alone(coefficients[index], keys[index])
        for found, want in zip(together, expected, strict=True):
            np.testing.assert_allclose(found[index], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "released"])
def test_two_devices(problems, reduction):
    assert len(jax.devices()) >= 2
    problem, *_ = problems["random"]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("clips",))
    by_clip = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("clips"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = problem._replace(
        x_tanh=jax.device_put(problem.x_tanh, by_clip),
        labels=jax.device_put(problem.labels, by_clip),
        clean_predictions=jax.device_put(problem.clean_predictions, by_clip),
        target=jax.device_put(problem.target, everywhere),
    )
    assert len(spread.x_tanh.sharding.device_set) == 2

    def gradient(problem):
        return _objective(
            mlp_logits,
            mlp_weights(),
            problem,
            value_of("random"),
            np.arange(NUM_CLIPS, dtype=np.int32).reshape(3, 8),
            np.ones((3, 8), np.float32),
            config=resolved(True, hinge_reduction=reduction),
            targeted=True,
        )[2]

    whole = np.asarray(gradient(problem))
    norm = np.linalg.norm(whole)
    np.testing.assert_allclose(gradient(spread), whole, rtol=1e-5, atol=1e-6 * norm)
