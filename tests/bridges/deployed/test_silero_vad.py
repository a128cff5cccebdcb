"""Silero VAD in JAX against its official runtimes."""

import functools
import importlib.util
import os
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.bridges.deployed import silero_vad
from uap_jax.data.dataset import to_waveform
from uap_jax.data.decoding import Decoding
from uap_jax.data.speech_commands import load_speech_commands
from uap_jax.errors import UsageError

RATE_HZ = silero_vad.SAMPLE_RATE_HZ
IS_INSTALLED = importlib.util.find_spec("silero_vad") and importlib.util.find_spec(
    "onnx"
)
needs_weights = pytest.mark.skipif(not IS_INSTALLED, reason="needs silero-vad and onnx")


@functools.cache
def weights():
    return silero_vad.read_weights()


@functools.cache
def chunk_logits():
    return jax.jit(silero_vad.chunk_logits)


def official(waveform, *, onnx):
    """The probabilities of the package, chunk after chunk."""
    torch = pytest.importorskip("torch")
    if onnx:
        pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("silero_vad")
        model = package.load_silero_vad(onnx=onnx)
    with torch.no_grad():
        return model.audio_forward(torch.from_numpy(waveform), RATE_HZ).numpy()


def voices(num_clips, num_samples=RATE_HZ, *, seed=0):
    """Buzzes through two resonances, on and off: some chunks pass for speech."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / RATE_HZ
    clips = []
    for _ in range(num_clips):
        pitch_hz = rng.uniform(90, 250)
        harmonics = np.arange(1, 25)[:, None]
        formants = rng.uniform(300, 3000, 2)
        gains = sum(
            np.exp(-(((harmonics * pitch_hz - f) / 200) ** 2)) for f in formants
        )
        glide = 1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 4) * time_s)
        phase = 2 * np.pi * pitch_hz * np.cumsum(glide) / RATE_HZ
        buzz = np.sum(gains * np.sin(harmonics * phase), axis=0)
        envelope = np.clip(np.sin(2 * np.pi * rng.uniform(1, 3) * time_s), 0, None)
        level = 10 ** rng.uniform(-2.5, -0.3)
        clips.append(level * envelope * buzz / np.max(np.abs(buzz)))
    return np.stack(clips).astype(np.float32)


def recordings():
    folder = os.environ.get("UAP_JAX_SPEECH_COMMANDS_DIR")
    if folder is None:
        pytest.skip("needs the recordings of Speech Commands")
    return folder


@pytest.mark.parametrize(("num_steps", "stride"), [(4, 1), (4, 2), (2, 2), (1, 1)])
def test_convolution_as_a_matrix(num_steps, stride):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((5, 3, 3)).astype(np.float32)
    x = rng.standard_normal((2, num_steps, 3)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride,), ((1, 1),), dimension_numbers=("NWC", "OIW", "NWC")
    )
    matrix = silero_vad.convolution_matrix(kernel, num_steps, stride)
    got = (x.reshape(2, -1) @ matrix).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@needs_weights
@pytest.mark.parametrize("onnx", [True, False], ids=["onnx", "jit"])
@pytest.mark.parametrize("num_samples", [RATE_HZ, 1000])
def test_agrees_with_the_official_runtimes(onnx, num_samples):
    clips = voices(20, num_samples)
    expected = official(clips, onnx=onnx)
    if num_samples == RATE_HZ:
        assert np.min(expected) < 0.05
        assert np.max(expected) > 0.5
    got = jax.nn.sigmoid(chunk_logits()(weights(), clips))
    np.testing.assert_allclose(got, expected, atol=1e-4)


@needs_weights
def test_agrees_on_real_recordings(tmp_path):
    dataset = load_speech_commands(recordings(), Decoding(tmp_path))
    picked = np.random.default_rng(0).choice(len(dataset.clips), 100, replace=False)
    clips = to_waveform(np.asarray(dataset.clips)[picked])
    got = jax.nn.sigmoid(chunk_logits()(weights(), clips))
    for onnx in (True, False):
        np.testing.assert_allclose(got, official(clips, onnx=onnx), atol=1e-4)


@needs_weights
def test_a_clip_is_speech_if_a_chunk_is():
    clips = voices(40)
    for threshold in (0.3, 0.5):
        classifier = silero_vad.load(threshold=threshold)
        logits = jax.jit(classifier.logits)(classifier.variables, (clips + 1) / 2)
        probability = jax.nn.sigmoid(chunk_logits()(weights(), clips))
        is_speech = np.max(probability, axis=1) > threshold
        assert 0 < np.mean(is_speech) < 1
        np.testing.assert_array_equal(np.argmax(logits, axis=1), is_speech)


@needs_weights
def test_directional_derivative():
    # In double precision, where a central difference resolves the derivative; noise, as
    # magnitudes have none at silence.
    rng = np.random.default_rng(0)
    clips = voices(4, 4096) + 1e-3 * rng.standard_normal((4, 4096))
    direction = rng.standard_normal(clips.shape)
    direction /= np.linalg.norm(direction)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), weights())

        @jax.jit
        def score(x):
            return jnp.sum(jnp.max(silero_vad.chunk_logits(double, x), axis=1))

        slope = jnp.sum(jax.grad(score)(clips) * direction)
        h = 1e-6
        expected = (score(clips + h * direction) - score(clips - h * direction)) / 2 / h
        assert abs(expected) > 1e-2
        np.testing.assert_allclose(slope, expected, rtol=1e-3)


@needs_weights
def test_gradient_is_that_of_the_official_network():
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = pytest.importorskip("silero_vad").load_silero_vad()._model
    # Noise, as the derivative of a magnitude near silence is that of its rounding.
    clips = voices(3, 4 * silero_vad.CHUNK_SAMPLES)
    noise = np.random.default_rng(0).standard_normal(clips.shape)
    clips = (clips + 1e-3 * noise).astype(np.float32)
    waveform = torch.from_numpy(clips).requires_grad_(True)
    padded, state = torch.nn.functional.pad(waveform, (64, 0)), torch.zeros(0)
    outputs = []
    for start in range(0, clips.shape[1], silero_vad.CHUNK_SAMPLES):
        output, state = network(padded[:, start : start + 576], state)
        outputs.append(output)
    torch.cat(outputs, 1).sum().backward()

    def total(x):
        return jnp.sum(jax.nn.sigmoid(silero_vad.chunk_logits(weights(), x)))

    got, expected = jax.jit(jax.grad(total))(clips), waveform.grad.numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.max(np.abs(expected)))


@needs_weights
def test_gradient_at_silence_and_full_scale():
    noise = np.random.default_rng(0).uniform(-1, 1, RATE_HZ)
    clips = np.stack([np.zeros(RATE_HZ), np.sign(noise), 1e-6 * noise])

    def score(x):
        return jnp.sum(silero_vad.chunk_logits(weights(), x))

    assert np.all(np.isfinite(jax.jit(jax.grad(score))(clips.astype(np.float32))))


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("silero_vad", r"pip install --no-deps silero-vad==6\.2\.3"),
        ("onnx", "pip install onnx"),
    ],
)
def test_missing_package_in_one_line(monkeypatch, missing, line):
    if missing == "onnx" and not IS_INSTALLED:
        pytest.skip("needs silero-vad")
    # What `find_spec` and `import` take for a package that is not installed.
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=line) as error:
        silero_vad.load()
    assert "\n" not in str(error.value)
