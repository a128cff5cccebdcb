"""Where the decoupled method begins: silence, then the clips that fool others best."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import constant_logits, linear_logits, linear_problem, predictions

from uap_jax import attacks
from uap_jax.attacks.decoupled import starts

# Of the norm in the first passes, for the 64 samples of the linear problem.
FIRST_NORM = 0.05 * math.sqrt(64)


def begin(logits_fn, variables, x, *, target, **settings):
    return attacks.begin(
        logits_fn,
        variables,
        x,
        jnp.zeros(len(x), jnp.int32),
        key=jax.random.key(0),
        target=target,
        config=attacks.DecoupledConfig(**settings),
    )


def starts_of(logits_fn, variables, x, *, target, **settings):
    _, state = begin(logits_fn, variables, x, target=target, **settings)
    np.testing.assert_array_equal(state.own.value, state.own.starts[0])
    return np.asarray(state.own.starts)


def best_clips(variables, x, *, target, count):
    """The starts in float64, by trying the candidates one after the other."""
    x = np.asarray(x, np.float64)
    templates = np.asarray(variables["templates"], np.float64)

    def margins_of(w, clean):
        logits = (w - 0.5) @ templates.T
        every = np.arange(len(w))
        classes = clean if target is None else np.full(len(w), target)
        of_class, rivals = logits[every, classes], logits.copy()
        rivals[every, classes] = -np.inf
        margin = np.max(rivals, axis=1) - of_class
        return -margin if target is None else margin

    clean = np.argmax((x - 0.5) @ templates.T, axis=1)
    temperature = 0.35 * np.median(np.abs(margins_of(x, clean)))
    probes = [i * len(x) // 64 for i in range(64)]
    num_tried = 4 * len(x) // 64
    usable = np.arange(len(x)) if target is None else np.flatnonzero(clean == target)
    candidates = dict.fromkeys(
        usable[i * len(usable) // num_tried] for i in range(num_tried)
    )
    x_tanh = np.arctanh((2 * x - 1) * (1 - 1e-7))
    losses, values = [], []
    for candidate in candidates:
        sound = 2 * x[candidate] - 1
        sound = sound - np.mean(sound)
        values.append(FIRST_NORM * sound / np.linalg.norm(sound))
        w = (np.tanh(x_tanh[probes] + 1.6 * values[-1]) + 1) / 2
        margins = margins_of(w, clean[probes])
        losses.append(np.mean(1 / (1 + np.exp(-margins / temperature))))
    return np.stack([values[i] for i in np.argsort(losses)[:count]])


@pytest.mark.parametrize("target", [None, 0, 2])
def test_starts_are_silence_and_the_best_clips(target):
    variables, x, _ = linear_problem(150)
    values = starts_of(linear_logits, variables, x, target=target)
    expected = best_clips(variables, x, target=target, count=3)
    np.testing.assert_array_equal(values[0], np.zeros(x.shape[1]))
    np.testing.assert_allclose(values[1:], expected, rtol=1e-4, atol=1e-5)


def test_starts_where_few_clips_are_of_the_target_class():
    variables, x, _ = linear_problem()
    x, is_target = np.asarray(x), predictions(linear_logits, variables, x) == 1
    others, (one, *_) = x[~is_target][:21], x[is_target]
    values = starts_of(linear_logits, variables, others, target=1)
    np.testing.assert_array_equal(values, np.zeros((4, 64)))
    x = np.concatenate([others[:20], one[None]])
    values = starts_of(linear_logits, variables, x, target=1)
    assert np.any(values[1] != 0)
    np.testing.assert_array_equal(values[2:], np.zeros((2, 64)))


@pytest.mark.parametrize("num_samples", [40, 1001])
def test_clips_without_sound_are_no_starts(num_samples):
    for level in (0.0, 0.3, 0.5, 1.0):
        x = np.full((5, num_samples), level, np.float32)
        values = starts_of(
            constant_logits, {"bias": np.ones(3, np.float32)}, x, target=0
        )
        np.testing.assert_array_equal(values, np.zeros((4, num_samples)))


def test_starts_from_a_lone_clip():
    variables, x, _ = linear_problem()
    values = starts_of(linear_logits, variables, x[:1], target=None)
    sound = np.float64(x[0]) - np.mean(np.float64(x[0]))
    cosine = values[1] @ sound / (np.linalg.norm(values[1]) * np.linalg.norm(sound))
    assert cosine == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(values[2:], np.zeros((2, 64)))


def test_the_best_of_the_starts_continues():
    variables, x, _ = linear_problem()
    settings = {"batch_size": 32, "max_passes": 9}
    problem, state = begin(linear_logits, variables, x, target=1, **settings)
    advance = functools.partial(attacks.advance, linear_logits, variables, problem)
    ends, predicted = [], []
    for start in range(4):
        for _ in range(2):
            # Two steps a pass, then the count.
            before = advance(state, max_steps=2)
            state = advance(before)
        ends.append(before.own)
        asr = np.clip(float(state.history["asr"][2 * start + 1]), 1e-4, 1 - 1e-4)
        change = 0.3 * (math.log(9) - math.log(asr / (1 - asr)))
        objective = float(state.history["objective"][2 * start + 1])
        predicted.append((math.log(before.own.norm) + change, objective, change))
        if start < 3:
            np.testing.assert_array_equal(state.own.value, state.own.starts[start + 1])
            np.testing.assert_array_equal(state.own.direction, np.zeros(64))
            assert float(state.own.norm) == pytest.approx(FIRST_NORM)
    best = ends[predicted.index(min(predicted))]
    np.testing.assert_array_equal(state.own.value, best.value)
    np.testing.assert_array_equal(state.own.direction, best.direction)
    change = min(predicted)[2]
    change = np.clip(change if change > 0 else min(change, -0.005), -0.15, 0.15)
    ratio = float(state.own.norm) / float(best.norm)
    assert ratio == pytest.approx(math.exp(change), rel=1e-4)


def test_the_quieter_of_equal_rates_leads():
    leader = starts.Start(*jnp.zeros((2, 2)), jnp.float32(jnp.inf), *jnp.zeros(2))
    led_by = []
    # The last is quieter yet lacks more than that is worth.
    for index, (norm, asr) in enumerate([(3, 0.9), (2, 0.9), (2, 0.9), (1.9, 0.7)]):
        vector, scalars = jnp.full(2, index, jnp.float32), (norm, asr, 5 - index)
        start = starts.Start(vector, vector, *map(jnp.float32, scalars))
        leader = starts.better_start(leader, start, jnp.float32(0.9))
        led_by.append(int(leader.value[0]))
    assert led_by == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("level", "reached", "norm", "source", "keeps_norm"),
    [
        # Lower: the quietest that has it, but not if the end of the last is quieter.
        (2, True, 3.0, 2, True),
        (2, True, 0.5, None, False),
        (2, False, 3.0, None, False),
        # Higher: from the one below, whatever came last.
        (0, True, 0.5, 1, False),
        (0, False, 3.0, None, False),
    ],
)
def test_where_a_success_rate_begins(level, reached, norm, source, keeps_norm):
    norms = [np.inf, 2.0, 1.0] if reached else [np.inf] * 3
    front = attacks.Front(
        asr_levels=jnp.float32([0.9, 0.7, 0.5]),
        values=jnp.float32([[0.0], [2.0], [1.0]]),
        norm=jnp.float32(norms),
        train_asr=jnp.float32([0.0, 0.71, 0.52]),
    )
    ended = starts.Start(*map(jnp.float32, ([7.0], [8.0], norm, 0.4, 0.0)))
    start, keeps = starts.begin_level(front, ended, jnp.int32(level), jnp.int32(1))
    assert bool(keeps) == keeps_norm
    if source is None:
        assert start == ended
    else:
        assert float(start.value[0]) == float(front.values[source, 0])
        assert float(start.norm) == norms[source]
        assert float(start.asr) == float(front.train_asr[source])
        assert float(start.direction[0]) == (0.0 if level == 0 else 8.0)
