"""Where the decoupled method begins: silence, then the clips that fool others best."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import constant_logits, linear_logits, linear_problem, predictions
from uap_jax.attacks.decoupled_pass import lead
from uap_jax.attacks.decoupled_start import LOUDER, MOST_CANDIDATES, MOST_PROBES
from uap_jax.attacks.decoupled_state import Leader

from uap_jax import attacks

# With more, clips are fooled for certain and many candidates are equally good.
INIT_NORM, TEMPERATURE = {"tanh": 0.7, "signal": 0.15}, 0.2


def starts_of(logits_fn, variables, x, *, target, **settings):
    labels = jnp.zeros(len(x), jnp.int32)
    _, state = attacks.decoupled_init(
        logits_fn,
        variables,
        x,
        labels,
        key=jax.random.key(0),
        target=target,
        config=attacks.DecoupledConfig(**settings),
    )
    np.testing.assert_array_equal(state.perturbation.value, state.starts[0])
    return np.asarray(state.starts)


def best_clips(variables, x, *, target, space, count):
    """The first v in float64, by trying the candidates one after the other."""
    x = np.asarray(x, np.float64)
    templates = np.asarray(variables["templates"], np.float64)
    clean = np.argmax((x - 0.5) @ templates.T, axis=1)
    probes = [i * len(x) // MOST_PROBES for i in range(MOST_PROBES)]
    num_tried = min(MOST_CANDIDATES, 4 * len(x) // MOST_PROBES)
    usable = np.arange(len(x)) if target is None else np.flatnonzero(clean == target)
    candidates = dict.fromkeys(
        usable[i * len(usable) // num_tried] for i in range(num_tried)
    )
    in_space = np.arctanh((2 * x - 1) * (1 - 1e-7)) if space == "tanh" else x
    losses, values = [], []
    for candidate in candidates:
        sound = 2 * x[candidate] - 1 if space == "tanh" else x[candidate]
        sound = sound - np.mean(sound)
        value = INIT_NORM[space] * sound / np.linalg.norm(sound)
        w = in_space[probes] + LOUDER * value
        w = (np.tanh(w) + 1) / 2 if space == "tanh" else np.clip(w, 0, 1)
        logits = (w - 0.5) @ templates.T
        classes = clean[probes] if target is None else np.full(len(probes), target)
        own = logits[np.arange(len(probes)), classes]
        rivals = logits.copy()
        rivals[np.arange(len(probes)), classes] = -np.inf
        margin = np.max(rivals, axis=1) - own
        margin = (-margin if target is None else margin) / TEMPERATURE
        losses.append(np.mean(1 / (1 + np.exp(-margin))))
        values.append(value)
    return np.stack([values[i] for i in np.argsort(losses)[:count]])


@pytest.mark.parametrize("space", ["tanh", "signal"])
@pytest.mark.parametrize("target", [None, 0, 2])
def test_the_best_clips_are_found(target, space):
    variables, x, _ = linear_problem(150)
    assert len(x) > MOST_PROBES
    found = starts_of(
        linear_logits,
        variables,
        x,
        target=target,
        space=space,
        init_norm=INIT_NORM[space],
        temperature=TEMPERATURE,
        num_starts=4,
    )
    expected = best_clips(variables, x, target=target, space=space, count=3)
    np.testing.assert_array_equal(found[0], np.zeros(x.shape[1]))
    np.testing.assert_allclose(found[1:], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(found[1:], axis=1), np.full(3, INIT_NORM[space]), rtol=1e-5
    )


@pytest.mark.parametrize("target", [None, 1])
def test_from_silence_alone(target):
    variables, x, _ = linear_problem()
    found = starts_of(linear_logits, variables, x, target=target, num_starts=1)
    np.testing.assert_array_equal(found, np.zeros((1, x.shape[1])))


def test_no_clip_is_taken_for_the_target():
    variables, x, _ = linear_problem()
    clean = predictions(linear_logits, variables, x)
    others = x[np.asarray(clean) != 1]
    found = starts_of(linear_logits, variables, others, target=1)
    np.testing.assert_array_equal(found, np.zeros((4, x.shape[1])))


def test_one_clip_is_taken_for_the_target():
    variables, x, _ = linear_problem()
    clean = np.asarray(predictions(linear_logits, variables, x))
    chosen = [*np.flatnonzero(clean != 1)[:20], np.flatnonzero(clean == 1)[0]]
    x = x[np.asarray(chosen)]
    found = starts_of(linear_logits, variables, x, target=1)
    assert np.any(found[1] != 0)
    np.testing.assert_array_equal(found[2:], np.zeros((2, x.shape[1])))


@pytest.mark.parametrize("num_samples", [40, 1001])
@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
def test_clips_without_sound(value, num_samples):
    x = jnp.full((5, num_samples), value, jnp.float32)
    found = starts_of(constant_logits, {"bias": jnp.ones(3)}, x, target=0)
    np.testing.assert_array_equal(found, np.zeros((4, num_samples)))


def test_a_lone_clip():
    variables, x, _ = linear_problem()
    found = starts_of(linear_logits, variables, x[:1], target=None, space="signal")
    sound = np.asarray(x[0] - jnp.mean(x[0]))
    cosine = found[1] @ sound / (np.linalg.norm(found[1]) * np.linalg.norm(sound))
    assert cosine == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(found[2:], np.zeros((2, x.shape[1])))


def test_targets_side_by_side_begin_as_alone():
    variables, x, labels = linear_problem()
    configs = [attacks.DecoupledConfig(init_norm=norm) for norm in (0.4, 0.2)]
    _, states, _ = attacks.together_init(
        "decoupled",
        linear_logits,
        variables,
        x,
        labels,
        targets=[0, 1],
        keys=[jax.random.key(0)] * 2,
        configs=configs,
    )
    for target, state in enumerate(states):
        alone = starts_of(
            linear_logits,
            variables,
            x,
            target=target,
            init_norm=configs[target].init_norm,
        )
        np.testing.assert_array_equal(state.starts, alone)
    assert not np.array_equal(states[0].starts, alone)


@pytest.mark.parametrize("start_passes", [1, 2])
@pytest.mark.parametrize("num_starts", [1, 2, 3])
def test_the_best_of_the_starts_goes_on(num_starts, start_passes):
    variables, x, labels = linear_problem()
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(
            batch_size=32,
            max_passes=8,
            num_starts=num_starts,
            start_passes=start_passes,
            init_norm=0.3,
        ),
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
    ends, promises = [], []
    for done in range(1, num_starts + 1):
        while int(state.num_passes) < done * start_passes:
            before = state
            state = attacks.decoupled_segment(
                linear_logits, variables, problem, state, config=config
            )
        last = done * start_passes - 1
        lack = 0.9 - float(state.history["asr"][last])
        promise = math.log(float(before.norm)) + config.norm_gain * lack
        promises.append((promise, float(state.history["objective"][last])))
        ends.append(before)
        if done < num_starts:
            np.testing.assert_array_equal(state.perturbation.value, state.starts[done])
            np.testing.assert_array_equal(state.direction, np.zeros(x.shape[1]))
            assert float(state.norm) == pytest.approx(0.3)
    best = ends[promises.index(min(promises))]
    np.testing.assert_array_equal(state.perturbation.value, best.perturbation.value)
    np.testing.assert_array_equal(state.direction, best.direction)
    change = min(promises)[0] - math.log(float(best.norm))
    change = np.clip(change if change > 0 else min(change, -0.005), -0.15, 0.15)
    assert float(state.norm / best.norm) == pytest.approx(math.exp(change), rel=1e-4)


def test_the_quieter_of_equal_rates_leads():
    config = attacks.DecoupledConfig()
    none = Leader(jnp.zeros(2), jnp.zeros(2), jnp.float32(jnp.inf), *jnp.zeros(2))
    values = {"norm": (3.0, 2.0, 2.0, 1.9), "asr": (0.9, 0.9, 0.9, 0.7)}
    leader, level = none, jnp.float32(0.9)
    led_by = []
    for index, (norm, asr) in enumerate(zip(*values.values(), strict=True)):
        start = Leader(
            value=jnp.full(2, index),
            direction=jnp.full(2, index),
            norm=jnp.float32(norm),
            asr=jnp.float32(asr),
            objective=jnp.float32(5 - index),
        )
        leader = lead(leader, start, level, config)
        led_by.append(int(leader.value[0]))
    # The last is quieter yet lacks more than that is worth.
    assert led_by == [0, 1, 2, 2]


@pytest.mark.parametrize(("max_passes", "expected"), [(2, (1, 2)), (1, (1, 1))])
def test_never_more_starts_than_passes(max_passes, expected):
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(max_passes=max_passes), targeted=True, num_clips=5
    )
    assert (config.num_starts, config.start_passes) == expected
