"""Sound levels against float64, their gradients and their values for silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from uap_jax.audio import levels


def random_pair(num_clips=6, num_samples=128, *, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (num_clips, num_samples)).astype(np.float32)
    delta = rng.normal(0.01, 0.03, (num_clips, num_samples)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(delta)


def test_levels_against_float64():
    x, delta = random_pair()
    pairs = list(zip(np.float64(x), np.float64(delta), strict=True))
    expected = {
        "snr_db": [reference.snr_db(*pair) for pair in pairs],
        "snr_ac_db": [reference.snr_db(a - a.mean(), d - d.mean()) for a, d in pairs],
        "relative_loudness_db": [reference.relative_loudness_db(*p) for p in pairs],
    }
    for name, values in expected.items():
        found = getattr(levels, name)(x, delta)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(
        levels.spl_db(delta), [reference.spl_db(d) for d in delta], atol=1e-4
    )
    np.testing.assert_allclose(
        levels.rms(delta), [reference.rms(d) for d in delta], rtol=1e-6
    )


@pytest.mark.parametrize("amplitude", [1e-8, 1e-3, 1.0, 1e5])
def test_ten_times_the_amplitude_is_20_db(amplitude):
    v = amplitude * jax.random.normal(jax.random.key(1), (64,))
    np.testing.assert_allclose(
        levels.spl_db(10 * v), levels.spl_db(v) + 20, rtol=0, atol=1e-4
    )


def test_full_scale_is_0_db():
    square_wave = jnp.tile(jnp.array([1.0, -1.0], jnp.float32), 16)
    assert levels.spl_db(square_wave) == 0.0


@pytest.mark.parametrize("amplitude", [1e-8, 1e-3, 1.0])
def test_gradient_of_spl(amplitude):
    v = amplitude * jax.random.normal(jax.random.key(2), (64,))
    np.testing.assert_allclose(
        jax.grad(levels.spl_db)(v), reference.spl_db_gradient(v), rtol=1e-5
    )


@pytest.mark.parametrize("amplitude", [0.0, 1e-45, 1e-30, 1e-11])
def test_spl_of_silence(amplitude):
    v = jnp.full(16, amplitude, jnp.float32)
    level, gradient = jax.value_and_grad(levels.spl_db)(v)
    assert level == levels.SILENCE_DB
    np.testing.assert_array_equal(gradient, 0.0)


def test_spl_is_continuous_at_the_floor():
    v = jnp.full(16, 1.01e-10, jnp.float32)
    np.testing.assert_allclose(levels.spl_db(v), levels.SILENCE_DB, atol=0.1)


@pytest.mark.parametrize(
    ("measure", "without_delta"),
    [
        (levels.snr_db, np.inf),
        (levels.snr_ac_db, np.inf),
        (levels.relative_loudness_db, -np.inf),
    ],
)
def test_silent_recording_or_perturbation(measure, without_delta):
    x, delta = random_pair(1)
    silence = jnp.zeros_like(x)
    np.testing.assert_array_equal(measure(x, silence), [without_delta])
    np.testing.assert_array_equal(measure(silence, delta), [np.nan])
    np.testing.assert_array_equal(measure(silence, silence), [np.nan])


@pytest.mark.parametrize("level", [0.1, 0.5, 1 / 3, 0.7000001])
def test_constant_clip_is_silent_without_its_mean(level):
    _, delta = random_pair(1, num_samples=1001)
    x = jnp.full_like(delta, level)
    assert np.isnan(levels.snr_ac_db(x, delta)[0])
    assert np.isfinite(levels.snr_db(x, delta)[0])


def test_constant_perturbation_counts_as_none_without_its_mean():
    x, _ = random_pair(1, num_samples=1001)
    assert levels.snr_ac_db(x, jnp.full_like(x, 0.1))[0] == np.inf


def test_snr_counts_the_resting_level():
    noise = 0.01 * np.random.default_rng(4).standard_normal(4096)
    quiet = jnp.asarray(0.5 + noise, jnp.float32)[None]
    delta = jnp.asarray(np.roll(noise, 1), jnp.float32)[None]
    np.testing.assert_allclose(levels.snr_db(quiet, delta), 34.0, atol=0.3)
    np.testing.assert_allclose(levels.snr_ac_db(quiet, delta), 0.0, atol=0.05)


def test_relative_loudness_takes_negative_peaks():
    x = jnp.array([[0.1, -0.5, 0.2]], jnp.float32)
    delta = jnp.array([[0.01, 0.0, -0.05]], jnp.float32)
    np.testing.assert_allclose(levels.relative_loudness_db(x, delta), -20, atol=1e-4)
