"""Random changes to clips: bounds, identities and how often each happens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.audio.box import SCALINGS
from uap_jax.training.augmentation import (
    Augmentation,
    augment,
    coloured_noise,
    stretch,
)

NUM_CLIPS, NUM_SAMPLES = 400, 600
NOISE = Augmentation(noise_share=0.6, min_snr_db=0.0, max_snr_db=40.0)
NOTHING = Augmentation(
    max_shift_s=0.0,
    max_speed_change=0.0,
    max_gain_db=0.0,
    background_share=0.0,
    noise_share=0.0,
)


@functools.partial(jax.jit, static_argnames=("scaling", "config"))
def run(waveform, background, key, *, strength=1.0, scaling="fixed", config=NOISE):
    return augment(
        waveform,
        background,
        key,
        strength=strength,
        scaling=scaling,
        sample_rate_hz=1000,
        config=config,
    )


@pytest.fixture(scope="module")
def clips() -> jax.Array:
    rng = np.random.default_rng(0)
    level = 10 ** rng.uniform(-3, 0, (NUM_CLIPS, 1))
    return jnp.asarray(
        level * rng.uniform(-1, 1, (NUM_CLIPS, NUM_SAMPLES)), jnp.float32
    )


@pytest.mark.parametrize("scaling", SCALINGS)
def test_result_stays_in_the_box(clips, key, scaling):
    silent = clips.at[::2].set(0.0)
    x = run(silent, clips[::-1], key, scaling=scaling)
    assert x.shape == clips.shape
    assert x.dtype == jnp.float32
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert np.array_equal(x, run(silent, clips[::-1], key, scaling=scaling))
    assert not np.array_equal(
        x, run(silent, clips[::-1], jax.random.key(1), scaling=scaling)
    )
    # Without sound and background there is nothing that noise is measured by.
    quiet = run(silent, jnp.zeros_like(clips), key, scaling=scaling)[::2]
    np.testing.assert_allclose(quiet, 0.5, atol=1e-6)


def test_no_strength_and_no_shift_is_scaling_alone(clips, key):
    config = dataclasses.replace(NOISE, max_shift_s=0.0)
    x = run(clips, clips, key, strength=0.0, config=config)
    np.testing.assert_allclose(x, 0.5 * (clips + 1), atol=1e-6)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_noise_has_its_share_and_levels(strength, key):
    config = dataclasses.replace(
        NOTHING, noise_share=0.6, min_snr_db=10.0, max_snr_db=40.0
    )
    tone = 0.2 * np.sin(np.arange(NUM_SAMPLES) * np.pi / 5)
    waveform = jnp.asarray(np.tile(tone, (NUM_CLIPS, 1)), jnp.float32)
    x = run(waveform, waveform, key, strength=strength, config=config)
    noise = np.asarray(x, np.float64) - 0.5 * (tone + 1)
    level = np.sqrt(np.mean(noise**2, axis=1))
    is_noisy = level > 1e-5
    assert np.mean(is_noisy) == pytest.approx(0.6 * strength, abs=0.08)
    snr_db = 20 * np.log10(np.std(0.5 * tone) / level[is_noisy])
    assert 9 < snr_db.min() < 12
    assert 38 < snr_db.max() < 41
    assert np.mean(snr_db) == pytest.approx(25, abs=3)


def test_background_has_its_share_and_volumes(key):
    background = jnp.ones((NUM_CLIPS, NUM_SAMPLES))
    config = dataclasses.replace(
        NOTHING, background_share=0.5, max_background_volume=0.3
    )
    x = run(jnp.zeros_like(background), background, key, config=config)
    volume = np.asarray(2 * x[:, 0] - 1)
    assert np.mean(volume > 0) == pytest.approx(0.5, abs=0.1)
    assert volume.max() == pytest.approx(0.3, abs=0.02)
    assert np.median(volume[volume > 0]) == pytest.approx(0.15, abs=0.04)


def test_gain_goes_either_way_and_is_cut_off(key):
    config = dataclasses.replace(NOTHING, max_gain_db=20.0)
    waveform = jnp.full((NUM_CLIPS, NUM_SAMPLES), 0.5)
    x = run(waveform, jnp.zeros_like(waveform), key, config=config)
    gain = np.asarray(2 * x[:, 0] - 1) / 0.5
    assert 0.1 <= gain.min() < 0.15
    assert gain.max() == 2
    assert np.mean(gain < 1) == pytest.approx(0.5, abs=0.1)


def test_shift_is_in_seconds_and_goes_either_way(key):
    config = dataclasses.replace(NOTHING, max_shift_s=0.1)
    click = jnp.zeros((NUM_CLIPS, NUM_SAMPLES)).at[:, 300].set(1.0)
    x = run(click, jnp.zeros_like(click), key, config=config)
    shift = np.argmax(np.asarray(x), axis=1) - 300
    assert -100 <= shift.min() < -90
    assert 90 < shift.max() <= 100


def stretched(waveform, *, speed: float, shift: float) -> np.ndarray:
    size = (waveform.shape[0], 1)
    y = jax.jit(stretch)(
        waveform, speed=jnp.full(size, speed), shift=jnp.full(size, shift)
    )
    return np.asarray(y)


@pytest.mark.parametrize("num_samples", [500, 501])
def test_speed_one_without_shift_changes_nothing(clips, num_samples):
    waveform = clips[:4, :num_samples]
    np.testing.assert_allclose(
        stretched(waveform, speed=1.0, shift=0.0), waveform, atol=1e-7
    )


@pytest.mark.parametrize("shift", [-501, -7, 1, 250])
def test_whole_shifts_move_samples_and_fill_with_silence(clips, shift):
    waveform = np.asarray(clips[:4, :500])
    expected = np.zeros_like(waveform)
    if 0 < shift < 500:
        expected[:, shift:] = waveform[:, :-shift]
    elif -500 < shift < 0:
        expected[:, :shift] = waveform[:, -shift:]
    y = stretched(jnp.asarray(waveform), speed=1.0, shift=float(shift))
    np.testing.assert_allclose(y, expected, atol=1e-7)


def test_half_shifts_interpolate(clips):
    waveform = np.asarray(clips[:4])
    y = stretched(clips[:4], speed=1.0, shift=0.5)
    middle = 0.5 * (waveform[:, 1:] + waveform[:, :-1])
    np.testing.assert_allclose(y[:, 1:], middle, atol=1e-6)
    assert not y[:, 0].any()


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_is_about_the_middle_of_the_clip(speed):
    time = np.linspace(-1, 1, NUM_SAMPLES)
    ramp = jnp.asarray(0.5 * time[None], jnp.float32)
    expected = np.where(np.abs(time * speed) <= 1, 0.5 * time * speed, 0.0)
    y = stretched(ramp, speed=speed, shift=0.0)[0]
    inner = np.abs(np.abs(time * speed) - 1) > 0.01
    np.testing.assert_allclose(y[inner], expected[inner], atol=1e-5)


def test_coloured_noise_has_rms_one_and_many_colours(key):
    noise = np.asarray(jax.jit(coloured_noise, static_argnums=1)(key, (400, 4000)))
    np.testing.assert_allclose(np.sqrt(np.mean(noise**2, axis=1)), 1, atol=0.1)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, abs=0.005)
    # Correlation of neighbours is tilt / (1 + tilt^2), within +-0.5; white: 0.
    neighbours = np.mean(noise[:, 1:] * noise[:, :-1], axis=1)
    assert neighbours.min() < -0.45
    assert neighbours.max() > 0.45
    assert np.mean(np.abs(neighbours) < 0.05) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_share": 1.1},
        {"background_share": -0.1},
        {"max_shift_s": -1.0},
        {"max_shift_s": 1e50},
        {"max_snr_db": float("nan")},
        {"min_snr_db": 20.0, "max_snr_db": 10.0},
    ],
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected"):
        Augmentation(**settings)
