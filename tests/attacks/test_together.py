"""Attacks side by side against the same attacks one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax import attacks

NUM_CLIPS, NUM_SAMPLES, NUM_CLASSES = 17, 24, 4
CONFIGS = {
    "penalty": attacks.PenaltyConfig(
        batch_size=5,
        micro_batch_size=2,
        max_passes=4,
        learning_rate=0.05,
        # Far from silence, where the level's gradient makes rounding grow fast.
        penalty_coefficient=20.0,
    ),
    "greedy": attacks.GreedyConfig(
        max_passes=3, radius=0.3, ddn=attacks.DDNConfig(num_steps=8)
    ),
}


def logits(variables, x):
    return jnp.tanh((x - 0.5) @ variables["hidden"]) @ variables["out"]


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(0), 3)
    variables = {
        "hidden": jax.random.normal(keys[0], (NUM_SAMPLES, 8)),
        "out": 3 * jax.random.normal(keys[1], (8, NUM_CLASSES)),
    }
    x = jax.random.uniform(keys[2], (NUM_CLIPS, NUM_SAMPLES))
    return variables, x, jnp.argmax(logits(variables, x), axis=1).astype("int32")


def keys_for(count):
    return list(jax.random.split(jax.random.key(7), count))


def assert_same_result(result, expected, *, exact):
    assert int(result.stop_reason) == int(expected.stop_reason)
    assert int(result.num_passes) == int(expected.num_passes)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("method", ["penalty", "greedy"])
def test_targets_side_by_side(problem, method, width):
    variables, x, labels = problem
    targets, keys = [0, 1, 3], keys_for(3)
    results = attacks.together(
        *(method, logits, variables, x, labels),
        keys=keys,
        targets=targets,
        configs=CONFIGS[method],
        width=width,
    )
    attack = getattr(attacks, method)
    for target, key, result in zip(targets, keys, results, strict=True):
        expected = attack(
            *(logits, variables, x, labels),
            key=key,
            target=target,
            config=CONFIGS[method],
        )
        assert_same_result(result, expected, exact=width == 1)
    # They are different attacks.
    values = [np.asarray(result.perturbation.value) for result in results]
    assert not np.allclose(values[0], values[1])


def test_numbers_of_the_config_side_by_side(problem):
    variables, x, labels = problem
    configs = [
        dataclasses.replace(CONFIGS["penalty"], confidence=kappa, target_asr=rate)
        for kappa, rate in ((0.0, 0.3), (1.0, 0.9), (5.0, 1.0))
    ]
    results = attacks.together(
        *("penalty", logits, variables, x, labels),
        keys=keys_for(3),
        configs=configs,
        width=4,
    )
    for key, config, result in zip(keys_for(3), configs, results, strict=True):
        expected = attacks.penalty(logits, variables, x, labels, key=key, config=config)
        assert_same_result(result, expected, exact=False)
    assert len({int(result.num_passes) for result in results}) > 1


def test_least_number_of_passes_side_by_side(problem):
    variables, x, labels = problem
    config = dataclasses.replace(CONFIGS["penalty"], target_asr=1e-6, min_passes=3)
    results = attacks.together(
        *("penalty", logits, variables, x, labels),
        keys=keys_for(2),
        targets=[0, 1],
        configs=config,
        width=2,
    )
    for target, key, result in zip([0, 1], keys_for(2), results, strict=True):
        expected = attacks.penalty(
            logits, variables, x, labels, key=key, target=target, config=config
        )
        assert int(result.num_passes) == 3 and bool(result.converged)
        assert_same_result(result, expected, exact=False)


def test_result_does_not_depend_on_the_others(problem):
    variables, x, labels = problem
    keys = keys_for(4)

    def first_of(count):
        return attacks.together(
            *("penalty", logits, variables, x, labels),
            keys=keys[:count],
            targets=[2, 0, 1, 3][:count],
            configs=CONFIGS["penalty"],
            width=4,
        )[0]

    assert_same_result(first_of(4), first_of(2), exact=False)


def test_stopped_trials_leave(problem):
    variables, x, labels = problem
    configs = [
        dataclasses.replace(CONFIGS["penalty"], target_asr=rate) for rate in (1e-6, 1.0)
    ]
    problems, states, configs = attacks.together_init(
        *("penalty", logits, variables, x, labels), keys=keys_for(2), configs=configs
    )

    def advance(states):
        return attacks.together_segment(
            *("penalty", logits, variables, problems, states), configs=configs, width=2
        )

    states = advance(advance(states))
    assert [attacks.is_running(state) for state in states] == [False, True]
    stopped = states[0]
    states = advance(states)
    assert states[0] is stopped
    assert int(states[1].batch) > 0


def test_segments_may_be_cut_anywhere(problem):
    variables, x, labels = problem
    arguments = ("penalty", logits, variables)
    problems, states, configs = attacks.together_init(
        *(*arguments, x, labels),
        keys=keys_for(3),
        targets=[0, 1, 2],
        configs=CONFIGS["penalty"],
    )
    whole = attacks.together(
        *(*arguments, x, labels),
        keys=keys_for(3),
        targets=[0, 1, 2],
        configs=CONFIGS["penalty"],
        width=2,
    )
    while any(attacks.is_running(state) for state in states):
        states = attacks.together_segment(
            *(*arguments, problems, states), configs=configs, width=2, max_steps=1
        )
    for state, expected in zip(states, whole, strict=True):
        assert_same_result(attacks.penalty_result(state), expected, exact=False)


def test_shared_clips_are_kept_once(problem):
    variables, x, labels = problem
    problems, _, _ = attacks.together_init(
        *("greedy", logits, variables, x, labels), keys=keys_for(3), targets=[0, 1, 2]
    )
    assert all(p.x is problems[0].x for p in problems)
    assert [int(p.target) for p in problems] == [0, 1, 2]
    assert [int(p.classes[0]) for p in problems] == [0, 1, 2]


def test_width_follows_the_memory(problem):
    variables, x, labels = problem
    problems, states, configs = attacks.together_init(
        *("penalty", logits, variables, x, labels),
        keys=keys_for(5),
        configs=CONFIGS["penalty"],
    )

    def width(memory_bytes):
        return attacks.fitting_width(
            *("penalty", logits, variables, problems[0], states[0]),
            config=configs[0],
            num_trials=5,
            memory_bytes=memory_bytes,
        )

    assert width(10**9) == 8
    assert width(0) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": []}, "keys"),
        ({"targets": [0]}, "targets: expected 2 as keys, got 1"),
        ({"targets": [0, NUM_CLASSES]}, "target"),
        ({"configs": [attacks.PenaltyConfig()]}, "configs: expected 2 as keys, got 1"),
        (
            {"configs": [attacks.PenaltyConfig(batch_size=size) for size in (3, 4)]},
            "configs: expected the same sizes and choices",
        ),
        ({"width": 0}, "width"),
    ],
)
def test_mistakes(problem, changes, message):
    variables, x, labels = problem
    with pytest.raises(ValueError, match=message):
        attacks.together(
            *("penalty", logits, variables, x, labels),
            **{"keys": keys_for(2), "configs": CONFIGS["penalty"], **changes},
        )


def test_unknown_method(problem):
    variables, x, labels = problem
    with pytest.raises(ValueError, match="method: expected one of"):
        attacks.together("nonsense", logits, variables, x, labels, keys=keys_for(1))
