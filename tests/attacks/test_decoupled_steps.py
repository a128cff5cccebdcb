"""The decoupled method by its formulas: step, shifts, schedule, norm, settings."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import linear_logits, linear_problem

from uap_jax import attacks
from uap_jax.attacks.decoupled import schedule, steps
from uap_jax.attacks.loop import resolve_config
from uap_jax.attacks.types import At, Problem
from uap_jax.audio.box import to_tanh_space
from uap_jax.audio.channels import moment


def problem_of(
    *, targeted=True, num_clips=200, num_samples=2, channel=None, **settings
):
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
        method=attacks.METHODS["decoupled"],
        num_sound_samples=num_samples,
        channel=channel,
    )


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
        )[:2]

    def outcome(x, shifts):
        problem = problem_of(num_clips=6, num_samples=40, max_shift=20)
        problem = dataclasses.replace(problem, x=to_tanh_space(jnp.asarray(x)))
        return objective_of(problem, shifts)

    outcomes = outcome(x, shifts), outcome(shifted, np.zeros_like(shifts))
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
        (16_000, {"channel": moment()}, 0),
        (16_000, {"channel": moment(), "max_shift": 9}, 9),
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
    ("max_passes", "expected"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 2)), (50, (4, 2))]
)
def test_never_more_starts_than_passes(max_passes, expected):
    problem = problem_of(max_passes=max_passes)
    through = problem_of(max_passes=max_passes, channel=moment())
    assert schedule.num_starts(through) == 1
    assert (schedule.num_starts(problem), problem.config.start_passes) == expected


@pytest.mark.parametrize(
    "setting",
    [
        ("level_passes", 0),
        ("level_passes", 10**11),
        ("asr_levels", (0.5, 1e-50)),
        ("max_shift", 10**11),
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
