"""The parts of the decoupled method by their formulas: loss, step, schedule, norm."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import linear_logits, linear_problem
from uap_jax.attacks.decoupled_pass import begin_level, keep_quietest
from uap_jax.attacks.decoupled_schedule import (
    adapt_norm,
    level_at,
    levels_of,
    step_length,
    temperature_ratio,
)
from uap_jax.attacks.decoupled_state import DecoupledProblem, Leader
from uap_jax.attacks.decoupled_steps import batch_objective, max_shift, move
from uap_jax.attacks.objectives import soft_hinge

from uap_jax import attacks


def test_soft_hinge():
    margins = np.array([-30.0, -1.0, 0.0, 0.5, 40.0])
    logits = jnp.asarray(np.stack([np.zeros(5), margins], axis=1), jnp.float32)
    for targeted, classes in ((True, 0), (False, 1)):
        found = soft_hinge(
            logits,
            jnp.full(5, classes, jnp.int32),
            temperature=0.5,
            give_up=4.0,
            targeted=targeted,
        )
        scaled = margins / 0.5
        expected = 0.5 * (np.logaddexp(0, scaled) - np.logaddexp(0, scaled - 4))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_step():
    rng = np.random.default_rng(0)
    value, direction, gradient = rng.standard_normal((3, 9)).astype(np.float32)
    found_value, found_direction = move(
        jnp.asarray(value),
        jnp.asarray(direction),
        jnp.asarray(gradient * 1e-30),
        norm=jnp.float32(2.0),
        length=jnp.float32(0.1),
        momentum=jnp.float32(0.9),
        num_steps=jnp.int32(3),
    )
    gradient = np.float64(gradient)
    expected = 0.9 * direction + 0.1 * gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(found_direction, expected, rtol=1e-5)
    moved = value - 0.2 * expected / (1 - 0.9**3)
    moved *= 2 / np.linalg.norm(moved)
    np.testing.assert_allclose(found_value, moved, rtol=1e-5)


def test_schedule_and_norm():
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(
            batch_size=100,
            num_starts=3,
            max_passes=8,
            level_passes=2,
            asr_levels=(0.5, 0.7),
            final_temperature_ratio=0.3,
        ),
        targeted=True,
        num_clips=200,
    )
    places = [(jnp.int32(p), jnp.int32(b)) for p in range(12) for b in range(2)]
    lengths = [float(step_length(*place, config, 200)) for place in places]

    def cosine(highest, count):
        shares = 0.5 * (1 + np.cos(np.pi * np.arange(count) / count))
        return 0.01 + (highest - 0.01) * shares

    # Three starts have two passes each; the best goes on for two more.
    expected = np.concatenate([*[cosine(0.3, 4)] * 4, *[cosine(0.03, 4)] * 2])
    np.testing.assert_allclose(lengths, expected, rtol=1e-5)

    ratios = [float(temperature_ratio(*place, config, 200)) for place in places]
    falls = 0.5 * (1 - np.cos(np.pi * np.arange(4) / 4))
    expected = np.concatenate([np.ones(12), 0.3**falls, np.full(8, 0.3)])
    np.testing.assert_allclose(ratios, expected, rtol=1e-5)


def test_a_single_start_is_no_trial():
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(batch_size=100, num_starts=1, max_passes=2),
        targeted=True,
        num_clips=100,
    )
    places = [(jnp.int32(p), jnp.int32(0)) for p in range(2)]
    lengths = [float(step_length(*place, config, 100)) for place in places]
    np.testing.assert_allclose(lengths, [0.3, 0.155], rtol=1e-5)
    ratios = [float(temperature_ratio(*place, config, 100)) for place in places]
    np.testing.assert_allclose(ratios, [1, 0.2**0.5], rtol=1e-5)


def test_when_the_hinge_narrows():
    for targeted, ratio in ((True, 0.2), (False, 1.0)):
        config = attacks.resolve_decoupled_config(
            attacks.DecoupledConfig(), targeted=targeted, num_clips=9
        )
        assert config.final_temperature_ratio == ratio


def test_norm():

    def factor(asr, level=0.9):
        config = attacks.DecoupledConfig(norm_gain=0.2, max_norm_change=0.15)
        norm, asr = jnp.float32(1.0), jnp.float32(asr)
        found = adapt_norm(norm, asr, jnp.float32(level), config, largest=1.1)
        return float(jnp.log(found))

    change = 0.2 * (math.log(9) - math.log(0.87 / 0.13))
    assert factor(0.87) == pytest.approx(change, rel=1e-3)
    change = 0.2 * (math.log(9) - math.log(0.93 / 0.07))
    assert factor(0.93) == pytest.approx(change, rel=1e-3)
    assert factor(0.9) == pytest.approx(-0.005, rel=1e-3)
    assert factor(0.0) == pytest.approx(math.log(1.1), rel=1e-3)
    assert factor(1.0) == pytest.approx(-0.15, rel=1e-3)
    # Every clip is what is asked for, and then it gets quieter still.
    assert factor(0.999, level=1.0) == pytest.approx(math.log(1.1), rel=1e-3)
    assert factor(1.0, level=1.0) == pytest.approx(-0.005, rel=1e-3)


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
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(
            target_asr=target_asr, asr_levels=others, max_passes=3, level_passes=2
        ),
        targeted=True,
        num_clips=200,
    )
    levels, main_level = levels_of(config)
    count = 3 + 2 * len(others)
    found = [
        float(levels[level_at(jnp.int32(p), main_level, config)])
        for p in range(count + 2)
    ]
    expected = [*(order[0],) * 3, *np.repeat(order[1:], 2), *(order[-1],) * 2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


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
    norms = [jnp.inf, 2.0, 1.0] if reached else [jnp.inf] * 3
    front = attacks.Front(
        asr_levels=jnp.asarray([0.9, 0.7, 0.5]),
        values=jnp.asarray([[0.0], [2.0], [1.0]]),
        norm=jnp.asarray(norms),
        train_asr=jnp.asarray([0.0, 0.71, 0.52]),
    )
    own = Leader(
        value=jnp.asarray([7.0]),
        direction=jnp.asarray([8.0]),
        norm=jnp.float32(norm),
        asr=jnp.float32(0.4),
        objective=jnp.float32(0.0),
    )
    place, keeps = begin_level(front, own, jnp.int32(level), jnp.int32(1))
    assert bool(keeps) == keeps_norm
    if source is None:
        assert place == own
    else:
        assert float(place.value[0]) == float(front.values[source, 0])
        assert float(place.norm) == norms[source]
        assert float(place.asr) == float(front.train_asr[source])
        assert float(place.direction[0]) == (0.0 if level == 0 else 8.0)


@pytest.mark.parametrize(
    ("num_clips", "batch_size"),
    [(1, 1), (7, 7), (40, 10), (203, 20), (1000, 100), (9000, 100)],
)
def test_untargeted_a_pass_has_ten_steps(num_clips, batch_size):
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(), targeted=False, num_clips=num_clips
    )
    assert config.batch_size == batch_size


@pytest.mark.parametrize(("num_clips", "batch_size"), [(7, 7), (40, 10), (1000, 10)])
def test_towards_a_class_a_step_has_ten_clips(num_clips, batch_size):
    config = attacks.resolve_decoupled_config(
        attacks.DecoupledConfig(), targeted=True, num_clips=num_clips
    )
    assert config.batch_size == batch_size


def test_the_quietest_is_kept():
    front = attacks.Front(
        asr_levels=jnp.asarray([0.9, 0.5]),
        values=jnp.zeros((2, 3)),
        norm=jnp.asarray([jnp.inf, 1.0]),
        train_asr=jnp.asarray([0.0, 0.6]),
    )
    v = jnp.ones(3)
    found = keep_quietest(front, v, jnp.float32(2.0), jnp.float32(0.95))
    np.testing.assert_array_equal(found.norm, [2.0, 1.0])
    np.testing.assert_array_equal(found.values, [[1, 1, 1], [0, 0, 0]])
    found = keep_quietest(found, v, jnp.float32(0.5), jnp.float32(0.8))
    np.testing.assert_array_equal(found.norm, [2.0, 0.5])
    np.testing.assert_allclose(found.train_asr, [0.95, 0.8])


def test_clips_are_turned_in_a_step():
    variables, x, _ = linear_problem(num_clips=6, num_samples=40)
    shifts = np.array([[0, 1, -1], [7, -19, 20]], np.int32)
    config = attacks.DecoupledConfig(max_shift=20, space="signal")
    clips = jnp.arange(6, dtype=jnp.int32).reshape(2, 3)
    turned = np.stack([np.roll(*pair) for pair in zip(x, shifts.ravel(), strict=True)])
    found = []
    for clips_used, shift in ((x, shifts), (turned, np.zeros_like(shifts))):
        problem = DecoupledProblem(
            x=jnp.asarray(clips_used),
            clean_logits=linear_logits(variables, x),
            clean_predictions=jnp.zeros(6, jnp.int32),
            target=jnp.int32(2),
        )
        found.append(
            batch_objective(
                linear_logits,
                variables,
                problem,
                jnp.full(40, 0.01, jnp.float32),
                clips,
                jnp.ones((2, 3), jnp.float32),
                jnp.asarray(shift),
                temperature=jnp.float32(1.0),
                config=config,
                targeted=True,
            )
        )
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_how_far_clips_are_turned():
    default = attacks.DecoupledConfig()
    assert [max_shift(default, n) for n in (2, 100, 16_000, 50_999)] == [0, 2, 400, 400]
    assert max_shift(attacks.DecoupledConfig(max_shift=500), 100) == 50
    assert max_shift(attacks.DecoupledConfig(max_shift=0), 16_000) == 0
    for targeted, most in ((True, 400), (False, 0)):
        config = attacks.resolve_decoupled_config(
            default, targeted=targeted, num_clips=9
        )
        assert max_shift(config, 16_000) == most
