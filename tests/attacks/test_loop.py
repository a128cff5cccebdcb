"""What all methods share: passes, resume, side by side, devices, faults, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sign_steps
from toy_networks import (
    constant_logits,
    linear_logits,
    linear_problem,
    predictions,
)

from uap_jax import attacks
from uap_jax.attacks import batches, loop, types
from uap_jax.attacks.methods import resolve_method

NUM_CLIPS = 23
# Batches, micro-batches and blocks that do not divide the clips; several passes.
SIZES = {"max_passes": 3, "target_asr": 1.0}
CONFIGS = {
    "penalty": attacks.PenaltyConfig(
        batch_size=6,
        micro_batch_size=4,
        learning_rate=0.02,
        # Far from silence, where the level's gradient makes rounding grow fast.
        penalty_coefficient=20.0,
        **SIZES,
    ),
    "greedy": attacks.GreedyConfig(
        batch_size=2,
        micro_batch_size=4,
        radius=0.03,
        shuffle=True,
        ddn=attacks.DDNConfig(num_steps=6),
        **SIZES,
    ),
    "decoupled": attacks.DecoupledConfig(
        batch_size=6,
        micro_batch_size=4,
        max_passes=3,
        target_asr=0.9,
        asr_levels=(0.5,),
        level_passes=1,
        max_shift=5,
    ),
    "sign_steps": sign_steps.SignConfig(
        batch_size=6, micro_batch_size=4, step_size=0.002, radius=0.03, **SIZES
    ),
}
all_methods = pytest.mark.parametrize("name", CONFIGS)
# What the loop does for all methods alike, for one that has all of it.
one_quickly = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "decoupled" else pytest.mark.slow)
        for name in CONFIGS
    ],
)


def problem_of(num_clips=NUM_CLIPS):
    variables, x, labels = linear_problem(num_clips=num_clips)
    return linear_logits, variables, x, labels


def begin(name, *, target=1, seed=3, config=None, arguments=None):
    return attacks.begin(
        *(arguments or problem_of()),
        key=jax.random.key(seed),
        target=target,
        config=config or CONFIGS[name],
    )


@functools.cache
def end_of(name, *, target=1, seed=3, max_steps=None):
    """The last state of an attack, advanced in calls of at most `max_steps`."""
    problem, state = begin(name, target=target, seed=seed)
    logits_fn, variables, *_ = problem_of()
    while attacks.is_running(state):
        # What a checkpoint does.
        leaves, structure = jax.tree.flatten(state)
        state = jax.tree.unflatten(structure, leaves)
        state = attacks.advance(
            logits_fn, variables, problem, state, max_steps=max_steps
        )
    return state


def stop_reason(result):
    return attacks.STOP_REASONS[int(result.stop_reason)]


def bits(tree):
    leaves = []
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        numbers = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        leaves.append((numbers.dtype, numbers.shape, numbers.tobytes()))
    return leaves


def assert_alike(first, second):
    """Equal but for rounding."""
    assert stop_reason(first) == stop_reason(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@all_methods
@pytest.mark.parametrize("max_steps", [1, 3])
def test_cut_anywhere_to_the_same_bits(name, max_steps):
    whole = end_of(name)
    assert int(whole.num_passes) > 1
    assert bits(end_of(name, max_steps=max_steps)) == bits(whole)


@all_methods
def test_one_call_ends_with_the_pass(name):
    problem, state = begin(name)
    logits_fn, variables, *_ = problem_of()
    state = attacks.advance(logits_fn, variables, problem, state)
    assert (int(state.num_passes), int(state.position), int(state.block)) == (1, 0, 0)
    assert attacks.progress(problem, state) == ("attack", 0, NUM_CLIPS)


def test_a_call_takes_at_most_max_steps():
    problem, state = begin("penalty")
    logits_fn, variables, *_ = problem_of()
    stages = []
    for _ in range(12):
        state = attacks.advance(logits_fn, variables, problem, state, max_steps=1)
        stages.append((int(state.num_passes), *attacks.progress(problem, state)[:2]))
    # Four batches of 6, then six blocks of 4, then the next pass.
    steps = [(0, "attack", done) for done in (6, 12, 18)]
    blocks = [(0, "count", done) for done in (0, 4, 8, 12, 16, 20)]
    assert stages == [*steps, *blocks, *[(1, "attack", done) for done in (0, 6, 12)]]


@all_methods
def test_stopped_attack_stays_as_it_is(name):
    problem, _ = begin(name)
    logits_fn, variables, *_ = problem_of()
    again = attacks.advance(logits_fn, variables, problem, end_of(name))
    assert bits(again) == bits(end_of(name))


@all_methods
def test_same_key_same_bits(name):
    fresh = end_of.__wrapped__(name)
    assert bits(fresh) == bits(end_of(name))
    other = end_of(name, seed=4)
    assert bits(attacks.result(other)) != bits(attacks.result(fresh))


@all_methods
def test_result_of_a_running_attack(name):
    _, state = begin(name)
    result = attacks.result(state)
    assert stop_reason(result) == "running" and not bool(result.converged)
    assert float(result.train_asr) == 0.0 and int(result.num_passes) == 0
    assert all(np.all(np.isnan(column)) for column in result.history.values())


@all_methods
@pytest.mark.parametrize("target", [None, 1])
def test_result_is_truthful(name, target):
    logits_fn, variables, x, _ = problem_of()
    state = end_of(name, target=target)
    result = attacks.result(state)
    num_passes = int(result.num_passes)
    for column in result.history.values():
        np.testing.assert_array_equal(
            np.isfinite(column), np.arange(len(column)) < num_passes
        )
    x_adversarial = np.asarray(attacks.apply_perturbation(result.perturbation, x))
    assert np.all((x_adversarial >= 0) & (x_adversarial <= 1))
    predicted = predictions(logits_fn, variables, x_adversarial)
    clean = predictions(logits_fn, variables, x)
    success = predicted != clean if target is None else predicted == target
    np.testing.assert_allclose(result.train_asr, np.mean(success), rtol=1e-6)
    config = CONFIGS[name]
    assert bool(result.converged) == (float(result.train_asr) >= config.target_asr)


@all_methods
def test_beats_noise_of_the_same_level(name):
    logits_fn, variables, x, labels = problem_of(64)
    clean = predictions(logits_fn, variables, x)
    assert np.mean(clean == np.asarray(labels)) == 1.0
    config = dataclasses.replace(CONFIGS[name], max_passes=12, target_asr=0.9)
    if hasattr(config, "radius"):
        config = dataclasses.replace(config, radius=0.1)
    result = attacks.run(
        logits_fn, variables, x, labels, key=jax.random.key(0), target=1, config=config
    )

    def asr_of(perturbation):
        moved = attacks.apply_perturbation(perturbation, x)
        return np.mean(predictions(logits_fn, variables, moved) == 1)

    assert bool(result.converged) and asr_of(result.perturbation) >= 0.9
    value = np.asarray(result.perturbation.value)
    rms = np.sqrt(np.mean(value**2))
    for seed in range(5):
        noise = rms * np.random.default_rng(seed).standard_normal(len(value))
        noise = dataclasses.replace(result.perturbation, value=jnp.float32(noise))
        assert asr_of(noise) <= 0.35


@one_quickly
@pytest.mark.parametrize("width", [1, 4])
def test_side_by_side(name, width):
    targets, seeds = np.array([1, 3, 0]), [3, 3, 4]
    results = attacks.together(
        *problem_of(),
        keys=[jax.random.key(seed) for seed in seeds],
        targets=targets,
        configs=CONFIGS[name],
        width=width,
    )
    for target, seed, result in zip(targets, seeds, results, strict=True):
        alone = attacks.result(end_of(name, target=target, seed=seed))
        if width == 1:
            assert bits(result) == bits(alone)
        else:
            assert_alike(result, alone)


def test_numbers_side_by_side():
    configs = [
        dataclasses.replace(CONFIGS["penalty"], confidence=kappa, target_asr=rate)
        for kappa, rate in ((0.0, 0.1), (1.0, 0.9), (5.0, 1.0))
    ]
    results = attacks.together(
        *problem_of(), keys=[jax.random.key(3)] * 3, configs=configs, width=4
    )
    for config, result in zip(configs, results, strict=True):
        alone = attacks.run(*problem_of(), key=jax.random.key(3), config=config)
        assert_alike(result, alone)
    assert len({int(result.num_passes) for result in results}) > 1


def test_stopped_trials_leave_the_others():
    config = CONFIGS["penalty"]
    configs = [dataclasses.replace(config, target_asr=rate) for rate in (1e-6, 1.0)]
    logits_fn, variables, x, labels = problem_of()
    problems, states = attacks.begin_together(
        logits_fn, variables, x, labels, keys=[jax.random.key(3)] * 2, configs=configs
    )
    assert problems[0].x is problems[1].x, "clips are stored once"
    states = attacks.advance_together(logits_fn, variables, problems, states, width=2)
    assert [attacks.is_running(state) for state in states] == [False, True]
    stopped = states[0]
    states = attacks.advance_together(
        logits_fn, variables, problems, states, width=2, max_steps=1
    )
    assert states[0] is stopped and int(states[1].position) > 0


@one_quickly
def test_two_devices(name):
    devices = jax.devices("cpu")
    assert len(devices) == 2
    logits_fn, *arrays = problem_of()
    spread = attacks.over_devices(logits_fn, devices)
    assert spread is attacks.over_devices(logits_fn, devices)
    variables, x, labels, key = attacks.replicated(
        (*arrays, jax.random.key(3)), devices
    )
    sharding = jax.jit(spread)(variables, x[:16]).sharding
    assert sharding.device_set == set(devices) and not sharding.is_fully_replicated
    result = attacks.run(
        spread, variables, x, labels, key=key, target=1, config=CONFIGS[name]
    )
    assert_alike(result, attacks.result(end_of(name)))


def test_width_follows_the_memory():
    problem, state = begin("penalty")
    logits_fn, variables, *_ = problem_of()
    width = functools.partial(
        attacks.fitting_width, logits_fn, variables, problem, state, num_trials=5
    )
    assert width(memory_bytes=10**9) == 8
    assert width(memory_bytes=0) == 1


@all_methods
def test_logits_that_are_not_finite_are_never_a_success(name):
    logits_fn, variables, x, labels = problem_of()
    broken = {"templates": variables["templates"].at[0, 0].set(jnp.nan)}
    result = attacks.run(
        logits_fn, broken, x, labels, key=jax.random.key(0), config=CONFIGS[name]
    )
    assert stop_reason(result).startswith("non_finite")
    assert not bool(result.converged) and float(result.train_asr) == 0.0
    assert np.all(np.isfinite(result.perturbation.value))


@one_quickly
def test_what_was_reached_before_a_fault_is_kept(name):
    """Of a step whose sum overflows, though no clip's part of it does."""
    config = CONFIGS[name]
    method = config.method

    def step(classify, problem, own, at):
        new = method.step(classify, problem, own, at)
        is_late = (at.num_passes > 0) & (at.position > 0)
        return new._replace(fault=jnp.where(is_late, types.NON_FINITE_GRADIENT, 0))

    problem, state = begin(name)
    faulty = method._replace(step=step)
    problem = dataclasses.replace(problem, method=faulty)
    state = dataclasses.replace(state, method=faulty)
    logits_fn, variables, *_ = problem_of()
    states = [state]
    while attacks.is_running(state):
        state = attacks.advance(logits_fn, variables, problem, state, max_steps=1)
        states.append(state)
    assert stop_reason(attacks.result(state)) == "non_finite_gradient"
    assert int(state.num_passes) == 1 and int(state.position) > 0
    assert bits(state.own) == bits(states[-2].own)
    assert int(state.position) == int(states[-2].position)


@all_methods
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_silence_full_scale_and_a_network_without_a_gradient(name, level):
    x = jnp.full((NUM_CLIPS, 16), level, jnp.float32)
    result = attacks.run(
        constant_logits,
        {"bias": jnp.asarray([1.0, 0.5, 0.0])},
        x,
        jnp.zeros(NUM_CLIPS, jnp.int32),
        key=jax.random.key(0),
        config=CONFIGS[name],
    )
    assert not bool(result.converged) and float(result.train_asr) == 0.0
    assert stop_reason(result) in ("max_passes", "stalled")
    assert np.all(np.isfinite(result.perturbation.value))


@all_methods
def test_numbers_weights_and_target_recompile_nothing(name):
    programs = [loop._advance, loop.first_state, batches.all_logits]
    logits_fn, variables, x, labels = problem_of()

    def run(variables=variables, target=1, **numbers):
        attacks.run(
            logits_fn,
            variables,
            x,
            labels,
            key=jax.random.key(0),
            target=target,
            config=dataclasses.replace(CONFIGS[name], **numbers),
        )

    def num_compiled():
        return np.array([program._cache_size() for program in programs])

    before = num_compiled()
    run()
    after = num_compiled()
    assert np.all(after <= before + 1)
    run(target_asr=np.float64(0.3), target=2)
    run(target_asr=jnp.float32(0.4))
    run(variables=jax.tree.map(lambda weights: 2 * weights, variables))
    np.testing.assert_array_equal(num_compiled(), after)


@one_quickly
def test_under_a_users_modes(name):
    expected = attacks.result(end_of(name))
    logits_fn, variables, x, labels = problem_of()
    arrays = (variables, x, labels)
    with jax.enable_x64(True), jax.debug_nans(True):
        result = attacks.run(
            logits_fn, *arrays, key=jax.random.key(3), target=1, config=CONFIGS[name]
        )
    assert result.perturbation.value.dtype == jnp.float32
    assert all(column.dtype == jnp.float32 for column in result.history.values())
    assert_alike(result, expected)


@pytest.mark.slow
@all_methods
def test_compiled_or_not(name):
    config = dataclasses.replace(CONFIGS[name], max_passes=1, batch_size=3)
    if name == "greedy":
        config = dataclasses.replace(config, ddn=attacks.DDNConfig(num_steps=2))
    if name == "decoupled":
        config = dataclasses.replace(config, asr_levels=())
    _, variables, x, labels = problem_of(3)
    arguments = (linear_logits, variables, x, labels)
    compiled = attacks.run(*arguments, key=jax.random.key(0), target=1, config=config)
    with jax.disable_jit():
        eager = attacks.run(*arguments, key=jax.random.key(0), target=1, config=config)
    assert_alike(compiled, eager)


def refused(logits_fn=linear_logits, config=None, key=None, **changes):
    _, variables, x, labels = problem_of()
    given = {"x": x, "labels": labels, "target": 1} | changes
    return attacks.begin(
        logits_fn,
        variables,
        given["x"],
        given["labels"],
        key=jax.random.key(0) if key is None else key,
        target=given["target"],
        config=CONFIGS["penalty"] if config is None else config,
    )


def changed(array, value):
    array = np.array(array)
    array.flat[array.size // 2] = value
    return array


def cases_of_refused_inputs():
    _, _, x, labels = problem_of()
    x, labels = np.asarray(x), np.asarray(labels)
    for wrong in (
        np.float64(x),
        jnp.asarray(x, jnp.bfloat16),
        x[0],
        x[None],
        x[:, :0],
        x.tolist(),
        changed(x, 1.001),
        changed(x, np.nan),
        jnp.asarray(changed(x, np.inf)),
    ):
        yield "x", {"x": wrong}
    yield "x", {"x": x[:0], "labels": labels[:0]}
    for wrong in (
        labels[:-1],
        labels[:, None],
        np.float32(labels),
        np.int64(labels),
        labels.tolist(),
        changed(labels, 4),
        changed(labels, -1),
    ):
        yield "labels", {"labels": wrong}
    for wrong in (4, -1, 1.9, 1.0, True, "1", np.float32(1)):
        yield "target", {"target": wrong}
    for wrong in (0, None, np.float32(0), "key", jax.random.split(jax.random.key(0))):
        yield "key", {"key": wrong if wrong is not None else False}
    yield "config", {"config": attacks.DDNConfig()}
    yield "config", {"config": attacks.PassConfig()}
    yield "config", {"config": {"batch_size": 3}}
    yield "batch_size", {"config": sign_steps.SignConfig(batch_size=None)}
    for logits_fn in (
        lambda variables, x: x[:, :1],
        lambda variables, x: jnp.sum(x, axis=1),
        lambda variables, x: x[:, None],
        lambda variables, x: (x, x),
        lambda variables, x: {"logits": x},
        lambda variables, x: jnp.argsort(x, axis=1),
    ):
        yield "logits_fn", {"logits_fn": logits_fn}


def test_refuses_inputs():
    before = loop._advance._cache_size()
    for name, changes in cases_of_refused_inputs():
        with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
            refused(**changes)
    assert loop._advance._cache_size() == before


@all_methods
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("micro_batch_size", 0),
        ("micro_batch_size", 1.5),
        ("max_passes", 0),
        ("max_passes", None),
        # Out of memory; and 0 as a float32, with which any perturbation converges.
        ("max_passes", 10**11),
        ("target_asr", 1e-50),
        ("batch_size", 10**11),
        ("micro_batch_size", 2**31),
        ("target_asr", 0.0),
        ("target_asr", 1.01),
        ("target_asr", float("nan")),
    ],
)
def test_refuses_settings_that_all_have(name, field, value):
    config = dataclasses.replace(CONFIGS[name], **{field: value})
    with pytest.raises(ValueError, match=rf"^{field}: expected [^\n]*$"):
        refused(config=config)


@pytest.mark.parametrize("attack", ["penalty", "greedy", "decoupled"])
def test_refuses_the_config_of_another_method(attack):
    arguments = {"key": jax.random.key(0), "config": CONFIGS["sign_steps"]}
    with pytest.raises(ValueError, match=r"^config: expected a \w+Config, got Sign"):
        getattr(attacks, attack)(*problem_of(), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": []}, "keys"),
        ({"targets": [0]}, "targets: expected 2 as keys, got 1"),
        ({"targets": [0, 9]}, "target: expected"),
        ({"targets": [0, 1.5]}, "target: expected"),
        ({"configs": [CONFIGS["penalty"]]}, "configs: expected 2 as keys, got 1"),
        (
            {"configs": [attacks.PenaltyConfig(batch_size=size) for size in (3, 4)]},
            "configs: expected the same sizes and choices",
        ),
        (
            {"configs": [CONFIGS["penalty"], CONFIGS["greedy"]]},
            "configs: expected the same",
        ),
        ({"width": 0}, "width"),
    ],
)
def test_refuses_side_by_side(changes, message):
    given = {"keys": [jax.random.key(0)] * 2, "configs": CONFIGS["penalty"]}
    with pytest.raises(ValueError, match=message):
        attacks.together(*problem_of(), **given | changes)


def test_methods_by_name():
    for name, method in attacks.METHODS.items():
        assert resolve_method(name) is method and method.name == name
    assert resolve_method("sign_steps:SIGN_STEPS") is sign_steps.SIGN_STEPS
    for wrong in ("nonsense", "sign_steps:nothing", "no.module:X", "sign_steps:init"):
        with pytest.raises(ValueError, match=r"^method: expected"):
            resolve_method(wrong)


def test_public_names():
    assert len(attacks.__all__) <= 30
    assert all(hasattr(attacks, name) for name in attacks.__all__)


def test_a_method_is_a_short_file():
    with open(sign_steps.__file__) as file:
        assert len(file.readlines()) <= 60
