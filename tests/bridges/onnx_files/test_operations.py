"""Operations one by one, against the official runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uap_jax.bridges.onnx import read_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)


def real(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def one(value, dtype=np.float32):
    return np.array(value, dtype)


SIGNAL, IMAGE = (2, 6, 21), (2, 4, 11, 9)
# Operation, shape of its first input, the other inputs, attributes.
ELEMENTWISE = [
    ("Clip", SIGNAL, [one(-0.5), one(0.5)], {}),
    ("Clip", SIGNAL, [None, one(0.5)], {}),
    ("Div", SIGNAL, [real(6, 1)], {}),
    ("Elu", SIGNAL, [], {"alpha": 0.7}),
    ("Erf", SIGNAL, [], {}),
    ("HardSigmoid", SIGNAL, [], {}),
    ("HardSwish", SIGNAL, [], {}),
    ("LeakyRelu", SIGNAL, [], {}),
    ("Max", SIGNAL, [real(21), one(0.0)], {}),
    ("Mod", SIGNAL, [one(0.7)], {"fmod": 1}),
    ("PRelu", SIGNAL, [real(6, 1)], {}),
    ("Pow", SIGNAL, [one(3.0)], {}),
    ("Selu", SIGNAL, [], {}),
    ("Softplus", SIGNAL, [], {}),
]
ROWS = [
    ("ArgMax", SIGNAL, [], {"axis": 1, "keepdims": 0}),
    ("CumSum", SIGNAL, [one(-1, np.int64)], {"exclusive": 1, "reverse": 1}),
    ("Einsum", (3, 4), [real(4, 5)], {"equation": "ij, jk -> ki"}),
    ("Gemm", (4, 3), [real(5, 4), real(5)], {"transA": 1, "transB": 1, "beta": 0.5}),
    ("LogSoftmax", SIGNAL, [], {"axis": 1}),
    ("LpNormalization", SIGNAL, [], {"axis": 1}),
    ("MatMul", SIGNAL, [real(21, 3)], {}),
    ("ReduceL2", SIGNAL, [ints(-1)], {"keepdims": 0}),
    ("ReduceLogSumExp", SIGNAL, [ints(1)], {}),
    ("ReduceMax", SIGNAL, [], {}),
    ("ReduceMean", SIGNAL, [ints(0, 2)], {}),
    ("Softmax", SIGNAL, [], {"axis": 1}),
]
MOVEMENTS = [
    ("DepthToSpace", IMAGE, [], {"blocksize": 2}),
    ("Expand", (2, 1, 3), [ints(4, 1)], {}),
    ("Flatten", IMAGE, [], {"axis": 2}),
    ("Gather", SIGNAL, [ints(1, 3, 5)], {"axis": 1}),
    ("Gather", SIGNAL, [ints(5, -1, 0)], {"axis": 2}),
    ("Gather", SIGNAL, [one(-2, np.int64)], {"axis": 1}),
    ("GatherElements", SIGNAL, [np.ones((2, 6, 4), np.int64)], {"axis": 2}),
    ("Pad", SIGNAL, [ints(0, 1, 2, 0, 0, -3), one(2.0)], {}),
    ("Pad", SIGNAL, [ints(0, 0, 4, 0, 0, 5)], {"mode": "reflect"}),
    ("Pad", SIGNAL, [ints(2, 1), None, ints(2)], {"mode": "edge"}),
    ("Reshape", SIGNAL, [ints(0, -1, 3)], {}),
    ("Slice", SIGNAL, [ints(-1), ints(-(2**62)), ints(2), ints(-3)], {}),
    ("Slice", SIGNAL, [ints(1, -4), ints(2**62, -1), ints(1, -1)], {}),
    ("SpaceToDepth", (2, 3, 4, 6), [], {"blocksize": 2}),
    ("Squeeze", (2, 1, 3, 1), [], {}),
    ("Tile", (2, 3), [ints(2, 1)], {}),
    ("Transpose", SIGNAL, [], {"perm": [2, 0, 1]}),
    ("Trilu", (3, 4, 5), [one(1, np.int64)], {"upper": 0}),
]
TWICE = {"pads": [1, 1, 0, 1]}
LAYERS = [
    ("AveragePool", IMAGE, [], {"kernel_shape": [3, 2], "strides": [2, 2], **TWICE}),
    ("AveragePool", SIGNAL, [], {"kernel_shape": [4], "strides": [3], "ceil_mode": 1}),
    (
        "AveragePool",
        SIGNAL,
        [],
        {
            "kernel_shape": [3],
            "strides": [2],
            "pads": [1, 1],
            "count_include_pad": 1,
            "ceil_mode": 1,
        },
    ),
    (
        "BatchNormalization",
        IMAGE,
        [real(4), real(4), real(4), np.abs(real(4)) + 0.1],
        {},
    ),
    ("Conv", SIGNAL, [real(5, 6, 4), real(5)], {"strides": [3], "pads": [2, 1]}),
    ("Conv", SIGNAL, [real(8, 3, 4)], {"group": 2, "auto_pad": "SAME_LOWER"}),
    ("Conv", SIGNAL, [real(12, 1, 3)], {"group": 6, "dilations": [2]}),
    ("Conv", SIGNAL, [real(5, 6, 3)], {"dilations": [4], "strides": [2]}),
    ("Conv", SIGNAL, [real(5, 6, 1)], {"strides": [2]}),
    ("Conv", IMAGE, [real(3, 4, 3, 2), real(3)], {"strides": [2, 3], **TWICE}),
    ("Conv", IMAGE, [real(3, 4, 3, 3)], {"auto_pad": "SAME_UPPER"}),
    ("Conv", IMAGE, [real(3, 4, 3, 3)], {"pads": [0, 1, 0, 1]}),
    ("Conv", IMAGE, [real(3, 4, 1, 3)], {"pads": [0, 1, 0, 1]}),
    ("Conv", IMAGE, [real(4, 1, 3, 2)], {"group": 4, "strides": [2, 1]}),
    ("Conv", (2, 1, 11, 9), [real(4, 1, 5, 3)], {"strides": [2, 1]}),
    ("ConvTranspose", SIGNAL, [real(6, 4, 5), real(4)], {"strides": [3]}),
    (
        "ConvTranspose",
        IMAGE,
        [real(4, 3, 3, 2)],
        {"strides": [2, 1], "group": 2, "output_padding": [1, 0], **TWICE},
    ),
    ("GlobalAveragePool", IMAGE, [], {}),
    ("GlobalMaxPool", IMAGE, [], {}),
    ("InstanceNormalization", SIGNAL, [real(6), real(6)], {}),
    ("LayerNormalization", SIGNAL, [real(6, 21), real(6, 21)], {"axis": 1}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [2, 3], "strides": [2, 3]}),
    ("MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "strides": [2, 1], **TWICE}),
    ("MaxPool", SIGNAL, [], {"kernel_shape": [4], "strides": [3], "ceil_mode": 1}),
    ("MaxPool", SIGNAL, [], {"kernel_shape": [3], "dilations": [2]}),
]
BOTH = {"direction": "bidirectional", "hidden_size": 5}
RECURRENT = [
    (
        "GRU",
        (7, 2, 3),
        [real(1, 15, 3), real(1, 15, 5), real(1, 30)],
        {"hidden_size": 5, "direction": "reverse"},
    ),
    (
        "GRU",
        (7, 2, 3),
        [real(2, 15, 3), real(2, 15, 5), real(2, 30), None, real(2, 2, 5)],
        {"linear_before_reset": 1, **BOTH},
    ),
    (
        "LSTM",
        (7, 2, 3),
        [real(2, 20, 3), real(2, 20, 5), real(2, 40), None, *real(2, 2, 2, 5)],
        BOTH,
    ),
    ("RNN", (7, 2, 3), [real(1, 5, 3), real(1, 5, 5)], {"hidden_size": 5}),
]
STEP = one(5, np.int64)
SPECTRA = [
    ("DFT", (2, 21, 1), [], {"onesided": 1}),
    ("DFT", (2, 21, 2), [one(32, np.int64)], {"inverse": 1}),
    ("STFT", (2, 64, 1), [STEP, np.hanning(16).astype(np.float32)], {}),
    ("STFT", (2, 64, 1), [STEP, None, one(16, np.int64)], {"onesided": 0}),
]
CASES = [*ELEMENTWISE, *ROWS, *MOVEMENTS, *LAYERS, *RECURRENT, *SPECTRA]


def save(path, nodes, inputs, outputs, constants, *, opset=18):
    float32 = onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [info(name, float32, shape) for name, shape in inputs.items()],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def run_both(path, x):
    """What the runtime computes, and what JAX does, compiled."""
    expected = onnxruntime.InferenceSession(path).run(None, {"x": x})
    network = read_onnx(path)
    run = jax.jit(lambda variables, x: network.call(variables, {"x": x}))
    return expected, run(jax.tree.map(jnp.asarray, network.variables), x)


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case[0]} {i}" for i, case in enumerate(CASES)]
)
def test_operation(case, tmp_path):
    name, shape, others, attributes = case
    constants = {f"c{i}": v for i, v in enumerate(others) if v is not None}
    names = [f"c{i}" if v is not None else "" for i, v in enumerate(others)]
    outputs = ["y", "last"] if name in ("GRU", "LSTM", "RNN") else ["y"]
    path = tmp_path / "operation.onnx"
    node = onnx.helper.make_node(name, ["x", *names], outputs, **attributes)
    save(path, [node], {"x": shape}, outputs, constants)
    expected, found = run_both(path, real(*shape))
    for of_runtime, of_jax in zip(expected, found, strict=True):
        assert of_jax.shape == of_runtime.shape
        np.testing.assert_allclose(of_jax, of_runtime, rtol=1e-4, atol=1e-5)


def test_dynamic_quantisation(tmp_path):
    path = tmp_path / "quantised.onnx"
    node = onnx.helper.make_node
    weights = RNG.integers(-100, 100, (8, 3)).astype(np.int8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        node("Cast", ["sums"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["real", "scale"], ["scaled"]),
        node("QuantizeLinear", ["scaled", "step", "middle"], ["again"]),
        node("DequantizeLinear", ["again", "step", "middle"], ["y"]),
    ]
    constants = {"w": weights, "step": one(8.0), "middle": one(3, np.int8)}
    save(path, nodes, {"x": (4, 8)}, ["y"], constants)
    x = real(4, 8)
    (expected,), (found,) = run_both(path, x)
    np.testing.assert_allclose(found, expected, atol=8.0)
    assert np.mean(found != expected) < 0.1
    network = read_onnx(path)
    gradient = jax.grad(lambda x: jnp.sum(network.call({}, {"x": x})[0]))(x)
    inside = np.abs(expected) < 900
    assert np.all(inside), "limits are not reached, so that rounding alone counts"
    through = np.tile(weights.sum(1).astype(np.float32), (4, 1))
    np.testing.assert_allclose(gradient, through, rtol=1e-5)


def test_gradient_of_a_square_root_at_zero(tmp_path):
    path = tmp_path / "root.onnx"
    node = onnx.helper.make_node
    nodes = [node("Mul", ["x", "x"], ["square"]), node("Sqrt", ["square"], ["y"])]
    save(path, nodes, {"x": (3,)}, ["y"], {})
    network = read_onnx(path)
    x = jnp.array([0.0, 2.0, -1.0])
    gradient = jax.grad(lambda x: jnp.sum(network.call({}, {"x": x})[0]))(x)
    np.testing.assert_allclose(gradient, [0.0, 1.0, -1.0])


def test_branch_and_shape_must_not_depend_on_clips(tmp_path):
    path = tmp_path / "data.onnx"
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["x"], ["sizes"], to=onnx.TensorProto.INT64),
        node("Reshape", ["x", "sizes"], ["y"]),
    ]
    save(path, nodes, {"x": (1,)}, ["y"], {})
    network = read_onnx(path)
    with pytest.raises(ValueError, match=r"Reshape \(y\): expected shape that"):
        jax.eval_shape(lambda x: network.call({}, {"x": x}), jnp.ones(1))
