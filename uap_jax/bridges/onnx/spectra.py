"""Operations of ONNX that compute spectra."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.onnx.files import Node
from uap_jax.bridges.onnx.layers import static
from uap_jax.models.kernels.windows import num_windows, overlapping_blocks

# Cosines of the windows: w[n] = sum_i c[i] cos(2 pi i n / N).
_WINDOWS = {
    "BlackmanWindow": (0.42, -0.5, 0.08),
    "HammingWindow": (25 / 46, -21 / 46),
    "HannWindow": (0.5, -0.5),
}


def _dft(node: Node, x: Any, length: Any = None, axis: Any = None) -> jax.Array:
    """`[..., n, ..., 1 or 2]` to `[..., n, ..., 2]`, real and imaginary parts."""
    get = node.attributes.get
    default = get("axis", 1) if node.version < 20 else -2
    index = default if axis is None else int(static(axis, "axis").reshape(()))
    index = index % x.ndim
    size = x.shape[index] if length is None else int(static(length, "dft_length"))
    if get("inverse"):
        if get("onesided"):
            raise ValueError("expected onesided 0 with inverse 1")
        spectrum = jnp.fft.ifft(_complex(x), size, index)
    elif get("onesided"):
        spectrum = jnp.fft.rfft(x[..., 0], size, index)
    else:
        spectrum = jnp.fft.fft(_complex(x), size, index)
    return _parts(spectrum)


def _stft(
    node: Node, x: Any, step: Any, window: Any = None, length: Any = None
) -> jax.Array:
    """`[B, N, 1]`, or as the runtime takes it `[B, N]`, to `[B, frames, bins, 2]`."""
    x = x[..., None] if x.ndim == 2 else x
    hop = int(static(step, "frame_step").reshape(()))
    if length is not None:
        size = int(static(length, "frame_length").reshape(()))
    else:
        size = x.shape[1] if window is None else window.shape[0]
    one_sided = node.attributes.get("onesided", 1)
    signal = x[..., 0] if one_sided or x.shape[-1] == 1 else _complex(x)
    count = num_windows(signal.shape[1], size=size, stride=hop)
    frames = overlapping_blocks(signal, num_blocks=count, hop=hop, size=size)
    frames = frames if window is None else frames * window
    return _parts(jnp.fft.rfft(frames) if one_sided else jnp.fft.fft(frames))


def _complex(x: jax.Array) -> jax.Array:
    return x[..., 0] if x.shape[-1] == 1 else jax.lax.complex(x[..., 0], x[..., 1])


def _parts(spectrum: jax.Array) -> jax.Array:
    return jnp.stack([jnp.real(spectrum), jnp.imag(spectrum)], -1)


def _window(name: str) -> Callable[..., np.ndarray]:
    def apply(node: Node, size: Any) -> np.ndarray:
        count = int(static(size, "size").reshape(()))
        period = count if node.attributes.get("periodic", 1) else count - 1
        angles = 2.0 * np.pi * np.arange(count) / period
        terms = enumerate(_WINDOWS[name])
        cosines = [c * np.cos(i * angles) for i, c in terms]
        return np.sum(cosines, axis=0).astype(np.float32)

    return apply


def _mel_matrix(node: Node, *settings: Any) -> np.ndarray:
    """`[bins, bands]`, triangles between bins, as ONNX's reference has them."""
    del node
    numbers = [static(v, "settings").reshape(()).item() for v in settings]
    num_bands, dft_length, rate_hz, low_hz, high_hz = numbers
    num_bins = dft_length // 2 + 1
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    points = np.arange(num_bands + 2) * ((high - low) / (num_bands + 2)) + low
    edges = 700.0 * (np.power(10.0, points / 2595.0) - 1.0)
    bins = ((dft_length + 1) * edges // rate_hz).astype(int)
    matrix = np.zeros((num_bins, num_bands), np.float32)
    for band, (start, centre, end) in enumerate(
        zip(bins, bins[1:], bins[2:], strict=False)
    ):
        if centre == start:
            matrix[centre, band] = 1.0
        else:
            rise = np.arange(start, centre + 1)
            matrix[rise, band] = (rise - start) / (centre - start)
        if end > centre:
            fall = np.arange(centre, end)
            matrix[fall, band] = (end - fall) / (end - centre)
    return matrix


OPERATIONS = {
    **{name: _window(name) for name in _WINDOWS},
    "DFT": _dft,
    "MelWeightMatrix": _mel_matrix,
    "STFT": _stft,
}
