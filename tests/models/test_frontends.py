"""Front ends against float64 forms of their formulas and against their originals."""

import functools

import frontend_forms as forms
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from uap_jax.models import frontends

RATE = 16_000
N = 4_123


def clips():
    """Silence, full scale, a tone in noise, noise, half a clip, an offset, quiet."""
    rng = np.random.default_rng(0)
    time = np.arange(N) / RATE
    noise = rng.uniform(-1, 1, N)
    square = np.sign(np.sin(2 * np.pi * 100 * time) + 1e-9)
    # Bands 100 dB below the loudest are rounding noise in float32.
    tone = 0.5 * np.sin(2 * np.pi * 440 * time) + 0.1 * noise
    half = np.where(time < 0.1, 0.3 * noise, 0)
    sounds = [np.zeros(N), square, tone, noise, half, 0.4 + 0.1 * noise, 1e-3 * noise]
    return np.stack(sounds).astype(np.float32)


@functools.cache
def whisper_bank():
    return librosa.filters.mel(
        sr=RATE, n_fft=400, n_mels=80, fmax=8000, dtype=np.float64
    )


POVEY = frontends.KaldiConfig(num_mels=40, scale=32768.0)

# What is tested, and its formula.
FRONT_ENDS = {
    "wav2vec2": (frontends.zero_mean_unit_variance, forms.wav2vec2),
    "whisper": (
        functools.partial(frontends.whisper_log_mel, num_samples=8_000),
        lambda x: forms.whisper(x, whisper_bank(), num_samples=8_000),
    ),
    "ast": (
        functools.partial(frontends.ast_fbank, num_frames=40),
        lambda x: forms.ast(x, num_frames=40),
    ),
    "kaldi_fbank": (
        functools.partial(frontends.kaldi_fbank, config=POVEY),
        lambda x: forms.kaldi_fbank(x, rate=RATE, num_mels=40, scale=32768.0),
    ),
}


@functools.cache
def compiled(name):
    """Features, and the gradient of a random projection of them, in one program."""
    front_end = FRONT_ENDS[name][0]

    @jax.jit
    def run(x):
        features, pull = jax.vjp(front_end, x)
        direction = jax.random.normal(jax.random.key(1), features.shape, x.dtype)
        return features, pull(direction)[0]

    return run


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


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_eager_and_single_clips(name):
    front_end = FRONT_ENDS[name][0]
    x = clips()
    features = compiled(name)(x)[0]
    np.testing.assert_allclose(front_end(x), features, rtol=1e-5, atol=2e-5)
    single = jax.vmap(lambda clip: front_end(clip[None])[0])(x)
    np.testing.assert_allclose(single, features, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_directional_derivative(name):
    """Against central differences, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(clips()[2:5], jnp.float64)
        assert compiled(name)(x.astype(jnp.float32))[0].dtype == jnp.float32
        run = compiled(name)
        features, gradient = run(x)
        direction = jax.random.normal(jax.random.key(1), features.shape, x.dtype)
        step = 1e-6 * jax.random.normal(jax.random.key(2), x.shape, x.dtype)
        change = (run(x + step)[0] - run(x - step)[0]) * direction
        change = jnp.sum(change.reshape(len(x), -1), axis=1)
        expected = 2 * jnp.sum(gradient * step, axis=1)
        np.testing.assert_allclose(change, expected, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_against_transformers():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    x = clips()
    originals = {
        "wav2vec2": transformers.Wav2Vec2FeatureExtractor(),
        "whisper": transformers.WhisperFeatureExtractor(),
        "ast": transformers.ASTFeatureExtractor(),
    }
    for name, extractor in originals.items():
        outputs = extractor(list(x), sampling_rate=RATE)
        expected = np.stack(next(iter(outputs.values())))
        front_end = FRONT_ENDS[name][0]
        if isinstance(front_end, functools.partial):
            front_end = front_end.func
        np.testing.assert_allclose(front_end(x), expected, atol=1e-4)


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
