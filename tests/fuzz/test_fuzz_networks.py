"""Damaged networks in files, and what is stated beside them."""

import functools
import json
import warnings

import numpy as np
import pytest
from fuzz_bytes import DAMAGES
from fuzz_guard import LAUNCHER_ERRORS, LIBRARY_ERRORS, Outcomes, snapshot
from fuzz_texts import json_files

from uap_jax import bridges
from uap_jax.bridges import custom_models

COUNTS = (5, pytest.param(100, marks=pytest.mark.slow))
NUM_CLASSES, NUM_SAMPLES = 3, 40
STATED = {
    "sample_rate_hz": 16_000,
    "num_samples": NUM_SAMPLES,
    "class_names": ["high", "low", "mid"],
    "input_range": "waveform",
}


def write_onnx(path):
    try:
        import onnx
        import onnx2torch  # noqa: F401
    # A RuntimeError: of torchvision, if PyTorch is of another version.
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"onnx2torch cannot be loaded: {error}")
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((NUM_SAMPLES, NUM_CLASSES)).astype(np.float32)
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Tanh", ["x"], ["hidden"]),
            onnx.helper.make_node("MatMul", ["hidden", "weights"], ["logits"]),
        ],
        "network",
        [onnx.helper.make_tensor_value_info("x", float32, ["clips", NUM_SAMPLES])],
        [onnx.helper.make_tensor_value_info("logits", float32, ["clips", NUM_CLASSES])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def write_torchscript(path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Tanh(), torch.nn.Linear(NUM_SAMPLES, NUM_CLASSES)
    )
    module.eval()
    with warnings.catch_warnings():
        # Deprecated or not, it is what there is.
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.zeros(2, NUM_SAMPLES)), path)


READERS = {
    "network.onnx": (write_onnx, bridges.from_onnx),
    "network.pt": (write_torchscript, bridges.from_torch_file),
}


@pytest.fixture(params=COUNTS)
def count(request):
    return request.param


@pytest.fixture(params=READERS)
def network(request, tmp_path):
    path = tmp_path / request.param
    READERS[request.param][0](path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_network_is_read_or_refused(network, count):
    read = functools.partial(
        READERS[network.name][1],
        network,
        num_classes=NUM_CLASSES,
        num_samples=NUM_SAMPLES,
    )
    read()
    good = network.read_bytes()
    outcomes = Outcomes()
    for index in range(count):
        damage = DAMAGES[index % len(DAMAGES)]
        network.write_bytes(damage(good, np.random.default_rng([8, index])))
        before = snapshot(network.parent)
        kind = f"{damage.__name__} {index}"
        outcomes.add(
            kind, read, allowed=LIBRARY_ERRORS, naming=(str(network),), limit_s=30
        )
        assert snapshot(network.parent) == before
    outcomes.check(f"networks as {network.suffix}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_stated_is_read_or_refused(network, count):
    beside = network.with_name(f"{network.name}.json")
    beside.write_text(json.dumps(STATED))
    assert custom_models.load(str(network)) is not None
    outcomes = Outcomes()
    for kind, content in json_files(STATED, count):
        beside.write_bytes(content)
        call = functools.partial(custom_models.load, str(network))
        naming = (str(network),)
        outcomes.add(kind, call, allowed=LAUNCHER_ERRORS, naming=naming, limit_s=30)
        assert beside.read_bytes() == content
    outcomes.check(f"statements beside {network.suffix}")
