"""Operations of ONNX by their names.

A function takes the node and the node's inputs, None where one is left out, and returns
one output or several. On NumPy arrays all but `LAYERS` compute with NumPy.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.onnx import layers, movements, quantised, recurrent, spectra
from uap_jax.bridges.onnx.files import Node
from uap_jax.bridges.onnx.layers import np_of, square_root, static

Function = Callable[..., Any]
# Selu's constants to float32.
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _named(name: str) -> Function:
    """Returns a function of NumPy and JAX as an operation."""

    def apply(node: Node, *inputs: Any) -> Any:
        del node
        return _call(name, inputs)

    return apply


def _call(name: str, inputs: Sequence[Any]) -> Any:
    return getattr(np_of(*inputs), name)(*inputs)


def _folded(name: str) -> Function:
    """Returns a function of two arguments as an operation of any number of them."""
    return lambda node, *inputs: functools.reduce(
        lambda a, b: _call(name, (a, b)), inputs
    )


def _of_jax(function: Callable[..., Any]) -> Function:
    return lambda node, *inputs: function(*inputs)


def _divide(node: Node, a: Any, b: Any) -> Any:
    del node
    if not jnp.issubdtype(jnp.result_type(a), jnp.integer):
        return a / b
    # Towards zero.
    xp = np_of(a, b)
    return xp.sign(a) * xp.sign(b) * (abs(a) // abs(b))


def _power(node: Node, x: Any, exponent: Any) -> Any:
    del node
    if isinstance(exponent, np.ndarray) and exponent.size == 1:
        number = float(exponent.reshape(()))
        out = None
        if number == 0.5:
            out = square_root(x)
        elif number.is_integer() and abs(number) < 32:
            out = x ** int(number)
        if out is not None:
            return out.reshape(np.broadcast_shapes(np.shape(x), exponent.shape))
    return np_of(x, exponent).power(x, exponent)


def _mod(node: Node, a: Any, b: Any) -> Any:
    return _call("fmod" if node.attributes.get("fmod") else "mod", (a, b))


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    low = node.attributes.get("min") if low is None else low
    high = node.attributes.get("max") if high is None else high
    xp = np_of(x, low, high)
    x = x if low is None else xp.maximum(x, low)
    return x if high is None else xp.minimum(x, high)


def _cast(node: Node, x: Any) -> Any:
    from onnx import helper  # pyrefly: ignore[missing-import]

    return _as_type(x, helper.tensor_dtype_to_np_dtype(node.attributes["to"]))


def _as_type(x: Any, dtype: Any) -> Any:
    # Real numbers stay in one precision.
    if jnp.issubdtype(dtype, jnp.floating):
        is_real = jnp.issubdtype(x.dtype, jnp.floating)
        return x if is_real else x.astype(np.float32)
    dtype = np.dtype(dtype)
    if not isinstance(x, np.ndarray):
        # 64 bits become 32.
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return x.astype(dtype)


def _activation(function: Callable[..., jax.Array], **defaults: float) -> Function:
    """With attributes as keywords."""

    def apply(node: Node, x: Any) -> jax.Array:
        settings = {k: node.attributes.get(k, v) for k, v in defaults.items()}
        return function(x, **settings)

    return apply


def _shrink(x: Any, *, lambd: float, bias: float) -> jax.Array:
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, 0.0))


def _gelu(node: Node, x: Any) -> jax.Array:
    return jax.nn.gelu(x, approximate=node.attributes.get("approximate") == "tanh")


def _prelu(node: Node, x: Any, slope: Any) -> jax.Array:
    del node
    return jnp.where(x >= 0, x, slope * x)


def _dropout(node: Node, x: Any, *settings: Any) -> Any:
    training = settings[1] if len(settings) > 1 else None
    if training is not None and np.any(static(training, "training_mode")):
        raise ValueError("expected a network in evaluation mode, got training_mode")
    return x


def _softmax(function: Callable[..., jax.Array]) -> Function:
    def apply(node: Node, x: Any) -> jax.Array:
        axis = node.attributes.get("axis", -1 if node.version >= 13 else 1)
        if node.version >= 13:
            return function(x, axis=axis)
        rows = x.reshape(math.prod(x.shape[: axis % x.ndim]), -1)
        return function(rows, axis=-1).reshape(x.shape)

    return apply


def _axes_of(node: Node, axes: Any) -> tuple[int, ...] | None:
    axes = node.attributes.get("axes") if axes is None else static(axes, "axes")
    return None if axes is None else tuple(int(a) for a in np.ravel(axes))


def _reduction(function: Callable[..., Any]) -> Function:
    """Of (xp, x, axis, keepdims)."""

    def apply(node: Node, x: Any, axes: Any = None) -> Any:
        axis = _axes_of(node, axes)
        if not axis and node.attributes.get("noop_with_empty_axes"):
            return x
        keepdims = bool(node.attributes.get("keepdims", 1))
        return function(np_of(x), x, axis=axis or None, keepdims=keepdims)

    return apply


def _named_reduction(name: str) -> Function:
    return _reduction(lambda xp, x, **where: getattr(xp, name)(x, **where))


def _arg(name: str) -> Function:
    def apply(node: Node, x: Any) -> Any:
        axis = node.attributes.get("axis", 0)
        keepdims = bool(node.attributes.get("keepdims", 1))
        if node.attributes.get("select_last_index"):
            raise ValueError("expected select_last_index 0")
        return getattr(np_of(x), name)(x, axis=axis, keepdims=keepdims)

    return apply


def _cumulative_sum(node: Node, x: Any, axis: Any) -> Any:
    index, xp = int(np.ravel(static(axis, "axis"))[0]), np_of(x)
    reverse = node.attributes.get("reverse")
    x = xp.flip(x, index) if reverse else x
    out = xp.cumsum(x, index) - (x if node.attributes.get("exclusive") else 0)
    return xp.flip(out, index) if reverse else out


def _lp_normalise(node: Node, x: Any) -> jax.Array:
    axis, order = node.attributes.get("axis", -1), node.attributes.get("p", 2)
    if order == 1:
        return x / jnp.sum(jnp.abs(x), axis, keepdims=True)
    return x / square_root(jnp.sum(x * x, axis, keepdims=True))


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> jax.Array:
    get = node.attributes.get
    a = a.T if get("transA") else a
    product = a @ (b.T if get("transB") else b)
    product = product if get("alpha", 1.0) == 1.0 else get("alpha") * product
    return product if c is None else product + get("beta", 1.0) * c


def _einsum(node: Node, *inputs: Any) -> Any:
    return jnp.einsum(node.attributes["equation"].replace(" ", ""), *inputs)


ELEMENTWISE: dict[str, Function] = {
    "Abs": _named("abs"),
    "Acos": _named("arccos"),
    "Acosh": _named("arccosh"),
    "Add": _named("add"),
    "And": _named("logical_and"),
    "Asin": _named("arcsin"),
    "Asinh": _named("arcsinh"),
    "Atan": _named("arctan"),
    "Atanh": _named("arctanh"),
    "Cast": _cast,
    "CastLike": lambda node, x, like: _as_type(x, like.dtype),
    "Ceil": _named("ceil"),
    "Celu": _activation(jax.nn.celu, alpha=1.0),
    "Clip": _clip,
    "Cos": _named("cos"),
    "Cosh": _named("cosh"),
    "Div": _divide,
    "Dropout": _dropout,
    "Elu": _activation(jax.nn.elu, alpha=1.0),
    "Equal": _named("equal"),
    "Erf": _of_jax(jax.scipy.special.erf),
    "Exp": _named("exp"),
    "Floor": _named("floor"),
    "Gelu": _gelu,
    "Greater": _named("greater"),
    "GreaterOrEqual": _named("greater_equal"),
    "HardSigmoid": _activation(
        lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0.0, 1.0), alpha=0.2, beta=0.5
    ),
    "HardSwish": _of_jax(lambda x: x * jnp.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "Identity": lambda node, x: x,
    "IsInf": _named("isinf"),
    "IsNaN": _named("isnan"),
    "LeakyRelu": _activation(
        lambda x, alpha: jnp.where(x >= 0, x, alpha * x), alpha=0.01
    ),
    "Less": _named("less"),
    "LessOrEqual": _named("less_equal"),
    "Log": _named("log"),
    "Max": _folded("maximum"),
    "Mean": lambda node, *inputs: sum(inputs) / len(inputs),
    "Min": _folded("minimum"),
    "Mish": _of_jax(lambda x: x * jnp.tanh(jax.nn.softplus(x))),
    "Mod": _mod,
    "Mul": _named("multiply"),
    "Neg": _named("negative"),
    "Not": _named("logical_not"),
    "Or": _named("logical_or"),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _of_jax(lambda x: 1.0 / x),
    "Relu": _of_jax(lambda x: jnp.maximum(x, 0)),
    "Round": _named("round"),
    "Selu": _activation(
        lambda x, alpha, gamma: gamma * jax.nn.elu(x, alpha),
        alpha=_SELU[0],
        gamma=_SELU[1],
    ),
    "Shrink": _activation(_shrink, lambd=0.5, bias=0.0),
    "Sigmoid": _of_jax(jax.nn.sigmoid),
    "Sign": _named("sign"),
    "Sin": _named("sin"),
    "Sinh": _named("sinh"),
    "Softplus": _of_jax(jax.nn.softplus),
    "Softsign": _of_jax(jax.nn.soft_sign),
    "Sqrt": lambda node, x: square_root(x),
    "Sub": _named("subtract"),
    "Sum": _folded("add"),
    "Swish": _activation(lambda x, alpha: x * jax.nn.sigmoid(alpha * x), alpha=1.0),
    "Tan": _named("tan"),
    "Tanh": _named("tanh"),
    "ThresholdedRelu": _activation(
        lambda x, alpha: jnp.where(x > alpha, x, 0.0), alpha=1.0
    ),
    "Where": _named("where"),
    "Xor": _named("logical_xor"),
}
# The first input and the output have their channels last, the other inputs second.
LAYERS: dict[str, Function] = {
    "AveragePool": layers.pool_average,
    "BatchNormalization": layers.normalise_batch,
    "Conv": layers.convolve,
    "ConvTranspose": layers.convolve_transposed,
    "GlobalAveragePool": layers.pool_globally(jnp.mean),
    "GlobalMaxPool": layers.pool_globally(jnp.max),
    "InstanceNormalization": layers.normalise_instance,
    "MaxPool": layers.pool_max,
}
OPERATIONS: dict[str, Function] = {
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "CumSum": _cumulative_sum,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": layers.normalise_groups,
    "LayerNormalization": layers.normalise_layer,
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "LpNormalization": _lp_normalise,
    "MatMul": _named("matmul"),
    "RMSNormalization": layers.normalise_mean_square,
    "ReduceL1": _reduction(lambda xp, x, **where: xp.sum(xp.abs(x), **where)),
    "ReduceL2": _reduction(lambda xp, x, **where: square_root(xp.sum(x * x, **where))),
    "ReduceLogSum": _reduction(lambda xp, x, **where: xp.log(xp.sum(x, **where))),
    "ReduceLogSumExp": _reduction(lambda xp, x, **where: jax.nn.logsumexp(x, **where)),
    "ReduceMax": _named_reduction("max"),
    "ReduceMean": _named_reduction("mean"),
    "ReduceMin": _named_reduction("min"),
    "ReduceProd": _named_reduction("prod"),
    "ReduceSum": _named_reduction("sum"),
    "ReduceSumSquare": _reduction(lambda xp, x, **where: xp.sum(x * x, **where)),
    "Softmax": _softmax(jax.nn.softmax),
    **movements.OPERATIONS,
    **recurrent.OPERATIONS,
    **spectra.OPERATIONS,
    **quantised.OPERATIONS,
}
