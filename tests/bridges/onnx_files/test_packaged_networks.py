"""Networks in ONNX files of installed packages, against the official runtime."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.bridges.onnx import read_onnx

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
LIVEKIT = ("livekit", "wakeword/resources")
SILERO = ("silero_vad", "data")


def path_of(where, name):
    package, folder = where
    spec = importlib.util.find_spec(package)
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    for root in roots:
        path = Path(root) / folder / name
        if path.is_file():
            return path
    pytest.skip(f"{package} is not installed")


def noise(*shape, scale=1.0):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def silero(name, **inputs):
    state = {"state": noise(2, 100, 128)}
    return SILERO, name, {"input": noise(100, 576, scale=0.1), **state, **inputs}


RATE = {"sr": np.array(16_000)}
SEQUENCE = {
    "input": noise(100, 576, scale=0.1),
    "h": noise(1, 1, 128),
    "c": noise(1, 1, 128),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "name", "inputs"),
    [
        (LIVEKIT, "melspectrogram.onnx", {"input": noise(1, 16_000, scale=0.1)}),
        (LIVEKIT, "embedding_model.onnx", {"input_1": noise(100, 76, 32, 1)}),
        silero("silero_vad.onnx", **RATE),
        silero("silero_vad_16k_op15.onnx", **RATE),
        silero("silero_vad_op18_ifless.onnx", **RATE),
        silero("silero_vad_half.onnx"),
        (SILERO, "silero_vad_16k_sequence.onnx", SEQUENCE),
    ],
)
def test_outputs_and_gradient(where, name, inputs):
    path = path_of(where, name)
    network = read_onnx(path)
    variables = jax.tree.map(jnp.asarray, network.variables)
    real = {k: jnp.asarray(v) for k, v in inputs.items() if v.dtype == np.float32}

    @jax.jit
    def run(variables, real):
        return network.call(variables, {**inputs, **real})

    expected = onnxruntime.InferenceSession(path).run(None, inputs)
    for of_jax, of_runtime in zip(run(variables, real), expected, strict=True):
        scale = max(1.0, float(np.max(np.abs(of_runtime))))
        np.testing.assert_allclose(of_jax, of_runtime, rtol=0, atol=1e-4 * scale)
    gradients = jax.grad(lambda real: jnp.sum(run(variables, real)[0]))(real)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))
