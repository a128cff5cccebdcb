"""Clips whose loss or gradient is not finite are left out of their batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import CONFIGS, all_methods, assert_alike, bits, stop_reason
from toy_networks import (
    constant_logits,
    fragile_logits,
    headroom_logits,
    linear_logits,
    linear_problem,
    spectrum_logits,
)

from uap_jax import attacks
from uap_jax.attacks.ddn import STATUSES
from uap_jax.attacks.decoupled import starts, steps
from uap_jax.attacks.penalty import batch_objective

NUM_CLIPS = 23
# In different batches and micro-batches, and one of a batch's first.
BAD = np.array([0, 3, 4, 11, 22])
GOOD = np.setdiff1d(np.arange(NUM_CLIPS), BAD)
OTHERS = ("penalty", "sign_steps")
with_gradient_steps = pytest.mark.parametrize(
    "name", [name for name in CONFIGS if name != "greedy"]
)


def problem_of(level=1.0):
    """`linear_problem` with some constant clips, by default at full scale."""
    variables, x, labels = linear_problem(num_clips=NUM_CLIPS)
    return variables, x.at[BAD].set(level), labels


def begin(name, logits_fn=headroom_logits, clips=slice(None), level=1.0, **settings):
    variables, x, labels = problem_of(level)
    problem, state = attacks.begin(
        logits_fn,
        variables,
        x[clips],
        labels[clips],
        key=jax.random.key(3),
        target=settings.pop("target", 1),
        config=dataclasses.replace(CONFIGS[name], **settings),
    )
    return variables, problem, state


def run(name, logits_fn=headroom_logits, *, max_steps=None, **settings):
    variables, problem, state = begin(name, logits_fn, **settings)
    while attacks.is_running(state):
        state = attacks.advance(
            logits_fn, variables, problem, state, max_steps=max_steps
        )
    return attacks.result(state)


@with_gradient_steps
def test_exactly_the_clips_without_a_gradient_are_left_out(name):
    result = run(name)
    num_passes = int(result.num_passes)
    assert stop_reason(result) in ("max_passes", "converged") and num_passes > 1
    expected = np.zeros(NUM_CLIPS)
    expected[BAD] = num_passes
    np.testing.assert_array_equal(result.left_out, expected)
    np.testing.assert_array_equal(result.history["left_out"][:num_passes], len(BAD))
    assert not np.any(result.non_finite)
    assert np.any(result.perturbation.value != 0)
    for column in result.history.values():
        assert np.all(np.isfinite(column[:num_passes]))


def test_greedy_attacks_them_in_random_directions():
    result = run("greedy")
    assert stop_reason(result) in ("max_passes", "converged", "stalled")
    # It left out only those of them that no direction helped.
    assert not np.any(np.asarray(result.left_out)[GOOD])
    assert np.any(result.perturbation.value != 0)


@all_methods
def test_cut_anywhere_to_the_same_bits(name):
    assert bits(run(name, max_steps=1)) == bits(run(name))


@pytest.mark.slow
@all_methods
def test_side_by_side_and_on_two_devices(name):
    alone = run(name)
    variables, x, labels = problem_of()
    keys = [jax.random.key(3), jax.random.key(4)]
    first, _ = attacks.together(
        *(headroom_logits, variables, x, labels),
        keys=keys,
        targets=[1, 2],
        configs=CONFIGS[name],
        width=2,
    )
    assert_alike(first, alone)
    spread = attacks.over_devices(headroom_logits, jax.devices("cpu"))
    replicated = attacks.replicated((variables, x, labels, keys[0]))
    variables, x, labels, key = replicated
    result = attacks.run(
        spread, variables, x, labels, key=key, target=1, config=CONFIGS[name]
    )
    assert_alike(result, alone)


@pytest.mark.parametrize(
    "reduction", ["sum", pytest.param("released", marks=pytest.mark.slow)]
)
def test_penalty_is_that_on_the_other_clips(reduction):
    """In whole batches, so that the order of clips does not matter."""
    whole = {"batch_size": NUM_CLIPS, "micro_batch_size": 8}
    settings = whole | {
        "hinge_reduction": reduction,
        "max_passes": 4,
        # Others divide by the size of the gradient, also where it is but rounding.
        "optimizer": "sgd",
        "learning_rate": 1e-5,
    }
    result, without = run("penalty", **settings), run("penalty", clips=GOOD, **settings)
    np.testing.assert_allclose(
        result.perturbation.value, without.perturbation.value, rtol=1e-4, atol=1e-6
    )
    for name in ("spl_db", "objective", "hinge"):
        np.testing.assert_allclose(
            result.history[name], without.history[name], rtol=1e-5, err_msg=name
        )
    assert not np.any(without.left_out)


@pytest.mark.parametrize("name", ["penalty", "decoupled"])
def test_sum_and_gradient_are_those_of_the_other_clips(name):
    variables, problem, _ = begin(name, max_passes=3)
    v = jnp.float32(0.1 * np.random.default_rng(0).standard_normal(64))

    @jax.jit
    def objective_of(clips, weights):
        def classify(x):
            return headroom_logits(variables, x)

        if name == "penalty":
            return batch_objective(classify, problem, v, clips, weights)
        return steps.batch_objective(
            *(classify, problem, v, clips, weights, jnp.zeros_like(clips)),
            temperature=jnp.float32(1.0),
        )

    clips = np.arange(24, dtype=np.int32).reshape(4, 6) % NUM_CLIPS
    there = (np.arange(24) < NUM_CLIPS).reshape(4, 6)
    *mixed, left_out = objective_of(clips, np.float32(there))
    *without, nothing = objective_of(clips, np.float32(there & ~np.isin(clips, BAD)))
    for a, b in zip(mixed, without, strict=True):
        assert np.array_equal(a, b), "to the last bit"
    np.testing.assert_array_equal(left_out.is_out, np.isin(clips, BAD) & there)
    assert not np.any(nothing.is_out)


@pytest.mark.parametrize("name", ["penalty", "decoupled", "greedy"])
def test_digital_silence_before_a_spectrogram(name):
    """v = 0 gives no gradient there, any other v does."""
    whole = {} if name == "greedy" else {"batch_size": NUM_CLIPS}
    result = run(name, spectrum_logits, level=0.5, **whole)
    assert not stop_reason(result).startswith("non_finite")
    left_out = np.asarray(result.left_out)
    assert np.all(left_out[GOOD] == 0) and np.all(left_out[BAD] == bool(whole))
    assert int(result.num_passes) > 1 or bool(result.converged)


@pytest.mark.parametrize(
    "name",
    ["decoupled", "greedy", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)],
)
def test_stops_where_no_clip_is_left(name):
    def logits_fn(variables, x):
        return (
            constant_logits(variables, x) + 0.1 * headroom_logits(templates, x)[:, :1]
        )

    templates, x, _ = problem_of()
    result = attacks.run(
        logits_fn,
        {"bias": jnp.asarray([1.0, 0.5, 0.0])},
        jnp.ones_like(x),
        jnp.zeros(NUM_CLIPS, jnp.int32),
        key=jax.random.key(0),
        config=CONFIGS[name],
    )
    assert stop_reason(result) == "non_finite_gradient"
    assert int(result.num_passes) == (name == "greedy")
    np.testing.assert_array_equal(result.left_out, 1)
    assert not np.any(np.asarray(result.perturbation.value)) or name == "greedy"


@all_methods
@pytest.mark.parametrize(
    ("target", "value"),
    [
        (None, np.nan),
        pytest.param(1, np.inf, marks=pytest.mark.slow),
        pytest.param(1, -np.inf, marks=pytest.mark.slow),
    ],
)
def test_logits_that_are_not_finite(name, target, value):
    """Of some clips: those are no success, and the others are attacked."""

    def logits_fn(variables, x):
        is_bad = jnp.min(x, axis=1, keepdims=True) > 0.9
        is_first = jnp.arange(4)[None] == 0
        return jnp.where(is_bad & is_first, value, linear_logits(variables, x))

    result = run(name, logits_fn, target=target)
    num_passes = int(result.num_passes)
    assert stop_reason(result) in ("max_passes", "converged", "stalled")
    expected = np.zeros(NUM_CLIPS)
    expected[BAD] = num_passes
    np.testing.assert_array_equal(result.non_finite, expected)
    np.testing.assert_array_equal(result.history["non_finite"][:num_passes], len(BAD))
    assert not np.any(np.asarray(result.left_out)[GOOD])
    assert np.any(result.perturbation.value != 0)
    assert float(result.train_asr) <= len(GOOD) / NUM_CLIPS


@all_methods
def test_one_clip_that_any_sound_takes_too_far(name):
    variables, x, labels = linear_problem(num_clips=NUM_CLIPS)
    x = (0.5 + 0.2 * (x - 0.5)).at[NUM_CLIPS // 2].set(0.9)
    variables = variables | {"highest": jnp.float32(0.9 + 1e-5)}
    result = attacks.run(
        *(fragile_logits, variables, x, labels),
        key=jax.random.key(3),
        target=1,
        config=CONFIGS[name],
    )
    assert not stop_reason(result).startswith("non_finite")
    assert np.all(np.isfinite(result.perturbation.value))
    (bad,) = np.flatnonzero(result.non_finite)
    assert bad == NUM_CLIPS // 2 and float(result.train_asr) > 0.5


@pytest.mark.parametrize("target", [None, 1])
def test_starts_of_decoupled_leave_them_out(target):
    """Temperature and candidates follow from the clips with finite logits."""

    def logits_fn(variables, x):
        is_bad = jnp.min(x, axis=1, keepdims=True) > 0.9
        return jnp.where(is_bad, jnp.nan, linear_logits(variables, x))

    _, problem, state = begin("decoupled", logits_fn, target=target)
    _, expected, _ = begin("decoupled", logits_fn, target=target, clips=GOOD)
    temperature = starts.temperature_of(problem)
    assert temperature == starts.temperature_of(expected) != 1.0
    assert np.all(np.isfinite(state.own.starts))


def test_ddn_says_that_there_was_no_gradient():
    variables, x, labels = problem_of()
    config = attacks.DDNConfig(num_steps=4, init_norm=1e-3)
    result = attacks.ddn(headroom_logits, variables, x, labels, config=config)
    status = np.array(STATUSES)[np.asarray(result.status)]
    assert set(status[BAD]) <= {"non_finite_gradient", "already_adversarial"}
    assert "non_finite_gradient" in status[BAD]
    assert not np.any(np.char.startswith(status[GOOD], "non_finite"))
    alone = attacks.ddn(
        headroom_logits, variables, x[GOOD], labels[GOOD], config=config
    )
    np.testing.assert_allclose(np.asarray(result.delta)[GOOD], alone.delta, atol=1e-6)
