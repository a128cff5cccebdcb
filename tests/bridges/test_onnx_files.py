"""Networks out of ONNX files."""

import sys

import bridged_networks as networks
import numpy as np
import pytest
from bridged_networks import NUM_CLASSES, NUM_SAMPLES, assert_close

from uap_jax import bridges

SIZES = {"num_classes": NUM_CLASSES, "num_samples": NUM_SAMPLES}


@pytest.fixture(scope="module")
def onnx():
    try:
        import onnx
        import onnx2torch  # noqa: F401
    # A RuntimeError: of torchvision, if PyTorch is of another version.
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"onnx2torch cannot be loaded: {error}")
    return onnx


def network(onnx, *, num_clips="clips", activation="Tanh"):
    """The network of `bridged_networks` as a graph of ONNX."""
    node = onnx.helper.make_node
    arrays = networks.weights() | {"channel": np.array([1], np.int64)}
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            node("Unsqueeze", ["x", "channel"], ["clips"]),
            node(
                "Conv",
                ["clips", "kernel", "bias"],
                ["steps"],
                strides=[networks.STRIDE],
                kernel_shape=[networks.WIDTH],
            ),
            node(activation, ["steps"], ["hidden"]),
            node("ReduceMean", ["hidden"], ["pooled"], axes=[2], keepdims=0),
            node("Gemm", ["pooled", "out_kernel", "out_bias"], ["logits"], transB=1),
        ],
        "network",
        [
            onnx.helper.make_tensor_value_info("x", float32, [num_clips, NUM_SAMPLES]),
        ],
        [
            onnx.helper.make_tensor_value_info(
                "logits", float32, [num_clips, NUM_CLASSES]
            )
        ],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


def test_agrees_with_the_network(onnx, tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx), path)
    bridge = bridges.from_onnx(path, sample_rate_hz=8000, num_threads=1, **SIZES)
    assert bridge.sample_rate_hz == 8000
    networks.assert_agrees(bridge)
    perturbation = networks.run_attack("penalty", bridge.logits, bridge.variables)
    expected = networks.expected_of_attack("penalty")
    assert_close(perturbation, expected, tolerance=1e-3)


@pytest.mark.parametrize("kind", ["text", "empty", "half"])
def test_damaged_or_foreign(onnx, kind, tmp_path):
    path = tmp_path / f"{kind}.onnx"
    onnx.save(network(onnx), path)
    content = path.read_bytes()
    parts = {"text": b"hello world", "empty": b"", "half": content[: len(content) // 2]}
    path.write_bytes(parts[kind])
    with pytest.raises(ValueError, match=f"{kind}.onnx: expected an ONNX file") as info:
        bridges.from_onnx(path, **SIZES)
    assert "\n" not in str(info.value)


def test_unknown_operation(onnx, tmp_path):
    path = tmp_path / "network.onnx"
    # Known to ONNX, but not to onnx2torch.
    onnx.save(network(onnx, activation="Hardmax"), path)
    with pytest.raises(ValueError, match=r"network.onnx: .* onnx2torch knows.*Hardmax"):
        bridges.from_onnx(path, **SIZES)


def test_no_file(onnx, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"network\.onnx"):
        bridges.from_onnx(tmp_path / "network.onnx", **SIZES)


@pytest.mark.parametrize("missing", ["onnx", "onnx2torch"])
def test_libraries_missing(missing, monkeypatch, tmp_path):
    # None is what the import system takes for a module that is not there.
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'uap_jax\[bridges\]'"):
        bridges.from_onnx(tmp_path / "network.onnx", **SIZES)
