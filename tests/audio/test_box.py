"""Scalings to the box and tanh space, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from uap_jax.audio import box

# Spacing of float32 just below 1.
ULP = 2.0**-24


def random_waveforms(num_clips=20, num_samples=64, *, amplitude=1.0, seed=0):
    rng = np.random.default_rng(seed)
    waveforms = rng.uniform(-amplitude, amplitude, (num_clips, num_samples))
    return jnp.asarray(waveforms, jnp.float32)


def expected_box(waveform, scaling):
    a = np.asarray(waveform, np.float64)
    if scaling == "fixed":
        return np.clip((a + 1) / 2, 0, 1)
    if scaling == "peak":
        return 0.5 + 0.5 * a / np.max(np.abs(a), axis=-1, keepdims=True)
    low, high = np.min(a, axis=-1, keepdims=True), np.max(a, axis=-1, keepdims=True)
    return (a - low) / (high - low)


@pytest.mark.parametrize("scaling", box.SCALINGS)
@pytest.mark.parametrize("amplitude", [1.0, 1e-3, 1e-9])
def test_scaling_and_round_trip(scaling, amplitude):
    waveform = random_waveforms(amplitude=amplitude)
    x, box_scale = box.to_box(waveform, scaling=scaling)
    assert x.dtype == jnp.float32 and x.shape == waveform.shape
    assert np.min(x) >= 0 and np.max(x) <= 1
    np.testing.assert_allclose(x, expected_box(waveform, scaling), atol=2 * ULP)
    if scaling == "minmax":
        # Both ends are attained; the quotient may miss 1 by a bit.
        np.testing.assert_array_equal(np.min(x, axis=-1), 0.0)
        np.testing.assert_allclose(np.max(x, axis=-1), 1.0, rtol=0, atol=ULP)
    if scaling == "peak":
        ends = np.max(np.abs(2 * np.asarray(x) - 1), axis=-1)
        np.testing.assert_allclose(ends, 1.0, rtol=0, atol=2 * ULP)
    # `fixed` knows no gain, so its resolution is that of the whole range.
    resolution = 1.0 if scaling == "fixed" else amplitude
    np.testing.assert_allclose(
        box.from_box(x, box_scale), waveform, rtol=0, atol=6 * ULP * resolution
    )


@pytest.mark.parametrize("scaling", box.SCALINGS)
def test_full_scale(scaling):
    waveform = jnp.array([[-1.0, 1.0, 0.0, -1.0]], jnp.float32)
    x, box_scale = box.to_box(waveform, scaling=scaling)
    np.testing.assert_array_equal(x, [[0.0, 1.0, 0.5, 0.0]])
    np.testing.assert_array_equal(box.from_box(x, box_scale), waveform)
    silence = jnp.zeros((1, 4), jnp.float32)
    x, box_scale = box.to_box(silence, scaling=scaling)
    np.testing.assert_array_equal(x, 0.5)
    np.testing.assert_array_equal(box.from_box(x, box_scale), silence)


@pytest.mark.parametrize("scaling", ["peak", "minmax"])
def test_constant_clips_become_half(scaling):
    levels = np.linspace(-1, 1, 20, dtype=np.float32)
    waveform = jnp.asarray(np.repeat(levels[:, None], 64, axis=1))
    x, box_scale = box.to_box(waveform, scaling=scaling)
    np.testing.assert_array_equal(x, 0.5)
    np.testing.assert_allclose(
        box.from_box(x, box_scale), waveform, rtol=0, atol=2 * ULP
    )


@pytest.mark.parametrize("scaling", box.SCALINGS)
@pytest.mark.parametrize("amplitude", [1e-45, 1e-40, 2e-38, 1e-37])
def test_subnormal_amplitude(scaling, amplitude):
    waveform = jnp.array([[amplitude, -amplitude, 0.0, amplitude]], jnp.float32)
    x, box_scale = box.to_box(waveform, scaling=scaling)
    assert np.all((np.asarray(x) >= 0) & (np.asarray(x) <= 1))
    assert np.all(np.isfinite(box_scale)) and np.all(np.asarray(box_scale.scale) > 0)
    np.testing.assert_allclose(
        box.from_box(x, box_scale), waveform, rtol=0, atol=2 * amplitude
    )


def test_fixed_cuts_off_what_lies_outside():
    waveform = jnp.array([-3.0, -1.0, 0.5, 1.25], jnp.float32)
    x, _ = box.to_box(waveform, scaling="fixed")
    np.testing.assert_array_equal(x, [0.0, 0.0, 0.75, 1.0])


@pytest.mark.parametrize("scaling", ["peak", "minmax"])
def test_gain_brings_what_lies_outside_into_the_box(scaling):
    waveform = random_waveforms(amplitude=5.0)
    x, box_scale = box.to_box(waveform, scaling=scaling)
    np.testing.assert_allclose(x, expected_box(waveform, scaling), atol=2 * ULP)
    np.testing.assert_allclose(
        box.from_box(x, box_scale), waveform, rtol=0, atol=5 * 6 * ULP
    )


def test_unknown_scaling():
    with pytest.raises(ValueError, match=r"scaling: expected one of .* got 'loud'"):
        box.to_box(jnp.zeros(4, jnp.float32), scaling="loud")


def test_tanh_space_against_float64():
    x = np.linspace(0.01, 0.99, 999).astype(np.float32)
    x_tanh = box.to_tanh_space(jnp.asarray(x))
    np.testing.assert_allclose(x_tanh, reference.to_tanh_space(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        box.from_tanh_space(x_tanh),
        reference.from_tanh_space(reference.to_tanh_space(x)),
        rtol=0,
        atol=4 * ULP,
    )


def test_tanh_space_at_the_faces():
    x = jnp.array([0.0, 1.0, 0.5, 1e-8, 1 - ULP], jnp.float32)
    x_tanh = np.asarray(box.to_tanh_space(x))
    assert np.all(np.abs(x_tanh) <= 8.4)
    assert x_tanh[0] == -x_tanh[1] and x_tanh[2] == 0.0
    # float32 has 1 - 1.2e-7 for 1 - 1e-7: arctanh is 8.32 instead of 8.41.
    np.testing.assert_allclose(x_tanh[1], reference.to_tanh_space(1.0), atol=0.1)
    np.testing.assert_allclose(box.from_tanh_space(x_tanh), x, rtol=0, atol=4 * ULP)


@pytest.mark.parametrize("epsilon", [1e-7, 1e-6, 1e-3])
def test_gradient_of_tanh_space_is_finite(epsilon):
    x = jnp.array([0.0, 0.25, 0.5, 1.0], jnp.float32)

    def loss(x):
        return jnp.sum(box.from_tanh_space(box.to_tanh_space(x, epsilon=epsilon)))

    # At the faces a last bit is much of the gradient: as users compile it.
    options = {"xla_backend_optimization_level": 3}
    gradient = jax.jit(jax.grad(loss), compiler_options=options)(x)
    # dw/dx = 1 - epsilon; at the faces the tanh of float32 may round to 1.
    np.testing.assert_allclose(gradient[1:3], 1.0, rtol=2e-3)
    assert np.all((np.asarray(gradient) >= 0) & (np.asarray(gradient) <= 1.001))


def test_from_tanh_space_stays_in_the_box():
    x_tanh = jnp.array([-jnp.inf, -1e30, -20.0, 0.0, 20.0, jnp.inf], jnp.float32)
    np.testing.assert_array_equal(
        box.from_tanh_space(x_tanh), [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    )


def test_signal_of_tanh_against_float64():
    v_tanh = np.linspace(-9, 9, 201).astype(np.float32)
    signal = box.signal_of_tanh(jnp.asarray(v_tanh))
    np.testing.assert_allclose(
        signal, reference.signal_of_tanh(v_tanh), rtol=0, atol=4 * ULP
    )
    assert box.signal_of_tanh(jnp.zeros(())) == 0.5


def test_signal_of_tanh_undoes_to_tanh_space():
    x = jnp.linspace(0.0, 1.0, 101, dtype=jnp.float32)
    for epsilon in (1e-7, 1e-2):
        x_tanh = box.to_tanh_space(x, epsilon=epsilon)
        back = box.signal_of_tanh(x_tanh, epsilon=epsilon)
        np.testing.assert_allclose(back, x, rtol=0, atol=8 * ULP)


def test_perturbation_between_inverts_the_box():
    rng = np.random.default_rng(3)
    x = rng.uniform(0.05, 0.95, (5, 32)).astype(np.float32)
    v_tanh = rng.uniform(-0.5, 0.5, 32).astype(np.float32)
    x_tanh = box.to_tanh_space(jnp.asarray(x))
    w = box.from_tanh_space(x_tanh + v_tanh[None])
    found = box.perturbation_between(w, x_tanh)
    np.testing.assert_allclose(found, np.broadcast_to(v_tanh, x.shape), atol=5e-6)
    expected = reference.perturbation_between(w, x_tanh)
    np.testing.assert_allclose(found, expected, atol=2e-6)
