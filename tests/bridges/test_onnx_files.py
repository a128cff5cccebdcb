"""Networks out of ONNX files."""

import json
import sys

import bridged_networks as networks
import numpy as np
import pytest
from bridged_networks import NUM_CLASSES, NUM_SAMPLES, assert_close

from uap_jax import bridges
from uap_jax.bridges.model_files import read_classifier
from uap_jax.bridges.onnx import run

SIZES = {"num_classes": NUM_CLASSES, "num_samples": NUM_SAMPLES}


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def onnx2torch():
    try:
        import onnx2torch
    # A RuntimeError: of torchvision, if PyTorch is of another version.
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"onnx2torch cannot be loaded: {error}")
    return onnx2torch


def network(onnx, *, num_clips="clips", activation="Tanh", end="Identity"):
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
            node("Gemm", ["pooled", "out_kernel", "out_bias"], ["last"], transB=1),
            node(end, ["last"], ["logits"]),
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


@pytest.mark.parametrize("num_clips", ["clips", 1])
@pytest.mark.parametrize("end", ["Identity", "Softmax"])
def test_agrees_with_the_network(onnx, end, num_clips, tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx, end=end, num_clips=num_clips), path)
    bridge = bridges.from_onnx(path, sample_rate_hz=8000, **SIZES)
    assert bridge.sample_rate_hz == 8000
    networks.assert_agrees(bridge)


@pytest.mark.parametrize(
    ("end", "note"),
    [("Identity", ""), ("Softmax", "the logits are those before its Softmax")],
)
def test_a_run_says_what_was_left_out(onnx, end, note, tmp_path, capfd):
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx, end=end), path)
    names = [f"class {index}" for index in range(NUM_CLASSES)]
    facts = {"sample_rate_hz": 8000, "num_samples": NUM_SAMPLES, "input_range": "box"}
    beside = path.with_name("network.onnx.json")
    beside.write_text(json.dumps(facts | {"class_names": names}))
    classifier, _, said = read_classifier(path)
    assert said == note
    assert classifier.class_names == tuple(names)
    # The launcher says it, not the log.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_attack_on_the_network(onnx, framework, request, tmp_path):
    if framework == "torch":
        request.getfixturevalue("onnx2torch")
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx), path)
    settings = {"framework": framework, "num_threads": 1}
    bridge = bridges.from_onnx(path, **settings, **SIZES)
    assert bool(bridge.variables) == (framework == "jax")
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


def test_sigmoids_are_labels(onnx, tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx, end="Sigmoid"), path)
    bridge = bridges.from_onnx(path, threshold=0.3, **SIZES)
    assert bridge.threshold == 0.3
    networks.assert_agrees(bridge)


def test_unknown_operations_are_named(onnx, onnx2torch, tmp_path):
    path = tmp_path / "network.onnx"
    # Known to ONNX, but neither here nor to onnx2torch.
    onnx.save(network(onnx, activation="Hardmax", end="Det"), path)
    in_jax = r"network.onnx: expected .* supported in JAX, got Det, Hardmax"
    with pytest.raises(ValueError, match=rf"{in_jax}$"):
        bridges.from_onnx(path, framework="jax", **SIZES)
    with pytest.raises(ValueError, match=rf"{in_jax}; .* onnx2torch knows.*Hardmax"):
        bridges.from_onnx(path, **SIZES)


def test_what_jax_lacks_runs_through_pytorch(onnx, onnx2torch, monkeypatch, tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx), path)
    monkeypatch.delitem(run.ELEMENTWISE, "Tanh")
    bridge = bridges.from_onnx(path, **SIZES)
    assert not bridge.variables
    networks.assert_agrees(bridge)


def test_no_file(onnx, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"network\.onnx"):
        bridges.from_onnx(tmp_path / "network.onnx", **SIZES)


@pytest.mark.parametrize(
    ("missing", "framework", "extra"),
    [("onnx", None, "onnx"), ("onnx2torch", "torch", "bridges")],
)
def test_libraries_missing(missing, framework, extra, monkeypatch, tmp_path):
    # None is what the import system takes for a module that is not there.
    monkeypatch.setitem(sys.modules, missing, None)
    settings = SIZES | {"framework": framework}
    with pytest.raises(ImportError, match=rf"pip install 'uap_jax\[{extra}\]'"):
        bridges.from_onnx(tmp_path / "network.onnx", **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_samples": 40}, r"expected clips of \['clips', 48\].*got \[40\]"),
        ({"num_classes": 5}, "expected a network with 5 outputs, got 4"),
        ({"framework": "tensorflow"}, "framework: expected one of"),
        ({"output": "last"}, "output: expected one of logits, got 'last'"),
        ({"inputs": {"sr": 16000}}, "inputs: expected some of x, got sr"),
        ({"clip_shape": (4, 12)}, r"got \[4, 12\]"),
        ({"threshold": 1.0}, "threshold"),
    ],
)
def test_wrong_settings(onnx, settings, named, tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(network(onnx), path)
    with pytest.raises(ValueError, match=named) as info:
        bridges.from_onnx(path, **(SIZES | settings))
    assert "\n" not in str(info.value)
