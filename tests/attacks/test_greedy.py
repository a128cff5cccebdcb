"""The greedy attack: visits against a plain loop, its invariants, how it ends."""

import dataclasses
import functools
import itertools
import json

import greedy_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import regenerate_golden
from toy_networks import (
    fragile_logits,
    grid_problem,
    linear_logits,
    linear_problem,
    mlp_logits,
    mlp_problem,
    predictions,
)
from uap_jax.attacks.passes import all_logits

from uap_jax import attacks
from uap_jax.attacks import greedy_steps

KEY = 5

# Of each case: the target, and settings. Numbers that change recompile nothing.
CASES = {
    "untargeted": (None, {"radius": 0.046875}),
    "targeted": (2, {"radius": 0.125, "shuffle": True}),
    "l2": (None, {"norm": "l2", "radius": 0.3, "labels": "true"}),
    "batch": (1, {"batch_size": 3, "radius": 0.125}),
    "large_batch": (
        None,
        {"batch_size": 64, "aggregation": "mean", "shuffle": True, "radius": 0.125},
    ),
}


def make_config(settings):
    return attacks.GreedyConfig(
        max_passes=4,
        target_asr=settings.pop("target_asr", 1.0),
        ddn=attacks.DDNConfig(
            num_steps=12,
            init_norm=settings.pop("init_norm", 0.2),
            quantization_levels=257,
        ),
        **settings,
    )


def states_of(logits_fn, variables, x, labels, *, target, config, max_steps=None):
    """All states of an attack in segments, stored and restored between them."""
    problem, state = attacks.greedy_init(
        logits_fn,
        variables,
        x,
        labels,
        key=jax.random.key(KEY),
        target=target,
        config=config,
    )
    states = [state]
    while int(state.stop_reason) == 0:
        leaves, structure = jax.tree.flatten(state)
        state = attacks.greedy_segment(
            logits_fn,
            variables,
            problem,
            jax.tree.unflatten(structure, leaves),
            config=config,
            max_steps=max_steps,
        )
        states.append(state)
    return states


@functools.cache
def grid_states(case, max_steps=None, **changes):
    """As `states_of`, of a case on clips and weights that round nothing."""
    target, settings = CASES[case]
    return states_of(
        linear_logits,
        *grid_problem(),
        target=target,
        config=make_config(settings | changes),
        max_steps=max_steps,
    )


def passes_of(states):
    """The clips visited in each pass and the v after it, of segments of one step."""
    passes, visited = [], []
    for before, after in itertools.pairwise(states):
        if int(after.num_passes) > int(before.num_passes):
            passes.append((visited, after.value))
            visited = []
        count = max(0, int(after.num_visited) - int(before.num_visited))
        visited += np.asarray(after.pending)[:count].tolist()
    return passes


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


def assert_is_the_loop(states, expected, num_clips):
    passes = passes_of(states)
    assert [visited for visited, _ in passes] == [one.visited for one in expected]
    for (_, value), one in zip(passes, expected, strict=True):
        np.testing.assert_allclose(value, one.value, rtol=0, atol=1e-5)
    history = attacks.greedy_result(states[-1]).history
    counts = {
        "asr": [one.asr for one in expected],
        "visited": [len(one.visited) for one in expected],
        "skipped": [num_clips - len(one.visited) for one in expected],
        "failed": [one.failed for one in expected],
        "linf": [np.max(np.abs(one.value)) for one in expected],
        "l2": [np.linalg.norm(one.value) for one in expected],
        "spl_db": [reference.spl_db(one.value) for one in expected],
    }
    assert history.keys() == counts.keys()
    for field, numbers in counts.items():
        found = np.asarray(history[field])
        np.testing.assert_allclose(found[: len(numbers)], numbers, rtol=1e-4)
        assert np.all(np.isnan(found[len(numbers) :]))


@pytest.mark.parametrize("case", CASES)
def test_visits_are_those_of_a_plain_loop(case):
    variables, x, labels = grid_problem()
    target, settings = CASES[case]
    expected = greedy_reference.greedy(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(KEY),
        target=target,
        config=make_config(dict(settings)),
    )
    states = grid_states(case, max_steps=1)
    assert_is_the_loop(states, expected, len(x))
    # Clips are skipped as well as visited, and later passes still have work.
    assert len(expected) > 1 and 0 < len(expected[1].visited) < len(x)
    if case in ("untargeted", "targeted", "batch"):
        assert np.max(np.abs(expected[-1].value)) == settings["radius"]


def test_visits_on_a_smooth_network():
    variables, x, labels = mlp_problem()
    target, config = regenerate_golden.GREEDY_CASES["greedy_untargeted"]
    arguments = (mlp_logits, variables, x, labels)
    expected = greedy_reference.greedy(
        *arguments, key=jax.random.key(KEY), target=target, config=config
    )
    # No decision is one of rounding.
    assert min(one.closest for one in expected) > 1e-3
    states = states_of(*arguments, target=target, config=config, max_steps=1)
    assert_is_the_loop(states, expected, len(x))
    assert len(expected) > 1


@pytest.mark.parametrize("name", regenerate_golden.GREEDY_CASES)
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


@pytest.mark.parametrize("case", ["untargeted", "batch"])
def test_segments_do_not_change_a_bit(case):
    whole, single = grid_states(case), grid_states(case, max_steps=1)
    assert_same_bits(whole[-1], single[-1])
    # One call for the visits and one for the evaluation of each pass.
    assert len(whole) == 1 + 2 * int(whole[-1].num_passes)
    assert len(single) > 2 * len(whole)
    assert_same_bits(whole[-1], grid_states(case, max_steps=30)[-1])
    waiting = [int(state.num_pending) for state in single]
    # Clips do wait for their batch from one segment to the next.
    assert max(waiting) == (2 if case == "batch" else 0)


def test_blocks_do_not_change_visits():
    expected = grid_states("untargeted", max_steps=1)
    states = grid_states("untargeted", max_steps=1, micro_batch_size=1)
    found, wanted = passes_of(states), passes_of(expected)
    assert [clips for clips, _ in found] == [clips for clips, _ in wanted]
    np.testing.assert_allclose(states[-1].value, expected[-1].value, atol=1e-6)


def test_a_batch_of_one_is_the_default():
    assert_same_bits(grid_states("untargeted"), grid_states("untargeted", batch_size=1))


@pytest.mark.parametrize(
    ("case", "radius"), [("untargeted", 0.01), ("l2", 0.05), ("batch", 0.03)]
)
def test_stays_in_the_ball_and_the_box(case, radius):
    _, x, _ = grid_problem()
    states = grid_states(case, max_steps=1, radius=radius)
    order = 2 if case == "l2" else np.inf
    norms = [np.linalg.norm(np.float64(state.value), order) for state in states]
    assert norms[0] == 0 and max(norms) <= radius * (1 + 1e-6)
    np.testing.assert_allclose(norms[-1], radius, rtol=1e-6)
    moved = attacks.apply_perturbation(
        attacks.greedy_result(states[-1]).perturbation, x
    )
    assert np.all((np.asarray(moved) >= 0) & (np.asarray(moved) <= 1))


def assert_says_the_truth(result, clean, x, *, target):
    variables, _, _ = grid_problem()
    moved = attacks.apply_perturbation(result.perturbation, x)
    found = predictions(linear_logits, variables, moved)
    asr = reference.attack_success_rate(found, clean, target=target)
    np.testing.assert_allclose(result.train_asr, asr, rtol=1e-6)
    num_passes = int(result.num_passes)
    for values in result.history.values():
        assert values.shape == (4,)
        np.testing.assert_array_equal(np.isfinite(values), np.arange(4) < num_passes)
    history = {field: values[:num_passes] for field, values in result.history.items()}
    np.testing.assert_array_equal(history["visited"] + history["skipped"], len(x))
    assert np.all(history["failed"] <= history["visited"])
    assert float(result.train_asr) == history["asr"][-1]
    return asr


def test_ends_of_an_attack():
    variables, x, _ = grid_problem()
    clean = predictions(linear_logits, variables, x)

    def run(case, **numbers):
        result = attacks.greedy_result(grid_states(case, **numbers)[-1])
        target, _ = CASES[case]
        assert result.perturbation.space == "signal"
        return result, assert_says_the_truth(result, clean, x, target=target)

    result, asr = run("targeted", radius=0.3, target_asr=0.9)
    assert stop_reason(result) == "converged" and bool(result.converged)
    assert asr >= 0.9 and int(result.num_passes) < 4

    result, asr = run("untargeted", radius=0.01)
    assert stop_reason(result) == "max_passes" and not bool(result.converged)
    assert asr < 1 and int(result.num_passes) == 4

    # A norm too small to reach any boundary: DDN has nothing to add.
    result, asr = run("targeted", init_norm=1e-3)
    assert stop_reason(result) == "stalled" and not bool(result.converged)
    assert asr < 1 and int(result.num_passes) == 1
    np.testing.assert_array_equal(result.perturbation.value, 0.0)
    assert float(result.history["visited"][0]) == np.sum(clean != 2) > 0
    np.testing.assert_array_equal(
        result.history["failed"][0], result.history["visited"][0]
    )


def test_a_rate_that_is_just_reached():
    """All clips are of the target class, so that the rate is 1 without a visit."""
    # 41 (1 / 41) is below 1 in float32.
    num_clips = 41
    variables, x, _ = grid_problem()
    x = x[predictions(linear_logits, variables, x) == 2][:1]
    config = make_config({"radius": 0.1})
    result = attacks.greedy(
        linear_logits,
        variables,
        jnp.tile(x, (num_clips, 1)),
        jnp.full(num_clips, 2, jnp.int32),
        key=jax.random.key(0),
        target=2,
        config=config,
    )
    assert stop_reason(result) == "converged" and int(result.num_passes) == 1
    assert float(result.train_asr) == 1.0
    np.testing.assert_array_equal(result.perturbation.value, 0.0)
    assert float(result.history["visited"][0]) == 0


@pytest.mark.parametrize(("highest", "moves"), [(0.0, False), (0.94, True)])
def test_stops_at_logits_that_are_no_numbers(highest, moves):
    variables, x, labels = grid_problem()
    assert float(jnp.max(x)) < 0.94
    target, settings = CASES["untargeted"]
    states = states_of(
        fragile_logits,
        variables | {"highest": jnp.float32(highest)},
        x,
        labels,
        target=target,
        config=make_config(dict(settings)),
    )
    result = attacks.greedy_result(states[-1])
    assert stop_reason(result) == "non_finite_logits" and not bool(result.converged)
    value = np.asarray(result.perturbation.value)
    assert np.all(np.isfinite(value)) and np.any(value != 0) == moves


def test_stopped_attack_stays_as_it_is():
    state = grid_states("untargeted")[-1]
    target, settings = CASES["untargeted"]
    variables, x, labels = grid_problem()
    config = make_config(dict(settings))
    problem, first = attacks.greedy_init(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(KEY),
        target=target,
        config=config,
    )
    again = attacks.greedy_segment(
        linear_logits, variables, problem, state, config=config
    )
    assert_same_bits(state, again)
    result = attacks.greedy_result(first)
    assert stop_reason(result) == "running" and not bool(result.converged)
    assert float(result.train_asr) == 0.0 and int(result.num_passes) == 0


@pytest.mark.parametrize("target", [1, None])
def test_beats_noise_of_the_same_level(target):
    variables, x, labels = linear_problem()
    if target is None:
        # One direction leads away from one class, not from all.
        x, labels = x[::4], labels[::4]
    clean = predictions(linear_logits, variables, x)
    assert np.mean(clean == np.asarray(labels)) == 1.0
    result = attacks.greedy(
        linear_logits,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=target,
        config=attacks.GreedyConfig(max_passes=5, ddn=attacks.DDNConfig(num_steps=20)),
    )
    assert bool(result.converged) and float(result.train_asr) >= 0.9

    def asr_of(perturbation):
        moved = attacks.apply_perturbation(perturbation, x)
        found = predictions(linear_logits, variables, moved)
        return reference.attack_success_rate(found, clean, target=target)

    assert asr_of(result.perturbation) >= 0.9
    rms = reference.rms(result.perturbation.value)
    for seed in range(5):
        noise = rms * np.random.default_rng(seed).standard_normal(x.shape[1])
        noise = dataclasses.replace(result.perturbation, value=jnp.float32(noise))
        assert asr_of(noise) <= 0.3


def test_numbers_weights_and_target_recompile_nothing():
    variables, x, labels = grid_problem()
    x, labels = x[:9], labels[:9]
    programs = [greedy_steps.visit, greedy_steps.evaluate, all_logits]

    def run(variables=variables, target=1, gamma=0.05, init_norm=0.2, **numbers):
        ddn = attacks.DDNConfig(num_steps=5, gamma=gamma, init_norm=init_norm)
        return attacks.greedy(
            linear_logits,
            variables,
            x,
            labels,
            key=jax.random.key(0),
            target=target,
            config=attacks.GreedyConfig(max_passes=2, ddn=ddn, **numbers),
        )

    for program in programs:
        program.clear_cache()
    run()
    once = [1] * len(programs)
    assert [program._cache_size() for program in programs] == once
    run(radius=0.01, target_asr=0.95, gamma=0.1, init_norm=1)
    run(radius=np.float64(0.01), target_asr=1, gamma=jnp.float32(0.1))
    run(target=2)
    run(variables=jax.tree.map(lambda weights: 2 * weights, variables))
    assert [program._cache_size() for program in programs] == once
