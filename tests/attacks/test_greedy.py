"""The greedy attack: visits against a plain loop, its ball, how it ends."""

import functools
import itertools

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
    mlp_logits,
    mlp_problem,
    predictions,
)

from uap_jax import attacks
from uap_jax.attacks.loop import resolve_config

KEY = jax.random.key(5)

# The target and settings of each case. Numbers that change recompile nothing.
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


def make_config(*, init_norm=0.2, **settings):
    ddn = attacks.DDNConfig(num_steps=12, init_norm=init_norm, quantization_levels=257)
    return attacks.GreedyConfig(
        **{"max_passes": 4, "target_asr": 1.0, "ddn": ddn} | settings
    )


def states_of(logits_fn, variables, x, labels, *, target, config, max_steps=None):
    """All states of an attack that is advanced by `max_steps` at a time."""
    problem, state = attacks.begin(
        logits_fn, variables, x, labels, key=KEY, target=target, config=config
    )
    states = [state]
    while attacks.is_running(state):
        state = attacks.advance(
            logits_fn, variables, problem, state, max_steps=max_steps
        )
        states.append(state)
    return states


@functools.cache
def grid_states(case, *, max_steps=None, **changes):
    """The states of a case on clips and weights that round nothing."""
    target, settings = CASES[case]
    return states_of(
        linear_logits,
        *grid_problem(),
        target=target,
        config=make_config(**settings | changes),
        max_steps=max_steps,
    )


def passes_of(states):
    """The clips visited in each pass and the v after it, of states a step apart."""
    passes, visited = [], []
    for before, after in itertools.pairwise(states):
        if int(after.num_passes) > int(before.num_passes):
            passes.append((visited, after.own.value))
            visited = []
        count = int(after.sums["visited"] - before.sums["visited"])
        visited += np.asarray(after.own.pending)[: max(0, count)].tolist()
    return passes


def stop_reason(result):
    return attacks.STOP_REASONS[int(result.stop_reason)]


def assert_is_the_loop(states, expected, num_clips):
    passes = passes_of(states)
    assert [visited for visited, _ in passes] == [one.visited for one in expected]
    for (_, value), one in zip(passes, expected, strict=True):
        np.testing.assert_allclose(value, one.value, rtol=0, atol=1e-5)
    history = attacks.result(states[-1]).history
    counts = {
        "asr": [one.asr for one in expected],
        "visited": [len(one.visited) for one in expected],
        "skipped": [num_clips - len(one.visited) for one in expected],
        "failed": [one.failed for one in expected],
        "linf": [np.max(np.abs(one.value)) for one in expected],
        "l2": [np.linalg.norm(one.value) for one in expected],
        "spl_db": [reference.spl_db(one.value) for one in expected],
        **dict.fromkeys(("left_out", "non_finite"), [0.0] * len(expected)),
    }
    assert history.keys() == counts.keys()
    for field, numbers in counts.items():
        column = np.asarray(history[field])[: len(numbers)]
        np.testing.assert_allclose(column, numbers, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_visits_are_those_of_a_plain_loop(case):
    target, settings = CASES[case]
    _, x, _ = grid_problem()
    expected = greedy_reference.greedy(
        linear_logits,
        *grid_problem(),
        key=KEY,
        target=target,
        config=make_config(**settings),
    )
    states = grid_states(case, max_steps=1)
    assert_is_the_loop(states, expected, len(x))
    # Clips are skipped as well as visited, and later passes still have work.
    assert len(expected) > 1 and 0 < len(expected[1].visited) < len(x)
    if case in ("untargeted", "targeted", "batch"):
        assert np.max(np.abs(expected[-1].value)) == settings["radius"]
    # Clips do wait for their batch from one step to the next, and no bit changes.
    waiting = max(int(state.own.num_pending) for state in states)
    assert waiting == (2 if case == "batch" else 0)
    whole = grid_states(case)
    assert len(whole) == 1 + int(whole[-1].num_passes) < len(states)
    np.testing.assert_array_equal(whole[-1].own.value, states[-1].own.value)


def test_visits_on_a_smooth_network():
    target, config = regenerate_golden.CASES["greedy_untargeted"]
    arguments = (mlp_logits, *mlp_problem())
    expected = greedy_reference.greedy(
        *arguments, key=KEY, target=target, config=config
    )
    # No decision is one of rounding.
    assert len(expected) > 1 and min(one.closest for one in expected) > 1e-3
    states = states_of(*arguments, target=target, config=config, max_steps=1)
    assert_is_the_loop(states, expected, num_clips=24)


def test_blocks_do_not_change_visits():
    expected = grid_states("untargeted", max_steps=1)
    states = grid_states("untargeted", max_steps=1, micro_batch_size=1)
    visits, expected_visits = (
        [clips for clips, _ in passes_of(of)] for of in (states, expected)
    )
    assert visits == expected_visits
    np.testing.assert_allclose(states[-1].own.value, expected[-1].own.value, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "radius"), [("untargeted", 0.01), ("l2", 0.05), ("batch", 0.03)]
)
def test_stays_in_the_ball_and_the_box(case, radius):
    _, x, _ = grid_problem()
    states = grid_states(case, max_steps=1, radius=radius)
    order = 2 if case == "l2" else np.inf
    norms = [np.linalg.norm(np.float64(state.own.value), order) for state in states]
    assert norms[0] == 0 and max(norms) <= radius * (1 + 1e-6)
    np.testing.assert_allclose(norms[-1], radius, rtol=1e-6)
    perturbation = attacks.result(states[-1]).perturbation
    assert perturbation.space == "signal"
    moved = np.asarray(attacks.apply_perturbation(perturbation, x))
    assert np.all((moved >= 0) & (moved <= 1))


def test_how_it_ends():
    variables, x, _ = grid_problem()

    def end(case, **numbers):
        result = attacks.result(grid_states(case, **numbers)[-1])
        num_passes = int(result.num_passes)
        history = {name: column[:num_passes] for name, column in result.history.items()}
        np.testing.assert_array_equal(history["visited"] + history["skipped"], len(x))
        assert np.all(history["failed"] <= history["visited"])
        assert bool(result.converged) == (stop_reason(result) == "converged")
        return stop_reason(result), num_passes, result

    reason, num_passes, result = end("targeted", radius=0.3, target_asr=0.9)
    assert reason == "converged" and num_passes < 4 and result.train_asr >= 0.9
    reason, num_passes, result = end("untargeted", radius=0.01)
    assert reason == "max_passes" and num_passes == 4 and result.train_asr < 1
    # A norm too small to reach any boundary: DDN has nothing to add.
    clean = predictions(linear_logits, variables, x)
    for case, target in (("targeted", 2), ("batch", 1)):
        reason, num_passes, result = end(case, init_norm=1e-3)
        assert reason == "stalled" and num_passes == 1 and result.train_asr < 1
        np.testing.assert_array_equal(result.perturbation.value, 0.0)
        counts = [float(result.history[name][0]) for name in ("visited", "failed")]
        assert counts == [np.sum(clean != target)] * 2
    # The last batch is short.
    assert counts[0] % 3


@pytest.mark.parametrize(("highest", "stops"), [(0.0, True), (0.94, False)])
def test_logits_that_are_not_finite(highest, stops):
    variables, x, labels = grid_problem()
    assert float(jnp.max(x)) < 0.94
    target, settings = CASES["untargeted"]
    states = states_of(
        fragile_logits,
        variables | {"highest": np.float32(highest)},
        x,
        labels,
        target=target,
        config=make_config(**settings),
    )
    result = attacks.result(states[-1])
    value, num_passes = np.asarray(result.perturbation.value), int(result.num_passes)
    assert np.all(np.isfinite(value)) and np.any(value != 0) != stops
    assert (stop_reason(result) == "non_finite_logits") == stops
    assert not bool(result.converged) and np.any(result.non_finite) != stops
    assert np.all(np.asarray(result.left_out) <= num_passes + stops)
    counts = [result.history[name] for name in ("visited", "skipped", "left_out")]
    assert np.all(np.sum(counts, axis=0)[:num_passes] >= len(labels))


def resolve(*, targeted=False, num_clips=100, **settings):
    config = attacks.GreedyConfig(**settings)
    return resolve_config(config, targeted=targeted, num_clips=num_clips)


def test_defaults_are_the_papers():
    config = resolve()
    assert (config.norm, config.radius, config.max_passes) == ("linf", 0.2, 100)
    assert (config.target_asr, config.batch_size, config.shuffle) == (0.9, 1, False)
    assert (config.labels, config.aggregation) == ("clean", "sum")
    inner = config.ddn
    assert (inner.num_steps, inner.init_norm, inner.gamma) == (50, 0.2, 0.05)
    assert inner.quantization_levels is None
    assert resolve(targeted=True).radius == 0.12
    assert resolve(targeted=True, radius=0.5).radius == 0.5
    sizes = [resolve(num_clips=n).micro_batch_size for n in (7, 100)]
    assert sizes == [7, 25]
    config = resolve(num_clips=7, batch_size=64, micro_batch_size=64)
    assert (config.batch_size, config.micro_batch_size) == (7, 7)


@pytest.mark.parametrize(
    "setting",
    [
        ("norm", "l1"),
        ("norm", 2),
        ("radius", 0.0),
        ("radius", float("inf")),
        ("radius", 1e-50),
        ("radius", float("nan")),
        ("radius", "small"),
        ("shuffle", 2),
        ("shuffle", None),
        ("batch_size", None),
        ("aggregation", "max"),
        ("labels", "predicted"),
    ],
    ids=str,
)
def test_refused_settings(setting):
    name, value = setting
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        resolve(**{name: value})


def test_l2_has_no_radius_of_the_paper():
    assert resolve(norm="l2", radius=3).radius == 3
    with pytest.raises(ValueError, match=r"^radius: expected a number for norm 'l2'"):
        resolve(norm="l2")
