"""Networks in TFLite files as classifiers in JAX."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.checks import check_choice, check_size
from uap_jax.attacks.types import Variables
from uap_jax.bridges.callback import INPUT_RANGES
from uap_jax.bridges.checks import one_line
from uap_jax.bridges.tflite import layers
from uap_jax.bridges.tflite.files import Graph, Operation, read_graphs
from uap_jax.bridges.tflite.run import (
    initial_state,
    run_graph,
    unknown_operations,
    weights_of,
)
from uap_jax.models.classifier import Classifier
from uap_jax.models.detectors import check_threshold, detector

# What may stand between the last activation and the output of a file.
_PASSED_ON = ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE")
# How a streaming network's outputs over time become one.
OVER_TIME = {"max": jnp.max, "mean": jnp.mean, "last": lambda x, axis: x[-1]}

FrontEnd = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Network:
    """The network in a TFLite file.

    Attributes:
        variables: Its weights; integers where they are quantised.
        input_shape: What it takes a clip, or a chunk of one, as; the first axis is the
            batch, and -1 a size that the file leaves open.
        is_streaming: It keeps a state between calls.
        graphs: The file's graphs.
    """

    variables: dict[str, np.ndarray]
    input_shape: tuple[int, ...]
    is_streaming: bool
    graphs: tuple[Graph, ...]

    def initial_state(self, variables: Variables) -> dict[str, jax.Array]:
        return initial_state(self.graphs, variables)

    def call(
        self, variables: Variables, state: dict[str, jax.Array], x: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns what the file's output is for one clip `input_shape`, as the runtime
        would, in real numbers, and the new state."""
        outputs = self.graphs[0].outputs
        (output,), state = run_graph(self.graphs, 0, variables, state, [x], outputs)
        return output, state

    def logits(
        self, variables: Variables, state: dict[str, jax.Array], x: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`call`, but before a softmax or logistic function at the end, `[C]`."""
        last = self.last_activation
        wanted = self.graphs[0].outputs if last is None else last.inputs
        (output,), state = run_graph(self.graphs, 0, variables, state, [x], wanted)
        if last is not None and last.name == "SOFTMAX":
            output = layers.softmax_scale(last.options) * output
        return output.reshape(-1), state

    @property
    def last_activation(self) -> Operation | None:
        """The softmax or logistic function at the end."""
        graph = self.graphs[0]
        producers = {i: op for op in graph.operations for i in op.outputs}
        operation = producers.get(graph.outputs[0])
        while operation is not None and operation.name in _PASSED_ON:
            operation = producers.get(operation.inputs[0])
        is_last = operation is not None and operation.name in ("SOFTMAX", "LOGISTIC")
        return operation if is_last else None


def read_network(path: str | os.PathLike[str]) -> Network:
    """Returns the network in a TFLite file.

    Raises:
        ImportError: The package tflite is not installed.
        OSError: The file cannot be read.
        ValueError: It is no TFLite file, is damaged, has more than one input or output,
            a batch of more than one clip, or operations that are not supported (all of
            them are named).
    """
    graphs = read_graphs(path)
    unknown = unknown_operations(graphs)
    if unknown:
        raise ValueError(
            f"{path}: expected operations that from_tflite supports, got "
            f"{', '.join(unknown)}"
        )
    graph = graphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"{path}: expected one input and one output, got {len(graph.inputs)} and "
            f"{len(graph.outputs)}"
        )
    names = {operation.name for operation in graph.operations}
    return Network(
        weights_of(graphs),
        graph.tensors[graph.inputs[0]].shape,
        "ASSIGN_VARIABLE" in names,
        graphs,
    )


def from_tflite(
    path: str | os.PathLike[str],
    *,
    num_samples: int,
    num_classes: int | None = None,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
    clip_shape: Sequence[int] | None = None,
    front_end: FrontEnd | None = None,
    over_time: str = "max",
    threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> Classifier:
    """Makes a classifier of a TFLite file, as a JAX function with a gradient.

    The weights may be float32, float16, int8 alone (the runtime then rounds a clip to
    256 steps before a layer) or, with what the layers compute, int8, uint8 or int16.
    Rounding has the gradient of the identity. A softmax or logistic function at the end
    is left out. With a logistic function the network is multi-label; with one output it
    is a detector, see `models.detectors`. A streaming network is unrolled over the
    clip, with its state; samples that do not fill its last chunk are left out.

    Args:
        path: The file, of a network with one input and one output.
        num_samples: N.
        num_classes: Outputs of the network; None: of `class_names`, or any.
        sample_rate_hz: Samples per second that the network is made for.
        input_range: "box": the network gets clips in [0, 1]; "waveform": in [-1, 1].
        clip_shape: What the network takes a clip as, without the batch; None: the
            file's shape.
        front_end: Clips `[B, N]` in `input_range` to features `[B, ...]`, where the
            network takes features; a streaming network is unrolled over their second
            axis.
        over_time: What a streaming network's outputs become: "max", "mean" or "last".
        threshold: The probability above which a label is detected.
        class_names: The classes, or labels, in the order of the outputs.

    Raises:
        ImportError: The package tflite is not installed.
        OSError: The file cannot be read.
        ValueError: A setting is out of its range, the network cannot take the clips, or
            it fails as in `read_network`.
    """
    check_size("num_samples", num_samples)
    check_choice("input_range", input_range, INPUT_RANGES)
    check_choice("over_time", over_time, tuple(OVER_TIME))
    check_threshold(threshold)
    network = read_network(path)

    def features_of(x: jax.Array) -> jax.Array:
        clips = 2.0 * x - 1.0 if input_range == "waveform" else x
        return clips if front_end is None else front_end(clips)

    clip = jax.ShapeDtypeStruct((1, num_samples), jnp.float32)
    shape = jax.eval_shape(features_of, clip).shape[1:]
    chunk = _chunk_shape(path, network, shape, clip_shape)

    def logits_of_clip(variables: Variables, features: jax.Array) -> jax.Array:
        state = network.initial_state(variables)
        if not network.is_streaming:
            return network.logits(variables, state, features.reshape(chunk))[0]

        def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            logits, state = network.logits(variables, state, x)
            return state, logits

        _, logits = jax.lax.scan(step, state, _chunks(features, chunk))
        return OVER_TIME[over_time](logits, axis=0)

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        of_clips = jax.vmap(logits_of_clip, in_axes=(None, 0))
        return of_clips(variables, features_of(x))

    names = None if class_names is None else tuple(class_names)
    last = network.last_activation
    variables = {key: jnp.asarray(value) for key, value in network.variables.items()}
    classifier = Classifier(
        logits,
        variables,
        num_samples,
        sample_rate_hz,
        names,
        threshold if last is not None and last.name == "LOGISTIC" else None,
    )
    num_outputs = _num_outputs(path, classifier)
    expected = num_classes if names is None else len(names)
    if expected not in (None, num_outputs):
        raise ValueError(
            f"{path}: expected a network with {expected} outputs, got {num_outputs}"
        )
    if num_outputs == 1:
        label = "detection" if names is None else names[0]
        return detector(classifier, label=label, threshold=threshold)
    return classifier


def _num_outputs(path: str | os.PathLike[str], classifier: Classifier) -> int:
    try:
        return classifier.num_classes
    # What does not fit in shape raises what JAX raises.
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path}: expected a network that takes the clips, got {one_line(error)}"
        ) from error


def _chunk_shape(
    path: str | os.PathLike[str],
    network: Network,
    shape: tuple[int, ...],
    clip_shape: Sequence[int] | None,
) -> tuple[int, ...]:
    """Returns the shape, batch of one included, of what goes into the network."""
    expected = network.input_shape
    size = math.prod(shape)
    if clip_shape is not None:
        # What the file leaves open fits any size.
        given = tuple(clip_shape)
        for chunk in (given, (1, *given)):
            fits = len(chunk) == len(expected) and all(
                e in (-1, g) for e, g in zip(expected, chunk, strict=True)
            )
            if fits and (network.is_streaming or math.prod(chunk) == size):
                return chunk
    else:
        # A batch that is left open is 1; another open size takes what is left.
        is_batch_open = len(expected) > 1 and expected[0] == -1
        chunk = (1, *expected[1:]) if is_batch_open else expected
        known = math.prod(n for n in chunk if n != -1)
        if chunk.count(-1) == 1 and size % known == 0:
            chunk = tuple(size // known if n == -1 else n for n in chunk)
        fits = -1 not in chunk and math.prod(chunk) == size
        in_chunks = (
            network.is_streaming and -1 not in chunk and math.prod(chunk) <= size
        )
        if fits or in_chunks:
            return chunk
    raise ValueError(
        f"{path}: expected clips of {list(expected)}, the input of the network, got "
        f"{list(shape if clip_shape is None else clip_shape)}; is a front end or "
        "clip_shape missing?"
    )


def _chunks(features: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a clip cut along its first axis, `[chunks, *shape]`."""
    row = math.prod(features.shape[1:])
    length = math.prod(shape) // row
    num_chunks = features.shape[0] // length
    return features[: num_chunks * length].reshape(num_chunks, *shape)
