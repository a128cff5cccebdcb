"""The network of `keyword_torch` in plain JAX, with the same weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FRAME = 400
HOP = 160
FLOOR = 1e-5
NORM_EPSILON = 1e-5

Variables = dict[str, Any]


def variables_of(state: Mapping[str, np.ndarray]) -> Variables:
    """Returns the weights of a PyTorch state dict as this file uses them.

    Args:
        state: By PyTorch's names, such as "convs.0.weight".

    Returns:
        Kernels as `[K, C, F]`, norms as scale and offset.
    """

    def norm(name: str) -> dict[str, np.ndarray]:
        scale = state[f"{name}.weight"] / np.sqrt(
            state[f"{name}.running_var"] + np.float32(NORM_EPSILON)
        )
        offset = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
        return {"scale": scale, "offset": offset}

    num_layers = sum(name.startswith("convs.") for name in state)
    layers = [
        {"kernel": state[f"convs.{index}.weight"].T, **norm(f"norms.{index}")}
        for index in range(num_layers)
    ]
    # `[K, C, F]` from PyTorch's `[F, C, K]` is a plain transpose.
    variables = {
        "fourier": state["fourier"][:, 0].T,
        "mel": state["mel"].T,
        "bands": norm("band_norm"),
        "layers": layers,
        "out_kernel": state["out.weight"].T,
        "out_bias": state["out.bias"],
    }
    return jax.tree.map(jnp.asarray, variables)


def logits(variables: Variables, x: jax.Array) -> jax.Array:
    """`[B, N]` clips in the box [0, 1] to `[B, C]` logits."""
    spectrum = frames(2 * x - 1) @ variables["fourier"]
    h = jnp.log(jnp.square(spectrum) @ variables["mel"] + FLOOR)
    h = scale_and_shift(variables["bands"], h)
    for index, layer in enumerate(variables["layers"]):
        if index:
            h = mean_of_pairs(h)
        h = jax.nn.silu(scale_and_shift(layer, convolve(h, layer["kernel"])))
    return jnp.mean(h, axis=1) @ variables["out_kernel"] + variables["out_bias"][None]


def frames(waveform: jax.Array) -> jax.Array:
    """Overlapping pieces of a waveform, `[B, N]` to `[B, T, FRAME]`.

    From pieces of one hop, side by side: the gradient of a gather is slow.
    """
    num_clips, num_samples = waveform.shape
    num_frames = (num_samples - FRAME) // HOP + 1
    num_hops = -(-FRAME // HOP)
    length = (num_frames + num_hops - 1) * HOP
    missing = max(length - num_samples, 0)
    padded = jnp.pad(waveform, ((0, 0), (0, missing)))[:, :length]
    hops = padded.reshape(num_clips, -1, HOP)
    pieces = [hops[:, start : start + num_frames] for start in range(num_hops)]
    return jnp.concatenate(pieces, axis=2)[:, :, :FRAME]


def convolve(h: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, T, C]` with a kernel `[K, C, F]`, as K matrix products."""
    width = kernel.shape[0]
    num_steps = h.shape[1] - width + 1
    parts = [h[:, at : at + num_steps] @ kernel[at] for at in range(width)]
    return sum(parts[1:], parts[0])


def scale_and_shift(norm: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    return h * norm["scale"][None, None] + norm["offset"][None, None]


def mean_of_pairs(h: jax.Array) -> jax.Array:
    num_clips, num_steps, features = h.shape
    pairs = h[:, : num_steps // 2 * 2].reshape(num_clips, -1, 2, features)
    return jnp.mean(pairs, axis=2)


def reversed_units(variables: Variables) -> Variables:
    """The same network, hidden units in reverse order: only rounding differs."""

    def reverse(norm: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"scale": norm["scale"][::-1], "offset": norm["offset"][::-1]}

    return variables | {
        "fourier": variables["fourier"][:, ::-1],
        "mel": variables["mel"][::-1, ::-1],
        "bands": reverse(variables["bands"]),
        "layers": [
            {"kernel": layer["kernel"][:, ::-1, ::-1], **reverse(layer)}
            for layer in variables["layers"]
        ],
        "out_kernel": variables["out_kernel"][::-1],
    }
