"""Operations of ONNX that move numbers, and those that make shapes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.onnx.files import Node
from uap_jax.bridges.onnx.layers import np_of, static

_PAD_MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "edge": "edge",
    "wrap": "wrap",
}


def _ints(value: Any, name: str) -> list[int]:
    return [int(v) for v in np.ravel(static(value, name))]


def _reshape(node: Node, x: Any, shape: Any = None) -> Any:
    sizes = node.attributes.get("shape") if shape is None else shape
    sizes = _ints(np.asarray(sizes) if shape is None else sizes, "shape")
    if not node.attributes.get("allowzero"):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: Node, x: Any) -> Any:
    axis = node.attributes.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _axes(node: Node, axes: Any) -> tuple[int, ...] | None:
    if axes is not None:
        return tuple(_ints(axes, "axes"))
    return node.attributes.get("axes")


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    return x.squeeze(_axes(node, axes))


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    return np_of(x).expand_dims(x, _axes(node, axes))


def _transpose(node: Node, x: Any) -> Any:
    return x.transpose(node.attributes.get("perm"))


def _concatenate(node: Node, *inputs: Any) -> Any:
    return np_of(*inputs).concatenate(inputs, node.attributes["axis"])


def _split(node: Node, x: Any, sizes: Any = None) -> Sequence[Any]:
    axis = node.attributes.get("axis", 0)
    sizes = node.attributes.get("split") if sizes is None else _ints(sizes, "split")
    if sizes is None:
        count = node.attributes.get("num_outputs", len(node.outputs))
        size = -(-x.shape[axis] // count)
        ends = [size * i for i in range(1, count)]
    else:
        ends = np.cumsum(sizes)[:-1].tolist()
    return np_of(x).split(x, ends, axis)


def _slice(
    node: Node,
    x: Any,
    starts: Any = None,
    ends: Any = None,
    axes: Any = None,
    steps: Any = None,
) -> Any:
    if starts is None:
        starts, ends, axes = (
            node.attributes.get(k) for k in ("starts", "ends", "axes")
        )
        starts, ends = np.asarray(starts), np.asarray(ends)
        axes = None if axes is None else np.asarray(axes)
    first, last = _ints(starts, "starts"), _ints(ends, "ends")
    where = range(len(first)) if axes is None else _ints(axes, "axes")
    strides = [1] * len(first) if steps is None else _ints(steps, "steps")
    index = [slice(None)] * x.ndim
    for axis, begin, end, step in zip(where, first, last, strides, strict=True):
        # Before the start means through the first one, going backwards.
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(begin, stop, step)
    return x[tuple(index)]


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis = node.attributes.get("axis", 0) % x.ndim
    if not isinstance(indices, np.ndarray):
        size = x.shape[axis]
        return jnp.take(x, jnp.where(indices < 0, indices + size, indices), axis=axis)
    if np.ndim(indices) == 0:
        return x[(slice(None),) * axis + (int(indices),)]
    if indices.ndim == 1 and len(indices) > 1:
        first, step = int(indices[0]), int(indices[1] - indices[0])
        part = slice(first, int(indices[-1]) + 1, step)
        # The gradient of a slice is much faster than a gather's.
        if first >= 0 and step > 0 and np.all(np.diff(indices) == step):
            return x[(slice(None),) * axis + (part,)]
    return np_of(x, indices).take(x, indices, axis=axis)


def _gather_elements(node: Node, x: Any, indices: Any) -> Any:
    axis = node.attributes.get("axis", 0)
    return np_of(x, indices).take_along_axis(x, indices, axis)


def _gather_nd(node: Node, x: Any, indices: Any) -> Any:
    if node.attributes.get("batch_dims"):
        raise ValueError("expected batch_dims 0")
    return x[tuple(np_of(indices).moveaxis(indices, -1, 0))]


def _expand(node: Node, x: Any, shape: Any) -> Any:
    del node
    sizes = np.broadcast_shapes(x.shape, tuple(_ints(shape, "shape")))
    return np_of(x).broadcast_to(x, sizes)


def _tile(node: Node, x: Any, repeats: Any) -> Any:
    del node
    return np_of(x).tile(x, _ints(repeats, "repeats"))


def _pad(
    node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None
) -> Any:
    get = node.attributes.get
    if pads is None:
        pads, value = np.asarray(get("pads")), np.float32(get("value", 0.0))
    widths = _ints(pads, "pads")
    where = range(x.ndim) if axes is None else _ints(axes, "axes")
    starts, ends = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(where):
        starts[axis] = widths[position]
        ends[axis] = widths[len(widths) // 2 + position]
    axes_of_x = list(zip(starts, ends, x.shape, strict=True))
    # Negative ones cut.
    cut = tuple(slice(max(0, -a), n - max(0, -b)) for a, b, n in axes_of_x)
    pairs = [(max(0, a), max(0, b)) for a, b, _ in axes_of_x]
    mode = _PAD_MODES[get("mode", "constant")]
    settings = {}
    if mode == "constant":
        settings["constant_values"] = 0 if value is None else value.reshape(())
    return np_of(x).pad(x[cut], pairs, mode, **settings)


def _shape(node: Node, x: Any) -> np.ndarray:
    sizes = x.shape[node.attributes.get("start", 0) : node.attributes.get("end")]
    return np.array(sizes, np.int64)


def _constant_of_shape(node: Node, shape: Any) -> np.ndarray:
    value = np.asarray(node.attributes.get("value", np.float32(0.0)))
    return np.full(_ints(shape, "shape"), value.reshape(-1)[0], value.dtype)


def _range(node: Node, start: Any, limit: Any, step: Any) -> np.ndarray:
    del node
    first, last, size = (
        static(value, name)
        for value, name in ((start, "start"), (limit, "limit"), (step, "delta"))
    )
    steps = np.arange(first.item(), last.item(), size.item())
    return steps.astype(first.dtype)


def _one_hot(node: Node, indices: Any, depth: Any, values: Any) -> Any:
    (size,) = _ints(depth, "depth")
    axis = node.attributes.get("axis", -1)
    ones = jax.nn.one_hot(indices % size, size, axis=axis)
    return values[0] + ones * (values[1] - values[0])


def _trilu(node: Node, x: Any, k: Any = None) -> Any:
    offset = 0 if k is None else _ints(k, "k")[0]
    name = "triu" if node.attributes.get("upper", 1) else "tril"
    return getattr(np_of(x), name)(x, offset)


def _non_zero(node: Node, x: Any) -> np.ndarray:
    del node
    return np.array(np.nonzero(static(x, "X")), np.int64)


def _depth_to_space(node: Node, x: Any) -> Any:
    size, (batch, channels, height, width) = node.attributes["blocksize"], x.shape
    depth = channels // size**2
    if node.attributes.get("mode", "DCR") == "DCR":
        parts = x.reshape(batch, size, size, depth, height, width)
        parts = parts.transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, depth, size, size, height, width)
        parts = parts.transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, depth, height * size, width * size)


def _space_to_depth(node: Node, x: Any) -> Any:
    size, (batch, channels, height, width) = node.attributes["blocksize"], x.shape
    parts = x.reshape(batch, channels, height // size, size, width // size, size)
    parts = parts.transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, -1, height // size, width // size)


OPERATIONS = {
    "Concat": _concatenate,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda node, x: np.array(x.size, np.int64),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
