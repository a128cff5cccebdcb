"""TensorFlow's micro front end: its formula, its integers, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.models.frontends import MicroConfig, micro_log_mel

CONFIG = MicroConfig(num_bands=10, low_hz=60.0, high_hz=4000.0)
NUM_SAMPLES = 1_200


@pytest.fixture(scope="module")
def sounds():
    rng = np.random.default_rng(0)
    time_s = np.arange(NUM_SAMPLES) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 700 * time_s)
    noise = 0.2 * rng.standard_normal(NUM_SAMPLES)
    # Bands 100 dB below the loudest are rounding noise in float32.
    return np.stack([noise, 0.02 * noise, tone + noise]).astype(np.float32)


def by_formula(waveform, config):
    """In float64, sums in loops, as the C code has them."""
    size, bin_hz = config.frame_samples, 16_000 / 512
    window = 0.5 - 0.5 * np.cos(2 * np.pi / size * (np.arange(size) + 0.5))

    def mel(hz):
        return 1127 * np.log(1 + hz / 700)

    step = (mel(config.high_hz) - mel(config.low_hz)) / (config.num_bands + 1)
    frames = []
    for start in range(0, len(waveform) - size + 1, config.hop_samples):
        frame = 32768 * np.float64(waveform[start : start + size]) * window
        energy = np.abs(np.fft.rfft(frame, 512)) ** 2
        # Band b falls to the right of centre b - 1 and rises to that of b.
        bands = np.zeros(config.num_bands + 2)
        for f in range(int(1.5 + config.low_hz / bin_hz), 257):
            position = (mel(f * bin_hz) - mel(config.low_hz)) / step
            below = int(np.floor(position))
            if 0 <= below <= config.num_bands:
                bands[below] += (1 - (position - below)) * energy[f]
                bands[below + 1] += (position - below) * energy[f]
        frames.append(32 * np.log(np.maximum(bands[1:-1], 1)))
    return np.array(frames)


@pytest.mark.parametrize("config", [CONFIG, MicroConfig(hop_samples=160)])
def test_formula(config, sounds):
    got = jax.jit(micro_log_mel, static_argnums=1)(jnp.asarray(sounds), config)
    expected = np.stack([by_formula(sound, config) for sound in sounds])
    # Whole steps are what the original gives.
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_gradient_in_float64(sounds):
    with jax.enable_x64(True):
        x = jnp.asarray(sounds, jnp.float64)
        rng = np.random.default_rng(1)
        weights, direction = rng.standard_normal(10), rng.standard_normal(x.shape)

        def value(x):
            return jnp.sum(micro_log_mel(x, CONFIG) @ weights)

        value = jax.jit(value)
        step = 1e-7 * direction
        difference = float(value(x + step) - value(x - step)) / 2e-7
        derivative = float(np.vdot(jax.grad(value)(x), direction))
    assert derivative == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gradient_is_finite_at_silence_and_full_scale(level):
    x = jnp.full((1, NUM_SAMPLES), level)
    value = jax.jit(lambda x: jnp.sum(micro_log_mel(x, CONFIG)))
    assert np.all(np.isfinite(jax.grad(value)(x)))
    if level == 0.0:
        assert value(x) == 0.0
