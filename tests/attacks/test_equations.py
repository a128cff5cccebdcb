"""The equations against float64: Eq. 2, 3, 7, 10, 11, soft hinge, DDN's direction."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from greedy_reference import cross_entropy_gradient

from uap_jax.attacks import Perturbation, apply_perturbation, perturbation_waveform
from uap_jax.attacks.batches import success_rate
from uap_jax.attacks.equations import (
    cross_entropy_ascent,
    hinge,
    is_success,
    margin,
    perturb,
    project_l2,
    project_linf,
    soft_hinge,
)

NUM_SAMPLES = 32
SPACES = ("signal", "tanh")


@functools.partial(jax.jit, static_argnames="targeted")
def hinge_and_gradient(logits, classes, confidence, *, targeted):
    def total(logits):
        values = hinge(logits, classes, confidence=confidence, targeted=targeted)
        return jnp.sum(values), values

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(logits)
    return values, gradient


@pytest.mark.parametrize("targeted", [True, False])
def test_hinge_and_gradient(targeted):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (40, 5)).astype(np.float32)
    classes = rng.integers(0, 5, 40).astype(np.int32)
    of_clip = reference.hinge_targeted if targeted else reference.hinge_untargeted
    for confidence in (0.0, 2.0, 40.0):
        pairs = [
            of_clip(f, c, confidence)
            for f, c in zip(np.float64(logits), classes, strict=True)
        ]
        expected, expected_gradient = map(np.array, zip(*pairs, strict=True))
        values, gradient = hinge_and_gradient(
            logits, classes, confidence, targeted=targeted
        )
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(gradient, expected_gradient)
        assert np.min(values) >= -confidence
        assert np.any(np.asarray(values) == -confidence) == (confidence < 40)


def test_hinge_by_hand():
    logits = np.float32([[1, 5, 3]] * 4)
    classes = np.int32([0, 1, 2, 1])
    targeted, _ = hinge_and_gradient(logits, classes, 10.0, targeted=True)
    np.testing.assert_array_equal(targeted, [4.0, -2.0, 2.0, -2.0])
    untargeted, _ = hinge_and_gradient(logits, classes, 3.0, targeted=False)
    np.testing.assert_array_equal(untargeted, [-3.0, 2.0, -2.0, 2.0])
    margins = margin(jnp.asarray(logits), jnp.asarray(classes), targeted=False)
    np.testing.assert_array_equal(margins, [-4.0, 2.0, -2.0, 2.0])


def test_hinge_at_ties():
    tie, zero = np.float32([[2, 2, -1]]), np.int32([0])
    for targeted, expected in ((True, [-1, 1, 0]), (False, [1, -1, 0])):
        value, gradient = hinge_and_gradient(tie, zero, 1.0, targeted=targeted)
        assert value == 0.0
        np.testing.assert_array_equal(gradient, [expected])
    # Of equal rivals any subgradient will do: it points from the class to the rivals.
    _, gradient = hinge_and_gradient(np.float32([[0, 2, 2]]), zero, 1.0, targeted=True)
    of_class, *of_rivals = np.asarray(gradient)[0]
    assert of_class == -1 and sum(of_rivals) == 1 and min(of_rivals) >= 0


def test_soft_hinge():
    margins = np.array([-30.0, -1.0, 0.0, 0.5, 40.0])
    logits = jnp.asarray(np.stack([np.zeros(5), margins], axis=1), jnp.float32)
    scaled = margins / 0.5
    expected = 0.5 * (np.logaddexp(0, scaled) - np.logaddexp(0, scaled - 4))
    for targeted, one_class in ((True, 0), (False, 1)):
        classes = jnp.full(5, one_class, jnp.int32)
        values = soft_hinge(
            logits, classes, temperature=0.5, give_up=4.0, targeted=targeted
        )
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_is_success():
    logits = jnp.asarray([[0, 1], [1, 0], [0, np.nan], [-np.inf, 1]], jnp.float32)
    clean = jnp.zeros(4, jnp.int32)
    for target, expected in ((None, 0), (1, 0), (0, 1)):
        success = is_success(
            logits, clean, None if target is None else jnp.int32(target)
        )
        # Logits that are not finite are never a success.
        np.testing.assert_array_equal(success, np.arange(4) == expected)


def test_rates_are_rounded_once():
    # 41 times the float32 nearest to 1 / 41 is below 1.
    assert np.float32(41) * (1 / np.float32(41)) < 1
    for num_clips in (3, 41, 47, 100):
        rates = jax.jit(functools.partial(success_rate, num_clips=num_clips))
        for num_fooled in (num_clips, 4 * num_clips // 5):
            expected = np.float32(num_fooled) / np.float32(num_clips)
            assert rates(np.int32(num_fooled)) == expected


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ascent_is_the_direction_of_the_cross_entropy(scale):
    rng = np.random.default_rng(2)
    logits = np.float32(scale * rng.standard_normal((40, 5)))
    classes = rng.integers(0, 5, 40).astype(np.int32)
    ascent = np.asarray(cross_entropy_ascent(jnp.asarray(logits), jnp.asarray(classes)))
    np.testing.assert_array_equal(ascent[np.arange(40), classes], -1.0)
    for row, of_class, direction in zip(
        np.float64(logits), classes, ascent, strict=True
    ):
        gradient = cross_entropy_gradient(row, of_class)
        expected = gradient / -gradient[of_class]
        np.testing.assert_allclose(direction, expected, rtol=1e-5, atol=1e-7)


def test_ascent_where_float32_has_no_softmax_left():
    logits = jnp.array([[1e4, 0, -1e4], [3e38, 0, 1], [0, 0, 0]], jnp.float32)
    ascent = cross_entropy_ascent(logits, jnp.array([0, 0, 2], jnp.int32))
    expected = [[-1, 1, 0], [-1, 1 / (1 + np.e), np.e / (1 + np.e)], [0.5, 0.5, -1]]
    np.testing.assert_allclose(ascent, expected, rtol=1e-6)


@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.3, 1e3])
def test_projections(radius):
    normal = np.random.default_rng(6).standard_normal(64)
    for scale in (0.0, 1e-6, 1.0, 1e6):
        v = jnp.asarray(scale * normal, jnp.float32)
        ball = project_l2(v, radius=radius)
        assert np.linalg.norm(np.float64(ball)) <= radius * (1 + 1e-5)
        np.testing.assert_allclose(ball, reference.project_l2(v, radius), rtol=1e-5)
        again = project_l2(ball, radius=radius)
        np.testing.assert_allclose(again, ball, rtol=1e-6)
        if np.linalg.norm(v) <= radius:
            np.testing.assert_array_equal(ball, v)
        if radius:  # Optax gives NaN for a radius of 0.
            by_optax = optax.projections.projection_l2_ball(v, radius)
            np.testing.assert_allclose(ball, by_optax, rtol=1e-5)
        box = project_linf(v, radius=radius)
        np.testing.assert_allclose(box, reference.project_linf(v, radius), rtol=1e-6)
        by_optax = optax.projections.projection_box(v, -radius, radius)
        np.testing.assert_array_equal(box, by_optax)


def clips():
    x = np.random.default_rng(8).uniform(0, 1, (8, NUM_SAMPLES))
    x[0], x[1], x[2] = 0, 1, 0.5
    return jnp.asarray(x, jnp.float32)


def perturbation(scale, space, **fields):
    normal = np.random.default_rng(9).standard_normal(NUM_SAMPLES)
    return Perturbation(jnp.asarray(scale * normal, jnp.float32), space, **fields)


@pytest.mark.parametrize("space", SPACES)
def test_perturbed_clips_against_float64(space):
    x = clips()
    for scale in (0.0, 1e-3, 0.3, 100.0, 1e30):
        v = perturbation(scale, space)
        perturbed = np.asarray(apply_perturbation(v, x))
        assert perturbed.dtype == np.float32
        assert np.all((perturbed >= 0) & (perturbed <= 1))
        if scale > 1:
            continue
        expected = np.float64(x) + np.float64(v.value)
        if space == "tanh":
            expected = reference.to_tanh_space(x) + np.float64(v.value)
            expected = reference.from_tanh_space(expected)
        expected = np.clip(expected, 0, 1)
        np.testing.assert_allclose(perturbed, expected, rtol=0, atol=5e-7)


def test_epsilon_is_that_of_the_perturbation():
    x = clips()
    perturbed = apply_perturbation(perturbation(0.0, "tanh", epsilon=0.1), x)
    expected = 0.5 + 0.9 * (np.float64(x) - 0.5)
    np.testing.assert_allclose(perturbed, expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize("space", SPACES)
def test_any_number_of_axes(space):
    x, v = clips(), perturbation(0.3, space)
    perturbed = apply_perturbation(v, x)
    for shape in ((2, 4, NUM_SAMPLES), (2, 2, 2, NUM_SAMPLES)):
        nested = apply_perturbation(v, x.reshape(shape))
        np.testing.assert_allclose(
            nested.reshape(x.shape), perturbed, rtol=0, atol=1e-7
        )
    one = apply_perturbation(v, x[3])
    np.testing.assert_allclose(one, perturbed[3], rtol=0, atol=1e-7)


def test_refuses_other_lengths_and_spaces():
    x = clips()
    with pytest.raises(ValueError, match=r"x: expected clips of 32 samples, .* 31"):
        apply_perturbation(perturbation(1.0, "tanh"), x[:, 1:])
    with pytest.raises(ValueError, match=r"space: expected one of .* got 'fourier'"):
        apply_perturbation(perturbation(1.0, "fourier"), x)


def test_waveform():
    for space in SPACES:
        v = perturbation(1.0, space)
        expected = np.float64(v.value)
        expected = (
            np.tanh(expected) if space == "tanh" else np.clip(2 * expected, -1, 1)
        )
        waveform = perturbation_waveform(v)
        np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-6)
        # What a clip at rest becomes with the scaling `fixed`, where the box is half as
        # wide as the waveform.
        rest = np.full(NUM_SAMPLES, 0.5, np.float32)
        heard = 2 * np.asarray(apply_perturbation(v, rest)) - 1
        np.testing.assert_allclose(heard, waveform, rtol=0, atol=5e-7)


def test_perturbation_is_a_pytree_with_static_fields():
    v = perturbation(1.0, "tanh", scaling="peak", sample_rate_hz=16000)
    (value,), structure = jax.tree.flatten(v)
    back = jax.tree.unflatten(structure, [np.float32(2) * value])
    fields = (back.space, back.scaling, back.sample_rate_hz, back.epsilon)
    assert fields == ("tanh", "peak", 16000, 1e-7)
    # Another space is another program, another value is not.
    apply = jax.jit(apply_perturbation)
    for other, num_programs in ((v, 1), (back, 1), (perturbation(1.0, "signal"), 2)):
        apply(other, clips())
        assert apply._cache_size() == num_programs


def test_vmap_over_perturbations():
    x, values = clips(), jnp.stack([perturbation(s, "tanh").value for s in (0.1, 0.2)])
    perturbed = jax.vmap(functools.partial(perturb, space="tanh"), in_axes=(None, 0))(
        x, values
    )
    for value, of_value in zip(values, perturbed, strict=True):
        expected = perturb(x, value, space="tanh")
        np.testing.assert_allclose(of_value, expected, rtol=0, atol=2e-7)
