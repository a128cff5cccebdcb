"""The parts of the decoupled method by their formulas: starts, step, schedule, norm."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import constant_logits, linear_logits, linear_problem, predictions

from uap_jax import attacks
from uap_jax.attacks.decoupled import schedule, starts, steps
from uap_jax.attacks.loop import resolve_config
from uap_jax.attacks.types import At, Problem

DECOUPLED = attacks.METHODS["decoupled"]
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


def problem_of(*, targeted=True, num_clips=200, num_samples=2, **settings):
    """A problem without clips, for what depends on its settings and shapes."""
    config = resolve_config(
        attacks.DecoupledConfig(**settings), targeted=targeted, num_clips=num_clips
    )
    return Problem(
        x=np.broadcast_to(np.float32(0), (num_clips, num_samples)),
        labels=np.zeros(num_clips, np.int32),
        clean_logits=None,
        clean_predictions=None,
        target=np.int32(0) if targeted else None,
        config=config,
        method=DECOUPLED,
    )


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


@pytest.mark.parametrize(
    ("max_passes", "expected"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 2)), (50, (4, 2))]
)
def test_never_more_starts_than_passes(max_passes, expected):
    config = problem_of(max_passes=max_passes).config
    assert (config.num_starts, config.start_passes) == expected


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


def test_a_step():
    rng = np.random.default_rng(0)
    value, direction, gradient = rng.standard_normal((3, 9)).astype(np.float32)
    moved, turned = steps.move(
        jnp.asarray(value),
        jnp.asarray(direction),
        jnp.asarray(gradient * np.float32(1e-30)),
        norm=jnp.float32(2.0),
        length=jnp.float32(0.1),
        num_steps=jnp.int32(3),
    )
    gradient = np.float64(gradient)
    expected = 0.9 * direction + 0.1 * gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(turned, expected, rtol=1e-5)
    expected = value - 0.2 * expected / (1 - 0.9**3)
    expected *= 2 / np.linalg.norm(expected)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_clips_are_shifted_in_a_step():
    variables, x, _ = linear_problem(6, 40)
    shifts = np.array([[0, 1, -1], [7, -19, 20]], np.int32)
    shifted = np.stack([np.roll(*pair) for pair in zip(x, shifts.ravel(), strict=True)])
    clips = np.arange(6, dtype=np.int32).reshape(2, 3)

    @jax.jit
    def objective_of(problem, shifts):
        return steps.batch_objective(
            functools.partial(linear_logits, variables),
            problem,
            jnp.full(40, 0.01, jnp.float32),
            clips,
            np.ones((2, 3), np.float32),
            shifts,
            temperature=jnp.float32(1.0),
        )

    outcomes = [
        objective_of(
            begin(linear_logits, variables, clips_used, target=2, max_shift=20)[0], by
        )
        for clips_used, by in ((x, shifts), (shifted, np.zeros_like(shifts)))
    ]
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "settings", "expected"),
    [
        (2, {}, 0),
        (100, {}, 2),
        (16_000, {}, 400),
        (50_999, {}, 400),
        (16_000, {"targeted": False}, 0),
        (100, {"max_shift": 500}, 50),
        (16_000, {"max_shift": 0}, 0),
    ],
)
def test_how_far_clips_are_shifted(num_samples, settings, expected):
    problem = problem_of(num_samples=num_samples, **settings)
    assert steps.max_shift(problem) == expected


def along_passes(function, problem, *, num_passes, num_batches):
    """The values of a schedule, batch by batch."""
    places = np.arange(num_passes * num_batches, dtype=np.int32)

    def value(place):
        position = place % num_batches * problem.config.batch_size
        return function(problem, At(None, position, None, place // num_batches))

    return jax.jit(jax.vmap(value))(places)


def test_schedule():
    problem = problem_of(
        batch_size=100, max_passes=10, level_passes=2, asr_levels=(0.5, 0.7)
    )
    along = functools.partial(
        along_passes, problem=problem, num_passes=14, num_batches=2
    )

    def cosine(highest, count):
        shares = 0.5 * (1 + np.cos(np.pi * np.arange(count) / count))
        return 0.01 + (highest - 0.01) * shares

    # Four starts have two passes each; the best continues for two more.
    expected = np.concatenate([*[cosine(0.3, 4)] * 5, *[cosine(0.03, 4)] * 2])
    np.testing.assert_allclose(along(schedule.step_length), expected, rtol=1e-5)
    falls = 0.5 * (1 - np.cos(np.pi * np.arange(4) / 4))
    expected = np.concatenate([np.ones(16), 0.2**falls, np.full(8, 0.2)])
    np.testing.assert_allclose(along(schedule.temperature_ratio), expected, rtol=1e-5)


def test_schedule_of_a_single_start_and_untargeted():
    for targeted, ratios in ((True, [1, 0.2**0.5]), (False, [1, 1])):
        problem = problem_of(targeted=targeted, batch_size=200, max_passes=2)
        along = functools.partial(
            along_passes, problem=problem, num_passes=2, num_batches=1
        )
        np.testing.assert_allclose(along(schedule.step_length), [0.3, 0.155], rtol=1e-5)
        np.testing.assert_allclose(along(schedule.temperature_ratio), ratios, rtol=1e-5)


@pytest.mark.parametrize(
    ("asr", "level", "change"),
    [
        (0.87, 0.9, 0.3 * (math.log(9) - math.log(0.87 / 0.13))),
        (0.93, 0.9, 0.3 * (math.log(9) - math.log(0.93 / 0.07))),
        (0.9, 0.9, -0.005),
        (0.0, 0.9, 0.15),
        (1.0, 0.9, -0.15),
        # Every clip is what is asked for, and then it gets quieter still.
        (0.999, 1.0, 0.15),
        (1.0, 1.0, -0.005),
    ],
)
def test_norm_follows_the_rate(asr, level, change):
    norm = schedule.adapt_norm(
        jnp.float32(1.0), jnp.float32(asr), jnp.float32(level), num_samples=9
    )
    assert math.log(norm) == pytest.approx(change, rel=1e-3)


@pytest.mark.parametrize(
    ("target_asr", "others", "order"),
    [
        (0.7, (0.5, 0.9, 0.6, 0.95), [0.7, 0.6, 0.5, 0.9, 0.95]),
        (0.9, (0.5, 0.7), [0.9, 0.7, 0.5]),
        (0.5, (0.9, 0.7), [0.5, 0.7, 0.9]),
        (0.5, (), [0.5]),
    ],
)
def test_order_of_success_rates(target_asr, others, order):
    config = problem_of(
        target_asr=target_asr, asr_levels=others, max_passes=3, level_passes=2
    ).config
    levels, main_level = schedule.levels_of(config)
    # The last one stays that of what comes after the end.
    expected = [*(order[0],) * 3, *np.repeat(order[1:], 2), *(order[-1],) * 2]
    indices = jax.vmap(lambda p: schedule.level_at(p, main_level, config))(
        jnp.arange(len(expected), dtype=jnp.int32)
    )
    np.testing.assert_allclose(np.asarray(levels)[indices], expected, rtol=1e-6)


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


def test_the_quietest_is_kept():
    front = attacks.Front(
        asr_levels=jnp.float32([0.9, 0.5]),
        values=jnp.zeros((2, 3)),
        norm=jnp.float32([np.inf, 1.0]),
        train_asr=jnp.float32([0.0, 0.6]),
    )
    v = jnp.ones(3)
    front = steps.keep_quietest(front, v, jnp.float32(2.0), jnp.float32(0.95))
    np.testing.assert_array_equal(front.norm, [2.0, 1.0])
    np.testing.assert_array_equal(front.values, [[1, 1, 1], [0, 0, 0]])
    front = steps.keep_quietest(front, v, jnp.float32(0.5), jnp.float32(0.8))
    np.testing.assert_array_equal(front.norm, [2.0, 0.5])
    np.testing.assert_allclose(front.train_asr, [0.95, 0.8])


@pytest.mark.parametrize(
    ("targeted", "sizes"),
    [
        # A pass has ten steps, of 10 to 100 clips.
        (False, {1: 1, 7: 7, 40: 10, 203: 20, 1000: 100, 9000: 100}),
        # A step has ten clips.
        (True, {7: 7, 40: 10, 1000: 10}),
    ],
)
def test_batch_sizes(targeted, sizes):
    for num_clips, batch_size in sizes.items():
        config = problem_of(targeted=targeted, num_clips=num_clips).config
        assert config.batch_size == batch_size


@pytest.mark.parametrize(
    "setting",
    [
        ("level_passes", 0),
        ("asr_levels", (0.5, 0.0)),
        ("asr_levels", 0.5),
        ("asr_levels", "0.5"),
        ("max_shift", -1),
        ("max_shift", 0.5),
    ],
    ids=str,
)
def test_refused_settings(setting):
    name, value = setting
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$"):
        problem_of(**{name: value})
