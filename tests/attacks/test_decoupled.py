"""The decoupled method: least norms by enumeration, its front, its ends."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from toy_networks import (
    constant_logits,
    linear_logits,
    linear_problem,
    mlp_logits,
    mlp_problem,
    predictions,
)
from uap_jax.attacks.decoupled_state import DecoupledProblem

from uap_jax import attacks

# Settings that are quick on the linear problem.
EASY = {"batch_size": 16, "max_passes": 12, "level_passes": 4, "max_shift": 0}


def run_linear(*, target=1, seed=0, variables=None, **settings):
    own, x, labels = linear_problem()
    return attacks.decoupled(
        linear_logits,
        own if variables is None else variables,
        x,
        labels,
        key=jax.random.key(seed),
        target=target,
        config=attacks.DecoupledConfig(**(EASY | settings)),
    )


def rate_of(result, logits_fn, variables, x, *, target, value=None):
    """The success rate on clips, by its definition."""
    perturbation = result.perturbation
    if value is not None:
        perturbation = dataclasses.replace(perturbation, value=value)
    found = predictions(
        logits_fn, variables, attacks.apply_perturbation(perturbation, x)
    )
    clean = predictions(logits_fn, variables, x)
    return np.mean(found == target if target is not None else found != clean)


def plane_problem(*, seed, num_clips=200, num_classes=3):
    """Clips of two samples near the middle of the box, on which all can be tried."""
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * (np.arange(num_classes) + 0.3) / num_classes
    templates = 10 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = np.clip(0.5 + 0.04 * rng.standard_normal((num_clips, 2)), 0.3, 0.7)
    variables = {"templates": jnp.asarray(templates, jnp.float32)}
    x = jnp.asarray(x, jnp.float32)
    return variables, x, jnp.asarray(predictions(linear_logits, variables, x))


def least_norms(variables, x, *, target, levels, num_angles=20_000):
    """The least norm for each success rate, by trying every direction of the plane.

    Along a direction a clip becomes the target's where the target has overtaken the
    last rival; the least norm for a rate is a quantile of these lengths.
    """
    templates = np.float64(variables["templates"])
    logits = (np.float64(x) - 0.5) @ templates.T
    angles = 2 * np.pi * np.arange(num_angles) / num_angles
    slopes = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ templates.T
    lengths = np.zeros((len(x), num_angles))
    for rival in set(range(logits.shape[1])) - {target}:
        gap = (logits[:, rival] - logits[:, target])[:, None]
        closing = (slopes[:, target] - slopes[:, rival])[None]
        with np.errstate(divide="ignore", invalid="ignore"):
            overtaken = np.where(closing > 0, gap / closing, np.inf)
        lengths = np.maximum(lengths, np.where(gap > 0, overtaken, 0))
    found = np.sort(lengths, axis=0)
    return [np.min(found[math.ceil(rate * len(x) - 1e-9) - 1]) for rate in levels]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_least_norms_in_the_plane(target, seed):
    variables, x, labels = plane_problem(seed=seed)
    levels = (0.95, 0.9)
    result = attacks.decoupled(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(seed),
        target=target,
        config=attacks.DecoupledConfig(
            space="signal",
            batch_size=50,
            asr_levels=levels,
            max_passes=150,
            level_passes=100,
            temperature=0.05,
            norm_gain=0.05,
        ),
    )
    assert bool(result.converged)
    expected = np.asarray(least_norms(variables, x, target=target, levels=levels))
    np.testing.assert_array_equal(result.front.asr_levels, np.float32(levels))
    found = np.asarray(result.front.norm)
    assert np.all(found >= (1 - 1e-4) * expected)
    assert np.all(found <= 1.05 * expected), found / expected


def test_least_norm_that_fools_every_clip():
    """A convex problem, for a solver: min ||v||_2, (w_t - w_j) . (x_i + v) >= 0."""
    variables, x, labels = linear_problem(num_clips=48, num_samples=16)
    target = 2
    templates = np.float64(variables["templates"])
    away = templates[target] - np.delete(templates, target, axis=0)
    offset = ((np.float64(x) - 0.5) @ away.T).min(axis=0)
    solved = scipy.optimize.minimize(
        lambda v: v @ v,
        np.zeros(x.shape[1]),
        jac=lambda v: 2 * v,
        method="SLSQP",
        constraints=scipy.optimize.LinearConstraint(away, lb=-offset),
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert solved.success
    assert np.max(np.abs(np.float64(x) + solved.x - 0.5)) < 0.5, "inside the box"
    least = np.linalg.norm(solved.x)
    result = attacks.decoupled(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=target,
        config=attacks.DecoupledConfig(
            space="signal",
            batch_size=48,
            target_asr=1.0,
            max_passes=600,
            temperature=0.02,
            give_up=1000.0,
            final_learning_rate=0.001,
        ),
    )
    assert bool(result.converged) and float(result.train_asr) == 1.0
    norm = float(jnp.linalg.norm(result.perturbation.value))
    assert (1 - 1e-4) * least <= norm <= 1.05 * least


def test_quieter_than_penalty_for_the_same_rate():
    variables, x, labels = linear_problem()
    penalty = attacks.penalty(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=1,
        config=attacks.PenaltyConfig(
            batch_size=16, learning_rate=0.01, penalty_coefficient=5.0
        ),
    )
    result = run_linear(max_passes=40)
    assert bool(penalty.converged) and bool(result.converged)
    assert float(result.train_asr) >= 0.9
    quiet, loud = result.perturbation.value, penalty.perturbation.value
    assert float(jnp.linalg.norm(quiet)) < float(jnp.linalg.norm(loud))


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("space", ["tanh", "signal"])
def test_front_is_what_it_says(space, target):
    variables, x, _ = linear_problem()
    result = run_linear(space=space, target=target, asr_levels=(0.3, 0.6))
    front = result.front
    assert result.perturbation.space == space
    np.testing.assert_array_equal(front.asr_levels, np.float32([0.9, 0.6, 0.3]))
    assert np.all(np.diff(front.norm) <= 0), "a lower rate is never louder"
    for level, value, norm, train_asr in zip(
        front.asr_levels, front.values, front.norm, front.train_asr, strict=True
    ):
        if not np.isfinite(norm):
            assert train_asr == 0 and not np.any(value)
            continue
        assert train_asr >= level
        np.testing.assert_allclose(np.linalg.norm(value), norm, rtol=1e-6)
        rate = rate_of(result, linear_logits, variables, x, target=target, value=value)
        assert rate == pytest.approx(float(train_asr), abs=1e-6)
    assert np.isfinite(front.norm[-1])
    if bool(result.converged):
        np.testing.assert_array_equal(result.perturbation.value, front.values[0])
        assert result.train_asr == front.train_asr[0]
    x_adversarial = attacks.apply_perturbation(result.perturbation, x)
    assert float(jnp.min(x_adversarial)) >= 0 and float(jnp.max(x_adversarial)) <= 1


def test_the_rate_returned_need_not_be_the_highest():
    result = run_linear(target_asr=0.6, asr_levels=(0.9, 0.3, 0.6))
    np.testing.assert_array_equal(result.front.asr_levels, np.float32([0.9, 0.6, 0.3]))
    assert bool(result.converged)
    np.testing.assert_array_equal(result.perturbation.value, result.front.values[1])
    asked_for = np.asarray(result.history["asr_level"])
    expected = np.repeat([0.6, 0.3, 0.9], [12, 4, 4])
    np.testing.assert_array_equal(asked_for, np.float32(expected))


def test_a_rate_out_of_reach_is_said_so():
    _, x, labels = linear_problem()
    result = attacks.decoupled(
        constant_logits,
        {"bias": jnp.asarray([1.0, 0.0, 0.0])},
        x,
        jnp.zeros_like(labels),
        key=jax.random.key(0),
        target=1,
        config=attacks.DecoupledConfig(max_passes=3, asr_levels=(0.5,)),
    )
    assert not bool(result.converged) and float(result.train_asr) == 0.0
    assert attacks.STOP_REASONS[int(result.stop_reason)] == "max_passes"
    assert np.all(np.isinf(result.front.norm)) and not np.any(result.front.values)
    assert np.all(np.isfinite(result.perturbation.value))


def test_louder_without_end_stays_finite():
    result = run_linear(target_asr=1.0, target=None, max_passes=400, norm_gain=100.0)
    assert np.all(np.isfinite(result.perturbation.value))
    assert np.nanmax(result.history["norm"]) <= 2 * math.atanh(1 - 1e-7) * 8 * 1.01


def test_logits_that_are_not_finite_stop_it():
    variables, *_ = linear_problem()
    broken = {"templates": variables["templates"].at[0, 0].set(jnp.nan)}
    result = run_linear(variables=broken)
    assert attacks.STOP_REASONS[int(result.stop_reason)] == "non_finite_objective"
    assert not bool(result.converged)
    assert np.all(np.isfinite(result.perturbation.value))


@pytest.mark.parametrize("clip", [0.0, 0.5, 1.0])
def test_silence_and_full_scale(clip):
    variables, x, _ = mlp_problem()
    x = jnp.full_like(x, clip)
    labels = jnp.zeros(len(x), jnp.int32)
    result = attacks.decoupled(
        mlp_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        config=attacks.DecoupledConfig(max_passes=5),
    )
    assert np.all(np.isfinite(result.perturbation.value))


def test_success_is_that_on_clips_as_they_are():
    variables, x, _ = linear_problem()
    result = run_linear(max_shift=20, max_passes=30, target_asr=0.5)
    rate = rate_of(result, linear_logits, variables, x, target=1)
    assert bool(result.converged)
    assert rate == pytest.approx(float(result.train_asr), abs=1e-6)


@pytest.mark.parametrize("max_steps", [1, 3])
def test_cut_anywhere(max_steps):
    whole = run_linear(asr_levels=(0.5,), max_shift=5)
    variables, x, labels = linear_problem()
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(**EASY | {"max_shift": 5}, asr_levels=(0.5,)),
        targeted=True,
        num_clips=len(x),
    )
    problem, state = attacks.decoupled_init(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=1,
        config=config,
    )
    assert isinstance(problem, DecoupledProblem)
    while attacks.STOP_REASONS[int(state.stop_reason)] == "running":
        state = attacks.decoupled_segment(
            linear_logits, variables, problem, state, config=config, max_steps=max_steps
        )
    found = attacks.decoupled_result(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_targets_side_by_side():
    variables, x, labels = linear_problem()
    configs = [
        attacks.DecoupledConfig(**EASY, target_asr=rate, init_norm=norm, num_starts=1)
        for rate, norm in ((0.9, 0.4), (0.6, 0.2))
    ]
    together = attacks.together(
        "decoupled",
        linear_logits,
        variables,
        x,
        labels,
        targets=[0, 1],
        keys=[jax.random.key(0)] * 2,
        configs=configs,
        width=2,
    )
    for target, found in enumerate(together):
        config = configs[target]
        alone = run_linear(
            target=target,
            target_asr=config.target_asr,
            init_norm=config.init_norm,
            num_starts=1,
        )
        np.testing.assert_array_equal(found.front.asr_levels, alone.front.asr_levels)
        np.testing.assert_allclose(found.train_asr, alone.train_asr, atol=0.01)
        np.testing.assert_allclose(
            found.perturbation.value, alone.perturbation.value, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("max_passes", 0),
        ("level_passes", 0),
        ("space", "log"),
        ("num_starts", 0),
        ("start_passes", 0),
        ("target_asr", 1.5),
        ("asr_levels", (0.5, 0.0)),
        ("asr_levels", 0.5),
        ("asr_levels", "0.5"),
        ("norm_gain", 0.0),
        ("max_norm_change", -1.0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("final_temperature_ratio", 0.0),
        ("temperature", 0.0),
        ("init_norm", -1.0),
        ("give_up", 0.0),
        ("max_shift", -1),
        ("max_shift", 0.5),
    ],
)
def test_bad_settings(field, value):
    with pytest.raises(ValueError, match=field):
        run_linear(**{field: value})
