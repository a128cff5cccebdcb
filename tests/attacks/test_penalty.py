"""The penalty method: steps against float64, how it ends, what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import regenerate_golden
from toy_networks import (
    constant_logits,
    linear_logits,
    linear_problem,
    mlp_logits,
    mlp_problem,
    predictions,
)
from uap_jax.attacks.passes import all_logits
from uap_jax.attacks.penalty_steps import all_to_tanh_space, descend, evaluate

from uap_jax import attacks

# Settings that leave v' = 0 quickly on the linear problem.
EASY = {
    "batch_size": 16,
    "max_passes": 5,
    "learning_rate": 0.01,
    "penalty_coefficient": 5.0,
}


def run_linear(*, target=1, seed=0, variables=None, **settings):
    own, x, labels = linear_problem()
    return attacks.penalty(
        linear_logits,
        own if variables is None else variables,
        x,
        labels,
        key=jax.random.key(seed),
        target=target,
        config=attacks.PenaltyConfig(**(EASY | settings)),
    )


def run_to_end(logits_fn, variables, x, labels, *, max_steps=None, **settings):
    """As `penalty`, in segments of at most `max_steps`; returns the last state."""
    config = attacks.resolve_penalty_config(
        attacks.PenaltyConfig(**settings), targeted=True, num_clips=x.shape[0]
    )
    problem, state = attacks.penalty_init(
        logits_fn, variables, x, labels, key=jax.random.key(3), target=1, config=config
    )
    while attacks.STOP_REASONS[int(state.stop_reason)] == "running":
        state = attacks.penalty_segment(
            logits_fn, variables, problem, state, config=config, max_steps=max_steps
        )
    return state


def stop_reason(result):
    return attacks.STOP_REASONS[int(result.stop_reason)]


def assert_same_bits(first, second):
    assert _bits(first) == _bits(second)


def _bits(tree):
    leaves = []
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        numbers = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        leaves.append((numbers.dtype, numbers.shape, numbers.tobytes()))
    return leaves


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


@pytest.mark.parametrize("name", regenerate_golden.CASES)
def test_golden(name):
    golden = json.loads((regenerate_golden.FOLDER / f"{name}.json").read_text())
    found = regenerate_golden.run_case(name)
    assert found["stop_reason"] == golden["stop_reason"]
    assert found["num_passes"] == golden["num_passes"]
    np.testing.assert_allclose(found["value"], golden["value"], rtol=0, atol=1e-3)
    assert found["history"].keys() == golden["history"].keys()
    for field, numbers in golden["history"].items():
        np.testing.assert_allclose(
            found["history"][field], numbers, rtol=1e-3, atol=1e-3, err_msg=field
        )


def test_beats_noise_of_the_same_level():
    variables, x, labels = linear_problem()
    clean = predictions(linear_logits, variables, x)
    assert np.mean(clean == np.asarray(labels)) == 1.0
    result = run_linear()
    assert bool(result.converged) and float(result.train_asr) >= 0.9
    perturbed = attacks.apply_perturbation(result.perturbation, x)
    assert np.mean(predictions(linear_logits, variables, perturbed) == 1) >= 0.9
    rms = reference.rms(result.perturbation.value)
    for seed in range(5):
        noise = rms * np.random.default_rng(seed).standard_normal(x.shape[1])
        noise = dataclasses.replace(result.perturbation, value=jnp.float32(noise))
        noisy = attacks.apply_perturbation(noise, x)
        assert np.mean(predictions(linear_logits, variables, noisy) == 1) <= 0.3


@pytest.mark.parametrize(
    ("optimizer", "learning_rate"),
    [
        ("adam", 0.003),
        ("adagrad", 0.005),
        ("sgd", 1e-5),
        ("nesterov", 3e-6),
        ("rmsprop", 0.001),
        ("lion", 0.003),
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


SMALL = {"batch_size": 6, "micro_batch_size": 4, "max_passes": 3, "target_asr": 1.0}


def test_segments_do_not_change_a_bit():
    variables, x, labels = linear_problem(num_clips=23)
    settings = EASY | SMALL
    whole = run_to_end(linear_logits, variables, x, labels, **settings)
    assert int(whole.num_passes) > 1
    for max_steps in (1, 2):
        cut = run_to_end(
            linear_logits, variables, x, labels, max_steps=max_steps, **settings
        )
        assert_same_bits(whole, cut)


def test_a_segment_does_at_most_max_steps():
    variables, x, labels = linear_problem(num_clips=23)
    config = attacks.PenaltyConfig(**EASY | SMALL)
    problem, state = attacks.penalty_init(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=1,
        config=config,
    )
    batches, blocks, passes = [], [], []
    for _ in range(12):
        state = attacks.penalty_segment(
            linear_logits, variables, problem, state, config=config, max_steps=1
        )
        batches.append(int(state.batch))
        blocks.append(int(state.block))
        passes.append(int(state.num_passes))
    # Four batches of 6, then six blocks of 4, then the next pass.
    assert batches == [1, 2, 3, 4, 4, 4, 4, 4, 4, 0, 1, 2]
    assert blocks == [0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]
    assert passes == [0] * 9 + [1] * 3


def test_stopped_attack_stays_as_it_is():
    variables, x, labels = linear_problem()
    state = run_to_end(linear_logits, variables, x, labels, **EASY)
    config = attacks.PenaltyConfig(**EASY)
    problem, _ = attacks.penalty_init(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(3),
        target=1,
        config=config,
    )
    again = attacks.penalty_segment(
        linear_logits, variables, problem, state, config=config
    )
    assert_same_bits(state, again)


def test_result_of_a_running_attack():
    variables, x, labels = linear_problem()
    config = attacks.PenaltyConfig(**EASY)
    _, state = attacks.penalty_init(
        linear_logits, variables, x, labels, key=jax.random.key(0), config=config
    )
    result = attacks.penalty_result(state)
    assert stop_reason(result) == "running" and not bool(result.converged)
    assert float(result.train_asr) == 0.0 and int(result.num_passes) == 0
    assert result.perturbation.space == "tanh"


def test_same_key_same_bits():
    first, second = run_linear(), run_linear()
    assert_same_bits(first, second)
    other = run_linear(seed=1)
    value, other_value = first.perturbation.value, other.perturbation.value
    assert np.any(np.asarray(value) != np.asarray(other_value))


def test_converged_is_truthful_about_the_last_pass():
    free = run_linear()
    passes = int(free.num_passes)
    assert passes == 3 and stop_reason(free) == "converged" and bool(free.converged)
    asr = np.asarray(free.history["asr"])
    assert np.all(asr[:2] < 0.9) and asr[2] >= 0.9
    assert float(free.train_asr) == asr[2]
    for values in free.history.values():
        assert values.shape == (5,)
        np.testing.assert_array_equal(np.isfinite(values), np.arange(5) < passes)

    just = run_linear(max_passes=3)
    assert bool(just.converged) and stop_reason(just) == "converged"
    assert int(just.num_passes) == 3
    assert_same_bits(just.perturbation.value, free.perturbation.value)

    short = run_linear(max_passes=3, target_asr=1.0)
    assert not bool(short.converged) and stop_reason(short) == "max_passes"
    assert int(short.num_passes) == 3
    assert_same_bits(short.history, just.history)
    assert float(short.train_asr) == asr[2]


def test_goes_on_until_the_least_number_of_passes():
    free = run_linear(target_asr=1.0)
    assert stop_reason(free) == "converged" and int(free.num_passes) == 4
    early, late, last = (
        run_linear(target_asr=1.0, min_passes=count) for count in (1, 4, 5)
    )
    assert_same_bits(early, free)
    assert_same_bits(late, free)
    assert int(last.num_passes) == 5 and bool(last.converged)
    assert stop_reason(last) == "converged" and float(last.train_asr) == 1.0
    for field, values in free.history.items():
        assert_same_bits(last.history[field][:4], values[:4])

    # Whether the goal is reached is seen in the last pass, not in those before.
    short = run_linear(target_asr=1.0, min_passes=3, max_passes=3)
    assert stop_reason(short) == "max_passes" and not bool(short.converged)


def test_train_asr_is_that_of_the_perturbation():
    variables, x, _ = linear_problem()
    result = run_linear(max_passes=3, target_asr=1.0)
    perturbed = attacks.apply_perturbation(result.perturbation, x)
    found = predictions(linear_logits, variables, perturbed)
    expected = reference.attack_success_rate(found, found, target=1)
    np.testing.assert_allclose(result.train_asr, expected, rtol=1e-6)


def clips_of_class(index):
    variables, x, _ = linear_problem()
    x = jnp.asarray(np.tile(np.asarray(x)[index::4], (4, 1)))
    assert np.all(predictions(linear_logits, variables, x) == index)
    return variables, x, jnp.full(len(x), index, jnp.int32)


def test_clips_of_one_class_untargeted():
    variables, x, labels = clips_of_class(0)
    result = attacks.penalty(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        config=attacks.PenaltyConfig(**EASY),
    )
    assert bool(result.converged) and float(result.train_asr) >= 0.9
    rms = reference.rms(result.perturbation.value)
    for seed in range(5):
        noise = rms * np.random.default_rng(seed).standard_normal(x.shape[1])
        noise = dataclasses.replace(result.perturbation, value=jnp.float32(noise))
        noisy = attacks.apply_perturbation(noise, x)
        assert np.mean(predictions(linear_logits, variables, noisy) != 0) <= 0.3


def test_clips_of_the_target_class():
    variables, x, labels = clips_of_class(1)
    result = attacks.penalty(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=1,
        config=attacks.PenaltyConfig(**EASY),
    )
    assert bool(result.converged) and int(result.num_passes) == 1


def test_network_without_a_gradient():
    _, x, _ = linear_problem(num_clips=10)
    variables = {"bias": jnp.array([1.0, 0.5, 0.0], jnp.float32)}
    result = attacks.penalty(
        constant_logits,
        variables,
        x,
        jnp.zeros(10, jnp.int32),
        key=jax.random.key(0),
        config=attacks.PenaltyConfig(max_passes=4),
    )
    assert stop_reason(result) == "max_passes" and int(result.num_passes) == 4
    np.testing.assert_array_equal(result.perturbation.value, 0.0)
    np.testing.assert_array_equal(result.history["asr"], 0.0)
    np.testing.assert_array_equal(result.history["spl_db"], -200.0)
    np.testing.assert_allclose(result.history["hinge"], 0.5, rtol=1e-6)


def faulty_logits(variables, x):
    """A linear network with faults to switch on by its weights."""
    logits = linear_logits(variables, x) + variables["offset"][None]
    # Finite at x = 0.5, where the gradient of a norm is 0 / 0.
    norm = jnp.sqrt(jnp.sum(jnp.square(x - 0.5), axis=1, keepdims=True))
    logits = logits + variables["norm_weight"] * norm
    mean = jnp.mean(x - 0.5, axis=1, keepdims=True)
    logits = logits + variables["mean_weight"][None] * mean
    return jnp.where(jnp.max(mean) > variables["highest_mean"], jnp.nan, logits)


FAULTS = {
    "nan_everywhere": ("non_finite_objective", {"offset": [np.nan] * 4}),
    "kink_at_rest": ("non_finite_gradient", {"norm_weight": 1.0}),
    "minus_infinity": ("non_finite_logits", {"offset": [-np.inf, 0, 0, 0]}),
    "nan_further_out": (
        "non_finite_objective",
        {"mean_weight": [0, 40, 0, 0], "highest_mean": 0.015},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_stops_at_what_is_not_finite(fault):
    variables, x, labels = linear_problem()
    expected, weights = FAULTS[fault]
    none = {"offset": [0] * 4, "norm_weight": 0.0, "mean_weight": [0] * 4}
    weights = none | {"highest_mean": np.inf} | weights
    weights = {name: np.float32(number) for name, number in weights.items()}
    state = run_to_end(
        faulty_logits,
        variables | weights,
        jnp.full_like(x, 0.5) if fault == "kink_at_rest" else x,
        labels,
        **EASY | {"target_asr": 1.0},
    )
    result = attacks.penalty_result(state)
    assert stop_reason(result) == expected and not bool(result.converged)
    assert int(result.num_passes) == 0 and float(result.train_asr) == 0.0
    # The step at fault is undone whole: value, optimizer and counters.
    num_steps = {
        "nan_everywhere": 0,
        "kink_at_rest": 0,
        "minus_infinity": 4,
        "nan_further_out": 3,
    }
    assert int(state.batch) == num_steps[fault]
    assert int(state.opt_state[0].count) == int(state.batch)
    assert np.any(np.asarray(state.value) != 0) == (int(state.batch) > 0)
    for leaf in jax.tree.leaves((state.value, state.opt_state, state.objective_sum)):
        assert np.all(np.isfinite(leaf))


def test_stops_when_a_step_overflows():
    result = run_linear(optimizer="sgd", learning_rate=3e38, penalty_coefficient=100.0)
    assert stop_reason(result) == "non_finite_gradient"
    np.testing.assert_array_equal(result.perturbation.value, 0.0)


def test_numbers_weights_and_target_recompile_nothing():
    """One program each for steps and evaluation, whatever the numbers."""
    variables, x, labels = linear_problem(num_clips=21)
    settings = {"batch_size": 8, "micro_batch_size": 4, "max_passes": 2}
    programs = [descend, evaluate, all_logits, all_to_tanh_space]

    def run(variables=variables, target=1, **numbers):
        return attacks.penalty(
            linear_logits,
            variables,
            x,
            labels,
            key=jax.random.key(0),
            target=target,
            config=attacks.PenaltyConfig(
                **settings, **({"l2_radius": 1.0, "target_asr": 1.0} | numbers)
            ),
        )

    for program in programs:
        program.clear_cache()
    run()
    once = [1] * len(programs)
    assert [program._cache_size() for program in programs] == once
    run(learning_rate=1e-4, penalty_coefficient=3, confidence=7, target_asr=0.95)
    run(learning_rate=np.float64(1e-4), confidence=jnp.float32(7), l2_radius=2)
    run(target=3)
    # The last block of the evaluation is short: one clip of four.
    thorough = run(penalty_coefficient=50.0, learning_rate=0.03)
    perturbed = attacks.apply_perturbation(thorough.perturbation, x)
    found = predictions(linear_logits, variables, perturbed)
    assert found[-1] == 1
    np.testing.assert_allclose(thorough.train_asr, np.mean(found == 1), rtol=1e-6)
    confined = run(penalty_coefficient=50.0, l2_radius=0.01).perturbation.value
    np.testing.assert_allclose(np.linalg.norm(confined), 0.01, rtol=1e-5)
    run(variables=jax.tree.map(lambda weights: 2 * weights, variables))
    assert [program._cache_size() for program in programs] == once
