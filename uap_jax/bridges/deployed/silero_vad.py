"""Silero VAD: does a clip at 16 kHz have speech?

Chunks of 512 samples, with the 64 samples before them, become the magnitudes of four
frames, four convolutions make them one vector, and an LSTM carries its state over the
clip. Everything before the LSTM runs on all chunks at once.

The score of a clip is the largest logit of its chunks: it has speech if the probability
of any chunk is above the threshold.
"""

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.types import Variables
from uap_jax.bridges.deployed import package_folder
from uap_jax.errors import UsageError
from uap_jax.models.classifier import Classifier
from uap_jax.models.detectors import detector

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 512
# What the official `get_speech_timestamps` takes by default.
THRESHOLD = 0.5

_CONTEXT_SAMPLES = 64
_REFLECTED_SAMPLES = 64
_FRAME_SAMPLES = 256
_HOP_SAMPLES = 128
_NUM_FRAMES = 4
# (name, number of steps that go in, stride) of the convolutions, of three taps each.
_CONVOLUTIONS = (("conv_0", 4, 1), ("conv_1", 4, 2), ("conv_2", 2, 2), ("conv_3", 1, 1))


def load(
    *, num_samples: int = SAMPLE_RATE_HZ, threshold: float = THRESHOLD
) -> Classifier:
    """Returns Silero VAD as a detector of speech with its published weights.

    Args:
        num_samples: Samples of a clip; the last chunk is filled up with zeros.
        threshold: Probability, in (0, 1), above which a chunk is speech.

    Raises:
        UsageError: The package with the weights is not installed.
    """

    def score(variables: Variables, x: jax.Array) -> jax.Array:
        return jnp.max(chunk_logits(variables, 2.0 * x - 1.0), axis=1)

    network = Classifier(score, read_weights(), num_samples, SAMPLE_RATE_HZ)
    return detector(network, label="speech", threshold=threshold)


def chunk_logits(weights: Variables, waveform: jax.Array) -> jax.Array:
    """Returns the logit of speech of each chunk.

    Args:
        weights: Those of `read_weights`.
        waveform: `[B, N]` in [-1, 1].

    Returns:
        `[B, T]`, T = ceil(N / 512); the official probability is its logistic function.
    """
    num_clips, num_samples = waveform.shape
    num_chunks = -(-num_samples // CHUNK_SAMPLES)
    missing = num_chunks * CHUNK_SAMPLES - num_samples
    chunks = jnp.pad(waveform, ((0, 0), (0, missing)))
    chunks = chunks.reshape(num_clips, num_chunks, CHUNK_SAMPLES)
    context = jnp.pad(chunks[:, :-1, -_CONTEXT_SAMPLES:], ((0, 0), (1, 0), (0, 0)))
    chunks = jnp.concatenate([context, chunks], axis=2)
    # The LSTM goes through the chunks, so these come first.
    encoded = _encode(weights, jnp.swapaxes(chunks, 0, 1))
    hidden = _lstm(weights, encoded)
    return _dense(weights, "final", jax.nn.relu(hidden))[..., 0].T


def _dense(weights: Variables, name: str, x: jax.Array) -> jax.Array:
    bias = weights[f"{name}_bias"]
    return x @ weights[name] + jnp.broadcast_to(bias, (*x.shape[:-1], len(bias)))


def _encode(weights: Variables, chunks: jax.Array) -> jax.Array:
    """`[T, B, 576]` to `[T, B, 128]`."""
    reflected = chunks[..., -_REFLECTED_SAMPLES - 1 : -1][..., ::-1]
    padded = jnp.concatenate([chunks, reflected], axis=-1)
    starts = range(0, _NUM_FRAMES * _HOP_SAMPLES, _HOP_SAMPLES)
    frames = [padded[..., start : start + _FRAME_SAMPLES] for start in starts]
    spectrum = jnp.stack(frames, axis=-2) @ weights["stft"]
    real, imaginary = jnp.split(spectrum, 2, axis=-1)
    power = real**2 + imaginary**2
    # Zeros, as after the end of a clip, have no gradient instead of an infinite one.
    is_sound = power > 0.0
    magnitude = jnp.where(is_sound, jnp.sqrt(jnp.where(is_sound, power, 1.0)), 0.0)
    x = magnitude.reshape(*magnitude.shape[:-2], -1)
    for name, *_ in _CONVOLUTIONS:
        x = jax.nn.relu(_dense(weights, name, x))
    return x


def _lstm(weights: Variables, x: jax.Array) -> jax.Array:
    """`[T, B, 128]` to the hidden states `[T, B, 128]`."""

    def step(
        state: tuple[jax.Array, jax.Array], inputs: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        hidden, cell = state
        gates = jnp.split(inputs + hidden @ weights["lstm_hidden"], 4, axis=-1)
        admit, keep, give = (jax.nn.sigmoid(gates[index]) for index in (0, 1, 3))
        cell = keep * cell + admit * jnp.tanh(gates[2])
        hidden = give * jnp.tanh(cell)
        return (hidden, cell), hidden

    inputs = _dense(weights, "lstm", x)
    zeros = jnp.zeros_like(x[0])
    return jax.lax.scan(step, (zeros, zeros), inputs)[1]


def read_weights() -> dict[str, np.ndarray]:
    """Returns the published weights, convolutions as matrices.

    Raises:
        UsageError: The package is not installed.
    """
    raw = _read_package()
    weights = {
        "stft": raw["stft.forward_basis_buffer"][:, 0].T,
        "lstm": raw["decoder.rnn.weight_ih"].T,
        "lstm_hidden": raw["decoder.rnn.weight_hh"].T,
        "lstm_bias": raw["decoder.rnn.bias_ih"] + raw["decoder.rnn.bias_hh"],
        "final": raw["decoder.decoder.2.weight"][:, :, 0].T,
        "final_bias": raw["decoder.decoder.2.bias"],
    }
    for name, num_steps, stride in _CONVOLUTIONS:
        layer = f"encoder.{name[-1]}.reparam_conv"
        kernel, bias = raw[f"{layer}.weight"], raw[f"{layer}.bias"]
        weights[name] = convolution_matrix(kernel, num_steps, stride)
        weights[f"{name}_bias"] = np.tile(bias, -(-num_steps // stride))
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def convolution_matrix(kernel: np.ndarray, num_steps: int, stride: int) -> np.ndarray:
    """A convolution of up to four steps, padded by one, as one matrix product."""
    num_features, num_channels, num_taps = kernel.shape
    outputs = range(-(-num_steps // stride))
    matrix = np.zeros(
        (num_steps, num_channels, len(outputs), num_features), kernel.dtype
    )
    for output in outputs:
        for tap in range(num_taps):
            step = output * stride + tap - 1
            if 0 <= step < num_steps:
                matrix[step, :, output] = kernel[:, :, tap].T
    return matrix.reshape(num_steps * num_channels, len(outputs) * num_features)


def _read_package() -> dict[str, np.ndarray]:
    """The network for 16 kHz, from the ONNX file.

    The package's safetensors hold another training of it, whose probabilities differ
    by up to 0.6 from those of the official runtimes.
    """
    folder = package_folder("silero_vad")
    try:
        import onnx  # pyrefly: ignore[missing-import]
    except ImportError:
        raise UsageError(
            "--model=silero_vad: expected onnx; pip install onnx"
        ) from None
    graph = onnx.load(folder / "data" / "silero_vad_16k_op15.onnx").graph
    return {
        tensor.name.removeprefix("model."): onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
    }
