"""The decoupled method: least norms against enumeration and a solver, its front."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
import scipy.optimize
from toy_networks import linear_logits, linear_problem, predictions

from uap_jax import attacks
from uap_jax.audio.box import to_tanh_space


def tanh_linear_logits(variables, w):
    """Linear in tanh space, where v' is added, so that least norms are known."""
    return to_tanh_space(w) @ variables["templates"].T


def in_tanh_space(x):
    return np.arctanh((2 * np.float64(x) - 1) * (1 - 1e-7))


def plane_problem(*, seed, num_clips=1000, num_classes=3):
    """Clips of two samples near the middle of the box, on which all can be tried.

    Of few clips the least norm has many local minima, as the rate is a staircase.
    """
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * (np.arange(num_classes) + 0.3) / num_classes
    templates = 10 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = np.clip(0.5 + 0.08 * rng.standard_normal((num_clips, 2)), 0.3, 0.7)
    variables, x = {"templates": np.float32(templates)}, np.float32(x)
    return variables, x, predictions(tanh_linear_logits, variables, x)


def least_norms(variables, x, *, target, levels, num_angles=2_000):
    """The least norm for each success rate, by trying every direction of the plane.

    Along a direction a clip becomes the target's where the target has overtaken the
    last rival; the least norm for a rate is a quantile of these lengths.
    """
    templates = np.float64(variables["templates"])
    logits = in_tanh_space(x) @ templates.T
    angles = 2 * np.pi * np.arange(num_angles) / num_angles
    slopes = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ templates.T
    lengths = np.zeros((len(x), num_angles))
    for rival in set(range(logits.shape[1])) - {target}:
        gap = (logits[:, rival] - logits[:, target])[:, None]
        closing = (slopes[:, target] - slopes[:, rival])[None]
        with np.errstate(divide="ignore", invalid="ignore"):
            overtaken = np.where(closing > 0, gap / closing, np.inf)
        lengths = np.maximum(lengths, np.where(gap > 0, overtaken, 0))
    ranks = [math.ceil(rate * len(x) - 1e-9) - 1 for rate in levels]
    return np.min(np.partition(lengths, ranks, axis=0)[ranks], axis=1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_least_norms_in_the_plane(target, seed):
    variables, x, labels = plane_problem(seed=seed)
    result = attacks.decoupled(
        tanh_linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(seed),
        target=target,
        config=attacks.DecoupledConfig(
            batch_size=100, asr_levels=(0.95,), max_passes=100, level_passes=50
        ),
    )
    assert bool(result.converged)
    levels = (0.95, 0.9)
    expected = least_norms(variables, x, target=target, levels=levels)
    np.testing.assert_array_equal(result.front.asr_levels, np.float32(levels))
    norms = np.asarray(result.front.norm)
    assert np.all(norms >= (1 - 1e-4) * expected)
    assert np.all(norms <= 1.05 * expected), norms / expected


@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_least_norm_that_fools_every_clip(target):
    """A convex problem, for a solver: min ||v||_2, (w_t - w_j) . (x'_i + v') >= 0."""
    variables, x, labels = linear_problem(num_clips=48, num_samples=16)
    templates = np.float64(variables["templates"])
    away = templates[target] - np.delete(templates, target, axis=0)
    offset = (in_tanh_space(x) @ away.T).min(axis=0)
    solved = scipy.optimize.minimize(
        lambda v: v @ v,
        np.zeros(x.shape[1]),
        jac=lambda v: 2 * v,
        method="SLSQP",
        constraints=scipy.optimize.LinearConstraint(away, lb=-offset),
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert solved.success
    least = np.linalg.norm(solved.x)
    result = attacks.decoupled(
        tanh_linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=target,
        config=attacks.DecoupledConfig(
            batch_size=48, target_asr=1.0, max_passes=200, max_shift=0
        ),
    )
    assert bool(result.converged) and float(result.train_asr) == 1.0
    norm = np.linalg.norm(result.perturbation.value)
    assert (1 - 1e-4) * least <= norm <= 1.05 * least


@functools.cache
def linear_front(*, target, max_shift, **settings):
    config = {"batch_size": 16, "max_passes": 12, "level_passes": 4} | settings
    return attacks.decoupled(
        linear_logits,
        *linear_problem(),
        key=jax.random.key(0),
        target=target,
        config=attacks.DecoupledConfig(max_shift=max_shift, **config),
    )


FRONTS = {
    "shifted": {"target": 1, "max_shift": 20, "asr_levels": (0.3, 0.6)},
    # The rate of the perturbation returned need not be the highest.
    "middle": {
        "target": 1,
        "max_shift": 0,
        "target_asr": 0.6,
        "asr_levels": (0.9, 0.3, 0.6),
    },
    # Of four classes no single perturbation leads away from all.
    "out_of_reach": {
        "target": None,
        "max_shift": 0,
        "max_passes": 60,
        "asr_levels": (0.3, 0.6),
    },
}


@pytest.mark.parametrize("name", FRONTS)
def test_front_is_what_it_says(name):
    variables, x, _ = linear_problem()
    target = FRONTS[name]["target"]
    result = linear_front(**FRONTS[name])
    front = result.front
    np.testing.assert_array_equal(front.asr_levels, np.float32([0.9, 0.6, 0.3]))
    assert np.all(np.diff(front.norm) <= 0), "a lower rate is never louder"
    clean = predictions(linear_logits, variables, x)
    columns = map(np.asarray, dataclasses.astuple(front))
    for level, value, norm, train_asr in zip(*columns, strict=True):
        if not np.isfinite(norm):
            assert train_asr == 0 and not np.any(value)
            continue
        assert train_asr >= level
        np.testing.assert_allclose(np.linalg.norm(value), norm, rtol=1e-6)
        # Success is counted on the clips as they are, not shifted.
        moved = attacks.apply_perturbation(attacks.Perturbation(value, "tanh"), x)
        predicted = predictions(linear_logits, variables, moved)
        success = predicted != clean if target is None else predicted == target
        assert np.mean(success) == pytest.approx(train_asr, abs=1e-6)
    is_reached = np.isfinite(front.norm)
    np.testing.assert_array_equal(is_reached, [name != "out_of_reach", True, True])
    if name != "out_of_reach":
        index = 1 if name == "middle" else 0
        assert bool(result.converged) and result.train_asr == front.train_asr[index]
        np.testing.assert_array_equal(result.perturbation.value, front.values[index])
    rates = [0.6, 0.3, 0.9] if name == "middle" else [0.9, 0.6, 0.3]
    num_passes = FRONTS[name].get("max_passes", 12)
    expected = np.repeat(np.float32(rates), [num_passes, 4, 4])
    np.testing.assert_array_equal(result.history["asr_level"], expected)


def test_louder_without_end_stays_finite():
    result = linear_front(**FRONTS["out_of_reach"])
    assert not bool(result.converged)
    assert attacks.STOP_REASONS[int(result.stop_reason)] == "max_passes"
    assert np.all(np.isfinite(result.perturbation.value))
    # What takes any of 64 samples from one side of the box to the other.
    loudest = 2 * math.atanh(1 - 1e-7) * math.sqrt(64)
    np.testing.assert_allclose(np.max(result.history["norm"]), loudest, rtol=1e-4)


def test_quieter_than_penalty_for_the_same_rate():
    config = attacks.PenaltyConfig(
        batch_size=16, learning_rate=0.01, penalty_coefficient=5.0
    )
    loud = attacks.penalty(
        linear_logits, *linear_problem(), key=jax.random.key(0), target=1, config=config
    )
    quiet = linear_front(**FRONTS["shifted"])
    assert bool(loud.converged) and bool(quiet.converged)
    assert float(quiet.train_asr) >= 0.9
    norms = [np.linalg.norm(result.perturbation.value) for result in (quiet, loud)]
    assert norms[0] < norms[1]
