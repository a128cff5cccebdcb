"""Operations of TFLite on real numbers, by their names in the schema.

A function takes an operation's options and its inputs and returns its outputs. Shapes,
axes and the like are NumPy arrays.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from uap_jax.bridges.tflite import audio, layers

Options = dict[str, Any]
Function = Callable[..., Any]


def _elementwise(function: Callable[..., jax.Array]) -> Function:
    """With the activation that arithmetic may have fused."""

    def apply(options: Options, *inputs: jax.Array) -> jax.Array:
        fused = options.get("FusedActivationFunction", 0)
        return layers.activate(fused, function(*inputs))

    return apply


def _reduction(function: Callable[..., jax.Array]) -> Function:
    def apply(options: Options, x: jax.Array, axes: np.ndarray) -> jax.Array:
        axis = tuple(np.atleast_1d(axes).tolist())
        return function(x, axis=axis, keepdims=bool(options.get("KeepDims")))

    return apply


def _reshape(options: Options, x: jax.Array, *shape: np.ndarray) -> jax.Array:
    new = shape[0].reshape(-1) if shape else np.asarray(options["NewShape"])
    return x.reshape(new.tolist())


def _squeeze(options: Options, x: jax.Array) -> jax.Array:
    axes = options.get("SqueezeDims")
    return jnp.squeeze(
        x, tuple(axes.tolist()) if isinstance(axes, np.ndarray) else None
    )


def _expand(options: Options, x: jax.Array, axis: np.ndarray) -> jax.Array:
    del options
    return jnp.expand_dims(x, int(axis.reshape(())))


def _pad(options: Options, x: jax.Array, widths: np.ndarray, *value: Any) -> jax.Array:
    del options
    return jnp.pad(x, widths.tolist(), constant_values=value[0] if value else 0)


def _pad_mirrored(options: Options, x: jax.Array, widths: np.ndarray) -> jax.Array:
    return jnp.pad(x, widths.tolist(), ("reflect", "symmetric")[options["Mode"]])


def _concatenate(options: Options, *inputs: jax.Array) -> jax.Array:
    fused = options.get("FusedActivationFunction", 0)
    return layers.activate(fused, jnp.concatenate(inputs, options["Axis"]))


def _split(options: Options, axis: np.ndarray, x: jax.Array) -> list[jax.Array]:
    return jnp.split(x, options["NumSplits"], int(axis.reshape(())))


def _split_at(
    options: Options, x: jax.Array, sizes: np.ndarray, axis: np.ndarray
) -> list[jax.Array]:
    del options
    index = int(axis.reshape(()))
    sizes = sizes.copy()
    sizes[sizes < 0] = x.shape[index] - sizes[sizes >= 0].sum()
    return jnp.split(x, np.cumsum(sizes)[:-1].tolist(), index)


def _slice(
    options: Options, x: jax.Array, begin: np.ndarray, size: np.ndarray
) -> jax.Array:
    del options
    pairs = zip(begin.tolist(), size.tolist(), strict=True)
    return x[tuple(slice(b, None if s < 0 else b + s) for b, s in pairs)]


def _slice_strided(
    options: Options,
    x: jax.Array,
    begin: np.ndarray,
    end: np.ndarray,
    strides: np.ndarray,
) -> jax.Array:
    def has(mask: str, index: int) -> bool:
        return bool(options.get(mask, 0) >> index & 1)

    index: list[Any] = []
    for i, (b, e, s) in enumerate(
        zip(begin.tolist(), end.tolist(), strides.tolist(), strict=True)
    ):
        if has("EllipsisMask", i):
            index.append(Ellipsis)
        elif has("NewAxisMask", i):
            index.append(None)
        elif has("ShrinkAxisMask", i):
            index.append(b)
        else:
            begins, ends = has("BeginMask", i), has("EndMask", i)
            index.append(slice(None if begins else b, None if ends else e, s))
    return x[tuple(index)]


def _gather(options: Options, x: jax.Array, indices: jax.Array) -> jax.Array:
    return jnp.take(x, indices, axis=options.get("Axis", 0))


def _unpack(options: Options, x: jax.Array) -> list[jax.Array]:
    parts = jnp.split(x, options["Num"], options["Axis"])
    return [jnp.squeeze(part, options["Axis"]) for part in parts]


def _space_to_batch(
    options: Options, x: jax.Array, block: np.ndarray, pads: np.ndarray
) -> jax.Array:
    del options
    num = len(block)
    rest = x.ndim - num - 1
    x = jnp.pad(x, [(0, 0), *pads.tolist(), *[(0, 0)] * rest])
    parts = [x.shape[0]]
    for size, factor in zip(x.shape[1 : num + 1], block.tolist(), strict=True):
        parts += [size // factor, factor]
    x = x.reshape(*parts, *x.shape[num + 1 :])
    blocks, sizes = range(2, 2 * num + 1, 2), range(1, 2 * num, 2)
    x = x.transpose(*blocks, 0, *sizes, *range(2 * num + 1, x.ndim))
    return x.reshape(-1, *x.shape[num + 1 :])


def _batch_to_space(
    options: Options, x: jax.Array, block: np.ndarray, crops: np.ndarray
) -> jax.Array:
    del options
    num = len(block)
    batch = x.shape[0] // int(np.prod(block))
    x = x.reshape(*block.tolist(), batch, *x.shape[1:])
    order = [num]
    for index in range(num):
        order += [num + 1 + index, index]
    x = x.transpose(*order, *range(2 * num + 1, x.ndim))
    sizes = [x.shape[1 + 2 * i] * x.shape[2 + 2 * i] for i in range(num)]
    x = x.reshape(batch, *sizes, *x.shape[2 * num + 1 :])
    index = [slice(b, n - e) for (b, e), n in zip(crops.tolist(), sizes, strict=True)]
    return x[(slice(None), *index)]


def _normalize(options: Options, x: jax.Array) -> jax.Array:
    del options
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-6))


def _prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, slope * x)


def _cast(options: Options, x: jax.Array) -> jax.Array:
    # Numbers of `TensorType`; integers stay what NumPy says they are.
    name = {0: jnp.float32, 1: jnp.float16, 6: jnp.bool_}.get(options["OutDataType"])
    return x.astype(name or jnp.int32)


def _clip(low: float, high: float) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jnp.clip(x, low, high)


# Inputs go in as integers where they are quantised; see `layers`.
LINEAR: dict[str, Function] = {
    "CONV_2D": layers.convolve,
    "DEPTHWISE_CONV_2D": layers.convolve_depthwise,
    "FULLY_CONNECTED": layers.connect,
    "BATCH_MATMUL": layers.multiply_matrices,
}
_ELEMENTWISE: dict[str, Callable[..., jax.Array]] = {
    "ABS": jnp.abs,
    "ADD": jnp.add,
    "ADD_N": lambda *inputs: functools.reduce(jnp.add, inputs),
    "COS": jnp.cos,
    "DEQUANTIZE": lambda x: x,
    "DIV": jnp.divide,
    "ELU": jax.nn.elu,
    "EQUAL": jnp.equal,
    "EXP": jnp.exp,
    "FLOOR": jnp.floor,
    "FLOOR_DIV": jnp.floor_divide,
    "FLOOR_MOD": jnp.mod,
    "GREATER": jnp.greater,
    "GREATER_EQUAL": jnp.greater_equal,
    "HARD_SWISH": jax.nn.hard_swish,
    "LESS": jnp.less,
    "LESS_EQUAL": jnp.less_equal,
    "LOG": jnp.log,
    "LOGISTIC": jax.nn.sigmoid,
    "MAXIMUM": jnp.maximum,
    "MINIMUM": jnp.minimum,
    "MUL": jnp.multiply,
    "NEG": jnp.negative,
    "NOT_EQUAL": jnp.not_equal,
    "POW": jnp.power,
    "PRELU": _prelu,
    "QUANTIZE": lambda x: x,
    "RELU": lambda x: jnp.maximum(x, 0.0),
    "RELU6": _clip(0.0, 6.0),
    "RELU_0_TO_1": _clip(0.0, 1.0),
    "RELU_N1_TO_1": _clip(-1.0, 1.0),
    "ROUND": jnp.round,
    "RSQRT": lax.rsqrt,
    "SELECT": jnp.where,
    "SELECT_V2": jnp.where,
    "SIN": jnp.sin,
    "SQRT": audio.square_root,
    "SQUARE": jnp.square,
    "SQUARED_DIFFERENCE": lambda a, b: jnp.square(a - b),
    "SUB": jnp.subtract,
    "TANH": jnp.tanh,
}
REAL: dict[str, Function] = {
    **{name: _elementwise(function) for name, function in _ELEMENTWISE.items()},
    "AVERAGE_POOL_2D": lambda o, x: layers.activate(
        o["FusedActivationFunction"], layers.pool_average(o, x)
    ),
    "CONCATENATION": _concatenate,
    "CUMSUM": lambda o, x, axis: jnp.cumsum(x, int(axis.reshape(()))),
    "GELU": lambda o, x: jax.nn.gelu(x, approximate=bool(o["Approximate"])),
    "L2_NORMALIZATION": _normalize,
    "LEAKY_RELU": lambda o, x: jnp.where(x >= 0, x, o["Alpha"] * x),
    "LOG_SOFTMAX": lambda o, x: jax.nn.log_softmax(x),
    "MAX_POOL_2D": lambda o, x: layers.activate(
        o["FusedActivationFunction"], layers.pool_max(o, x)
    ),
    "MEAN": _reduction(jnp.mean),
    "PACK": lambda o, *inputs: jnp.stack(inputs, o["Axis"]),
    "PADV2": _pad,
    "REDUCE_MAX": _reduction(jnp.max),
    "REDUCE_MIN": _reduction(jnp.min),
    "REDUCE_PROD": _reduction(jnp.prod),
    "SOFTMAX": lambda o, x: jax.nn.softmax(layers.softmax_scale(o) * x),
    "SUM": _reduction(jnp.sum),
    # Of audio.
    "AudioSpectrogram": audio.spectrogram,
    "COMPLEX_ABS": lambda o, x: audio.magnitude(x),
    "IMAG": lambda o, x: jnp.imag(x),
    "Mfcc": audio.mfcc,
    "REAL": lambda o, x: jnp.real(x),
    "RFFT2D": audio.transform,
    # These move numbers; quantised ones arrive in the same steps that they left in.
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "BROADCAST_TO": lambda o, x, shape: jnp.broadcast_to(x, shape.tolist()),
    "CAST": _cast,
    "EXPAND_DIMS": _expand,
    "GATHER": _gather,
    "MIRROR_PAD": _pad_mirrored,
    "PAD": _pad,
    "RANGE": lambda o, start, stop, step: jnp.arange(
        start.item(), stop.item(), step.item()
    ),
    "RESHAPE": _reshape,
    "REVERSE_V2": lambda o, x, axes: jnp.flip(x, axes.tolist()),
    "SHAPE": lambda o, x: np.array(x.shape, np.int32),
    "SLICE": _slice,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "SPLIT": _split,
    "SPLIT_V": _split_at,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _slice_strided,
    "TILE": lambda o, x, counts: jnp.tile(x, counts.tolist()),
    "TRANSPOSE": lambda o, x, order: jnp.transpose(x, order.tolist()),
    "UNPACK": _unpack,
}
# Variables of streaming networks, which the runner handles itself.
STATEFUL = ("ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE")
