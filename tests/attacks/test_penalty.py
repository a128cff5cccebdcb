"""The penalty method: objective and steps against float64, optimizers, faults."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from toy_networks import (
    linear_logits,
    linear_problem,
    mlp_clips,
    mlp_logits,
    mlp_problem,
    mlp_weights,
)

from uap_jax import attacks
from uap_jax.attacks.loop import resolve_config
from uap_jax.attacks.penalty import OPTIMIZERS, batch_objective

# The nearest to the paper's 1e-7 that float32 can keep from 1.
EPSILON = 1 - float(np.float32(1 - reference.EPSILON))

NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES = 24, 32, 4

# Settings that leave v' = 0 quickly on the linear problem.
EASY = {
    "batch_size": 16,
    "max_passes": 5,
    "learning_rate": 0.01,
    "penalty_coefficient": 5.0,
}


def run_linear(**settings):
    return attacks.penalty(
        linear_logits,
        *linear_problem(),
        key=jax.random.key(0),
        target=1,
        config=attacks.PenaltyConfig(**(EASY | settings)),
    )


def stop_reason(result):
    return attacks.STOP_REASONS[int(result.stop_reason)]


def clips_of(kind):
    x, labels = mlp_clips(NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES)
    x = np.asarray(x)
    x = {"random": x, "silence": np.full_like(x, 0.5), "full_scale": np.round(x)}[kind]
    return jnp.asarray(x), labels


def value_of(name):
    normal = np.random.default_rng(7).standard_normal(NUM_SAMPLES)
    scale = {"zero": 0.0, "random": 0.3, "large": 3.0}[name]
    return (scale * normal).astype(np.float32)


def problem_of(kind="random", *, targeted, reduction="sum"):
    x, labels = clips_of(kind)
    problem, _ = attacks.begin(
        mlp_logits,
        mlp_weights(),
        x,
        labels,
        key=jax.random.key(0),
        target=2 if targeted else None,
        config=attacks.PenaltyConfig(hinge_reduction=reduction, confidence=3.0),
    )
    return problem


@jax.jit
def objective_of(problem, v, clips, weights):
    classify = functools.partial(mlp_logits, mlp_weights())
    return batch_objective(classify, problem, v, clips, weights)


@pytest.mark.parametrize("kind", ["random", "silence", "full_scale"])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "released"])
def test_batch_objective_against_float64(kind, targeted, reduction):
    problem = problem_of(kind, targeted=targeted, reduction=reduction)
    x, labels = map(np.asarray, clips_of(kind))
    # A partial batch: nine clips of twelve places.
    clips = np.array([[3, 17, 5, 8], [20, 0, 11, 9], [14, 0, 0, 0]], np.int32)
    weights = np.array([[1] * 4, [1] * 4, [1, 0, 0, 0]], np.float32)
    chosen = clips[weights > 0]
    coefficient = 0.15 if targeted else 0.2
    for name in ("zero", "random", "large"):
        value = value_of(name)
        objective, hinges, gradient, _ = objective_of(problem, value, clips, weights)
        expected, expected_hinges, expected_gradient = reference.batch_objective(
            mlp_weights(),
            np.float64(x)[chosen],
            np.full(9, 2) if targeted else labels[chosen],
            np.float64(value),
            coefficient=coefficient,
            confidence=3.0,
            targeted=targeted,
            released=reduction == "released",
            epsilon=EPSILON,
        )
        if name == "zero":
            # The package has a floor where the paper has minus infinity.
            assert expected == -np.inf
            expected = -200 + coefficient * expected_hinges
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
def test_reference_gradient_is_that_of_finite_differences(targeted):
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
def test_micro_batches_change_the_gradient_by_rounding_only(reduction):
    problem = problem_of(targeted=True, reduction=reduction)

    def gradient(size):
        clips = np.arange(12, dtype=np.int32).reshape(-1, size)
        weights = np.ones(clips.shape, np.float32)
        return objective_of(problem, value_of("random"), clips, weights)[2]

    whole = np.asarray(gradient(12))
    norm = np.linalg.norm(whole)
    for size in (1, 4):
        np.testing.assert_allclose(gradient(size), whole, rtol=1e-5, atol=1e-6 * norm)


def test_weight_zero_keeps_out_what_is_not_finite():
    problem = problem_of(targeted=False)
    problem = dataclasses.replace(problem, x=problem.x.at[0].set(jnp.nan))
    clips, weights = np.int32([[1, 2, 0]]), np.float32([[1, 1, 0]])
    objective, hinges, *_ = objective_of(problem, value_of("random"), clips, weights)
    assert np.isfinite(objective) and np.isfinite(hinges)


@pytest.mark.parametrize("reduction", ["sum", "released"])
def test_steps_against_float64(reduction):
    """Three steps of Adam on whole batches, so that the order does not matter."""
    variables, x, labels = mlp_problem()
    result = attacks.penalty(
        mlp_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=2,
        config=attacks.PenaltyConfig(
            max_passes=3,
            hinge_reduction=reduction,
            target_asr=1.0,
            penalty_coefficient=5.0,
        ),
    )
    value = np.zeros(x.shape[1])
    mean, square, count = np.zeros_like(value), np.zeros_like(value), 0
    objectives, levels = [], []
    for _ in range(3):
        objective, _, gradient = reference.batch_objective(
            variables,
            np.float64(x),
            np.full(len(labels), 2),
            value,
            coefficient=5.0,
            confidence=10.0,
            targeted=True,
            released=reduction == "released",
        )
        value, mean, square, count = reference.adam_step(
            value, gradient, mean, square, count, learning_rate=0.0035
        )
        objectives.append(objective)
        levels.append(reference.spl_db(value))
    assert int(result.num_passes) == 3 and np.linalg.norm(value) > 0.01
    np.testing.assert_allclose(result.perturbation.value, value, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(result.history["spl_db"], levels, rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        result.history["objective"][1:], objectives[1:], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("optimizer", "learning_rate"),
    [
        ("adam", 0.003),
        ("adagrad", 0.005),
        ("sgd", 1e-5),
        ("nesterov", 3e-6),
        ("rmsprop", 0.001),
        (optax.lion, 0.003),
    ],
)
def test_optimizers_reduce_the_objective(optimizer, learning_rate):
    result = run_linear(
        optimizer=optimizer,
        learning_rate=learning_rate,
        penalty_coefficient=20.0,
        target_asr=1.0,
    )
    assert int(result.num_passes) == 5
    hinge, objective = result.history["hinge"], result.history["objective"]
    assert np.all(np.diff(hinge) < 0) and hinge[-1] < hinge[0] - 0.3
    # The first pass begins at v' = 0, where the level is the floor of -200 dB.
    assert np.all(np.diff(objective[1:]) < 0)


def test_stays_in_the_l2_ball():
    for radius in (0.01, 0.5):
        result = run_linear(penalty_coefficient=50.0, l2_radius=radius)
        norm = np.linalg.norm(result.perturbation.value)
        np.testing.assert_allclose(norm, radius, rtol=1e-5)


def test_least_number_of_passes():
    free = run_linear(target_asr=1.0)
    assert stop_reason(free) == "converged" and int(free.num_passes) == 4
    last = run_linear(target_asr=1.0, min_passes=5)
    assert stop_reason(last) == "converged" and int(last.num_passes) == 5
    assert bool(last.converged) and float(last.train_asr) == 1.0
    for field, values in free.history.items():
        np.testing.assert_array_equal(last.history[field][:4], values[:4])
    # Whether the target is reached is seen in the last pass, not in those before.
    short = run_linear(target_asr=1.0, min_passes=3, max_passes=3)
    assert stop_reason(short) == "max_passes" and not bool(short.converged)


def faulty_logits(variables, x):
    """A linear network with faults to switch on by its weights."""
    logits = linear_logits(variables, x) + variables["offset"][None]
    # Finite at x = 0.5, where the gradient of a norm is 0 / 0.
    norm = jnp.sqrt(jnp.sum(jnp.square(x - 0.5), axis=1, keepdims=True))
    return logits + variables["norm_weight"] * norm


@pytest.mark.parametrize(
    ("expected", "num_steps", "fault"),
    [
        ("non_finite_objective", 0, {"offset": [np.nan] * 4}),
        ("non_finite_gradient", 0, {"norm_weight": 1.0}),
        ("non_finite_logits", 4, {"offset": [-np.inf, 0, 0, 0]}),
    ],
)
def test_stops_at_what_is_not_finite(expected, num_steps, fault):
    variables, x, labels = linear_problem()
    weights = {"offset": [0] * 4, "norm_weight": 0.0} | fault
    weights = {name: np.float32(number) for name, number in weights.items()}
    variables = variables | weights
    problem, state = attacks.begin(
        faulty_logits,
        variables,
        jnp.full_like(x, 0.5) if "norm_weight" in fault else x,
        labels,
        key=jax.random.key(3),
        target=1,
        config=attacks.PenaltyConfig(**EASY | {"target_asr": 1.0}),
    )
    state = attacks.advance(faulty_logits, variables, problem, state)
    result = attacks.result(state)
    assert stop_reason(result) == expected and not bool(result.converged)
    assert int(result.num_passes) == 0 and float(result.train_asr) == 0.0
    # The last step of a pass in which no clip was left, or the end of its steps.
    assert int(state.position) == (64 if num_steps else 48)
    # A step at fault is undone whole: value and optimizer.
    assert int(state.own.opt_state[0].count) == num_steps
    assert np.any(np.asarray(state.own.value) != 0) == (num_steps > 0)
    for leaf in jax.tree.leaves((state.own, state.sums)):
        assert np.all(np.isfinite(leaf))


def test_stops_when_a_step_overflows():
    result = run_linear(
        optimizer=lambda rate: optax.sgd(1e38 * rate),
        learning_rate=3.0,
        penalty_coefficient=100.0,
    )
    assert stop_reason(result) == "non_finite_gradient"
    np.testing.assert_array_equal(result.perturbation.value, 0.0)


def resolve(*, targeted=True, num_clips=1000, **settings):
    config = attacks.PenaltyConfig(**settings)
    return resolve_config(config, targeted=targeted, num_clips=num_clips)


@pytest.mark.parametrize(
    ("targeted", "expected"),
    [(True, (0.0035, 0.15, 10.0)), (False, (0.006, 0.2, 40.0))],
)
def test_defaults_are_the_papers(targeted, expected):
    config = resolve(targeted=targeted)
    numbers = (config.learning_rate, config.penalty_coefficient, config.confidence)
    assert numbers == expected
    assert (config.batch_size, config.max_passes, config.target_asr) == (100, 100, 0.9)
    assert config.micro_batch_size == 25
    assert list(OPTIMIZERS) == ["adam", "adagrad", "sgd", "nesterov", "rmsprop"]
    # Settings win over the scenario, and the number of clips over sizes.
    config = resolve(num_clips=7, learning_rate=1.0, micro_batch_size=64)
    assert (config.learning_rate, config.penalty_coefficient) == (1.0, 0.15)
    assert (config.batch_size, config.micro_batch_size) == (7, 7)


@pytest.mark.parametrize(
    "setting",
    [
        ("batch_size", None),
        ("min_passes", 0),
        ("min_passes", 1.5),
        ("min_passes", 101),
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        # As a float32 it is 0, with which nothing moves.
        ("learning_rate", 1e-50),
        ("l2_radius", 1e-50),
        ("confidence", 1e50),
        ("penalty_coefficient", 1e50),
        ("min_passes", 10**11),
        ("learning_rate", "fast"),
        ("penalty_coefficient", -0.1),
        ("confidence", -1.0),
        ("confidence", float("nan")),
        ("l2_radius", 0.0),
        ("hinge_reduction", "mean"),
        ("optimizer", "adamant"),
        ("optimizer", "apply_updates"),
    ],
    ids=str,
)
def test_refused_settings(setting):
    name, value = setting
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        resolve(**{name: value})
