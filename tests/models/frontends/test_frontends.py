"""Front ends against float64 forms of their formulas, and their gradients."""

import dataclasses
import functools

import frontend_forms as forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from front_ends import FRONT_ENDS, N, clips, compiled, weights, whisper_bank

from uap_jax.models import frontends


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_formula(name):
    x = clips()
    features, gradient = compiled(name)(x)
    expected = np.stack([FRONT_ENDS[name][1](clip) for clip in x])
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-4)
    # At silence and full scale too.
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1:]).max(axis=1).all()


QUICK = ("tf_op_mfcc", "whisper")
ALL = [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in FRONT_ENDS]


@pytest.mark.parametrize("name", ALL)
def test_eager_and_single_clips(name):
    front_end = FRONT_ENDS[name][0]
    x = clips()
    features = compiled(name)(x)[0]
    np.testing.assert_allclose(front_end(x), features, rtol=1e-5, atol=2e-5)
    single = jax.vmap(lambda clip: front_end(clip[None])[0])(x)
    np.testing.assert_allclose(single, features, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_types(name):
    """That of the waveform, whatever JAX's default is."""
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            clip = jax.ShapeDtypeStruct((2, N), dtype)
            assert jax.eval_shape(FRONT_ENDS[name][0], clip).dtype == dtype


@pytest.mark.parametrize("name", ALL)
def test_directional_derivative(name):
    """Against central differences, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(clips()[2:5], jnp.float64)
        run = compiled(name)
        features, gradient = run(x)
        rng = np.random.default_rng(1)
        step = 1e-6 * rng.standard_normal(x.shape)
        ahead, back = np.asarray(run(x + step)[0]), np.asarray(run(x - step)[0])
        change = (ahead - back) * weights(features.shape)
        change = np.sum(change.reshape(len(x), -1), axis=1)
        expected = 2 * np.sum(gradient * step, axis=1)
        np.testing.assert_allclose(change, expected, rtol=1e-3)


def test_refused_settings():
    with pytest.raises(ValueError, match="num_mfcc: expected at most num_mels, 23"):
        frontends.kaldi_mfcc(clips(), num_mfcc=24)
    with pytest.raises(ValueError, match="high <= 8000, got 20 and 9000"):
        frontends.kaldi_fbank(clips(), frontends.KaldiConfig(high_hz=9_000.0))


def test_gain_control_needs_noise_reduction():
    config = frontends.MicroConfig(gain_control=True)
    with pytest.raises(ValueError, match="noise_reduction"):
        frontends.micro_log_mel(clips(), config)


def test_gradient_through_rounding():
    """That of the front end without it, up to what rounding changes in its values."""
    x = 0.3 * clips()[2:4]
    config = frontends.MicroConfig()

    @functools.partial(jax.jit, static_argnames="config")
    def gradient(x, config):
        return jax.grad(lambda x: jnp.sum(frontends.micro_log_mel(x, config)))(x)

    with_it = gradient(x, dataclasses.replace(config, rounding=True))
    without = gradient(x, config)
    cosine = np.sum(with_it * without) / np.linalg.norm(with_it)
    assert cosine > 0.99 * np.linalg.norm(without)


def test_whisper_of_a_longer_clip():
    x = clips()
    cut = frontends.whisper_log_mel(x, num_samples=4_000)
    expected = [forms.whisper(clip, whisper_bank(), num_samples=4_000) for clip in x]
    np.testing.assert_allclose(cut, np.stack(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((1, 800), np.int16), "float32 or float64"),
        (np.zeros((1, 800), np.float16), "float32 or float64"),
        (np.zeros(800, np.float32), r"\[B, N\]"),
        (np.zeros((1, 399), np.float32), "at least 400 samples"),
    ],
)
def test_refused_waveforms(waveform, message):
    with pytest.raises(ValueError, match=message):
        frontends.ast_fbank(waveform)
