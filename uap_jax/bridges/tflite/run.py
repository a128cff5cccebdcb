"""Runs a graph of a TFLite file on one clip, differentiably.

A quantised tensor is held as q - zero_point, integers in floating point. Rounding has
the gradient of the identity (straight-through), the limits of a type that of a clip.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.bridges.tflite import layers
from uap_jax.bridges.tflite.files import Graph, Operation, Tensor
from uap_jax.bridges.tflite.operations import LINEAR, REAL, STATEFUL

Weights = dict[str, jax.Array]
State = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class _Handle:
    """What VAR_HANDLE returns: the name of a variable of a streaming network."""

    name: str


def unknown_operations(graphs: Sequence[Graph]) -> list[str]:
    """Returns the names of all operations that are not supported."""
    names = {operation.name for graph in graphs for operation in graph.operations}
    return sorted(names - LINEAR.keys() - REAL.keys() - set(STATEFUL))


def weights_of(graphs: Sequence[Graph]) -> dict[str, np.ndarray]:
    """Returns all constants that are numbers of the network, as float32.

    Integers without a scale are left out: shapes and axes, which are part of the
    program.
    """
    return {
        _key(graph_index, index): _centred(tensor)
        for graph_index, graph in enumerate(graphs)
        for index, tensor in enumerate(graph.tensors)
        if _is_weight(tensor)
    }


def initial_state(graphs: Sequence[Graph], weights: Weights) -> State:
    """Returns the variables that a streaming network starts with."""
    state: State = {}
    for operation in graphs[0].operations:
        if operation.name == "CALL_ONCE":
            index = operation.options["InitSubgraphIndex"]
            _, state = run_graph(graphs, index, weights, state, (), ())
    return state


def run_graph(
    graphs: Sequence[Graph],
    graph_index: int,
    weights: Weights,
    state: State,
    inputs: Sequence[jax.Array],
    wanted: Sequence[int],
) -> tuple[list[jax.Array], State]:
    """Returns the tensors `wanted`, as real numbers, and the new state.

    Args:
        graphs: Those of the file.
        graph_index: Which of them runs.
        weights: As `weights_of` returns them.
        state: The variables of a streaming network.
        inputs: Real numbers, of the shapes that the graph takes.
        wanted: Indices of tensors.
    """
    graph = graphs[graph_index]
    runner = _Runner(graph, graph_index, weights, state)
    # Files broadcast as NumPy does, whatever JAX was told.
    with jax.numpy_rank_promotion("allow"):
        for index, value in zip(graph.inputs, inputs, strict=True):
            runner.store(index, value)
        for operation in graph.operations:
            runner.apply(operation)
        return [runner.real(index) for index in wanted], runner.state


# What rounding adds has no gradient.
hold = jax.lax.stop_gradient


def round_through(x: jax.Array) -> jax.Array:
    """Rounds half away from 0, with the gradient of the identity."""
    return _round(x)


@jax.custom_jvp
def _round(x: jax.Array) -> jax.Array:
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


_round.defjvps(lambda tangent, rounded, x: tangent)


class _Runner:
    """One run of a graph: the values of its tensors so far."""

    def __init__(
        self, graph: Graph, graph_index: int, weights: Weights, state: State
    ) -> None:
        self._tensors = graph.tensors
        self._values: dict[int, Any] = {}
        self.state = dict(state)
        for index, tensor in enumerate(graph.tensors):
            if _is_weight(tensor):
                self._values[index] = jnp.asarray(weights[_key(graph_index, index)])
            elif tensor.value is not None:
                self._values[index] = tensor.value

    def real(self, index: int) -> Any:
        """Returns a tensor's value as real numbers, or as an array of the program."""
        value, quantization = self._values[index], self._tensors[index].quantization
        if quantization is None or isinstance(value, np.ndarray):
            return value
        return value * self._scale(index)

    def store(self, index: int, value: Any) -> None:
        """Stores real numbers, quantised where the tensor is."""
        tensor = self._tensors[index]
        if tensor.quantization is not None and not isinstance(value, np.ndarray):
            value = _quantize(tensor, value / self._scale(index))
        self._values[index] = value

    def apply(self, operation: Operation) -> None:
        name = operation.name
        if name in STATEFUL:
            self._apply_stateful(operation)
        elif name in LINEAR:
            self._apply_linear(operation)
        else:
            self._apply_real(operation)

    def _apply_real(self, operation: Operation) -> None:
        inputs = [self.real(index) for index in operation.inputs if index >= 0]
        function = REAL[operation.name]
        if all(isinstance(value, np.ndarray) for value in inputs):
            # Arithmetic with shapes is part of the program, not of what is compiled.
            with jax.ensure_compile_time_eval():
                outputs = jax.tree.map(np.asarray, function(operation.options, *inputs))
        else:
            outputs = function(operation.options, *inputs)
        if not isinstance(outputs, list):
            outputs = [outputs]
        for index, value in zip(operation.outputs, outputs, strict=True):
            self.store(index, value)

    def _apply_linear(self, operation: Operation) -> None:
        """Applies a layer to integers, and multiplies by the scales behind it."""
        options = operation.options
        first, second, *bias = (index for index in operation.inputs if index >= 0)
        (output,) = operation.outputs
        x, kernel = self._values[first], self._values[second]
        scale = self._scale(first) * self._scale(second, of_last_axis=True)
        is_hybrid = self._is_quantized(second) and not self._is_quantized(first)
        if is_hybrid:
            x = _quantize_dynamically(operation, x, kernel)
        total = LINEAR[operation.name](options, x, kernel)
        if bias and not is_hybrid:
            total = total + self._values[bias[0]]
        target = self._tensors[output]
        unit = self._scale(output)
        total = total * jnp.asarray(scale / unit, total.dtype)
        if bias and is_hybrid:
            total = total + self._values[bias[0]]
        total = layers.activate(options.get("FusedActivationFunction", 0), total, unit)
        if target.quantization is not None:
            total = _quantize(target, total)
        self._values[output] = total

    def _apply_stateful(self, operation: Operation) -> None:
        match operation.name:
            case "VAR_HANDLE":
                shared = operation.options.get("SharedName") or b""
                self._values[operation.outputs[0]] = _Handle(shared.decode())
            case "READ_VARIABLE":
                handle = self._values[operation.inputs[0]]
                self._values[operation.outputs[0]] = self.state[handle.name]
            case "ASSIGN_VARIABLE":
                handle = self._values[operation.inputs[0]]
                value = self._values[operation.inputs[1]]
                self.state[handle.name] = jnp.asarray(value)

    def _is_quantized(self, index: int) -> bool:
        return self._tensors[index].quantization is not None

    def _scale(self, index: int, *, of_last_axis: bool = False) -> Any:
        """Returns what a tensor's stored numbers are multiplied by to be real.

        With `of_last_axis` one number for each channel is laid along the last axis.
        """
        quantization = self._tensors[index].quantization
        if quantization is None:
            return 1.0
        scale = quantization.scale
        if of_last_axis and scale.size > 1:
            return scale
        scale = quantization.along_axis(scale, len(self._tensors[index].shape))
        return float(scale) if scale.ndim == 0 else scale.astype(np.float32)


def _quantize(tensor: Tensor, steps: jax.Array) -> jax.Array:
    """Returns q - zero_point of real numbers in units of a tensor's scale."""
    limits = np.iinfo(tensor.dtype)
    zero_point = _zero_point(tensor, steps.ndim)
    low, high = limits.min - zero_point, limits.max - zero_point
    # The limits first: a number that is rounded to one lies inside them.
    return round_through(jnp.clip(steps, low, high))


def _quantize_dynamically(
    operation: Operation, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns a clip rounded to the 256 steps that lie between its least and largest.

    That is what the runtime does before it multiplies by weights that are quantised
    alone. A dense layer has other limits for each row; a convolution of width 1 is one.
    """
    options = operation.options
    is_dense = operation.name == "FULLY_CONNECTED" or (
        operation.name == "CONV_2D"
        and kernel.shape[1:3] == (1, 1)
        and options["StrideH"] == options["StrideW"] == 1
    )
    axes = -1 if is_dense else tuple(range(1, x.ndim))
    low = jnp.minimum(jnp.min(x, axis=axes, keepdims=True), 0.0)
    high = jnp.maximum(jnp.max(x, axis=axes, keepdims=True), 0.0)
    per_step = 255.0 / jnp.where(high == low, 1.0, high - low)
    zero_point = jnp.clip(jnp.round(-128.0 - low * per_step), -128.0, 127.0)
    q = jnp.clip(jnp.round(x * per_step) + zero_point, -128.0, 127.0) - zero_point
    return x + hold(q / per_step - x)


def _is_weight(tensor: Tensor) -> bool:
    if tensor.value is None:
        return False
    is_float = np.issubdtype(tensor.value.dtype, np.floating)
    return is_float or tensor.quantization is not None


def _centred(tensor: Tensor) -> np.ndarray:
    values = np.asarray(tensor.value, np.float32)
    return values - _zero_point(tensor, values.ndim).astype(np.float32)


def _zero_point(tensor: Tensor, num_dims: int) -> np.ndarray:
    quantization = tensor.quantization
    if quantization is None:
        return np.zeros(())
    return quantization.along_axis(quantization.zero_point, num_dims)


def _key(graph_index: int, index: int) -> str:
    return f"{graph_index}.{index}"
