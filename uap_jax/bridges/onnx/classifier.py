"""Networks in ONNX files as classifiers: in JAX, or through PyTorch."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from uap_jax.attacks.checks import check_choice, check_size
from uap_jax.attacks.types import Variables
from uap_jax.bridges.callback import INPUT_RANGES
from uap_jax.bridges.checks import check_classifier, one_line, probe_clips
from uap_jax.bridges.onnx.files import Graph, Node, Port, load_model, read_graph
from uap_jax.bridges.onnx.run import run_graph, unknown_operations
from uap_jax.bridges.torch_modules import Module, from_torch
from uap_jax.models.classifier import Classifier
from uap_jax.models.detectors import check_threshold, detector

FRAMEWORKS = ("jax", "torch")
# What may stand between the last activation and the output of a file.
_PASSED_ON = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")

FrontEnd = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Network:
    """The network in an ONNX file, as a function in JAX.

    Attributes:
        variables: Its weights, float32, by name.
        graph: Operations, inputs and outputs.
    """

    variables: dict[str, np.ndarray]
    graph: Graph

    def call(
        self,
        variables: Variables,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
    ) -> list[Any]:
        """Returns outputs, or other values of the graph by their names.

        Args:
            variables: Its weights.
            inputs: All that it takes, by name. NumPy arrays are known when compiling,
                as a branch or a shape that depends on one needs.
            outputs: Names; None: all outputs of the file.
        """
        names = [port.name for port in self.graph.outputs]
        return run_graph(self.graph, variables, inputs, outputs or names)

    def last_activation(self, output: str) -> Node | None:
        """Returns the softmax or sigmoid at the end, before an output."""
        producers = {name: node for node in self.graph.nodes for name in node.outputs}
        node = producers.get(output)
        while node is not None and node.name in _PASSED_ON:
            node = producers.get(node.inputs[0])
        is_last = node is not None and node.name in ("Softmax", "Sigmoid")
        return node if is_last else None


def read_onnx(path: str | os.PathLike[str]) -> Network:
    """Returns the network in an ONNX file.

    Raises:
        ImportError: The package onnx is not installed.
        OSError: The file cannot be read.
        ValueError: It is no ONNX file, is damaged, or has operations that are not
            supported in JAX; all of them are named.
    """
    graph, weights = read_graph(path)
    unknown = unknown_operations(graph)
    if unknown:
        raise _NotInJaxError(
            f"{path}: expected operations that are supported in JAX, got "
            f"{', '.join(unknown)}"
        )
    return Network(weights, graph)


class _NotInJaxError(ValueError):
    """The network is one for PyTorch; the text says why."""


def from_onnx(
    path: str | os.PathLike[str],
    *,
    num_samples: int,
    num_classes: int | None = None,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
    clip_shape: Sequence[int] | None = None,
    front_end: FrontEnd | None = None,
    inputs: Mapping[str, Any] | None = None,
    output: str | None = None,
    threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
    framework: str | None = None,
    num_threads: int | None = None,
) -> Classifier:
    """Makes a classifier of an ONNX file.

    The graph becomes one function in JAX. What has operations that are not supported
    there is made a PyTorch module by onnx2torch; a line says so. In JAX a softmax or
    sigmoid at the end is left out. With a sigmoid the network is multi-label; with one
    output it is a detector, see `models.detectors`. Half precision becomes float32.
    A network whose file has a batch of one takes clips one by one, which is compiled
    for all at once.

    Args:
        path: The file.
        num_samples: N.
        num_classes: Outputs of the network; None: of `class_names`, or any.
        sample_rate_hz: Samples per second that the network is made for.
        input_range: "box": the network gets clips in [0, 1]; "waveform": in [-1, 1].
        clip_shape: What the network takes a clip as, without the batch; None: the
            file's shape.
        front_end: Clips `[B, N]` in `input_range` to features `[B, ...]`, where the
            network takes features.
        inputs: By name, what else the network takes, the same for all clips: a rate or
            a first state.
        output: The name of the output; None: the first.
        threshold: The probability above which a label is detected.
        class_names: The classes, or labels, in the order of the outputs.
        framework: "jax" or "torch", which needs PyTorch and onnx2torch; None: JAX
            where it supports the operations.
        num_threads: Of PyTorch, see `from_torch`.

    Raises:
        ImportError: onnx, or what PyTorch needs, is not installed.
        OSError: The file cannot be read.
        ValueError: A setting is out of its range, the file is no ONNX file or damaged,
            has operations that are not supported, or the network fails on probe clips.
    """
    check_size("num_samples", num_samples)
    check_choice("input_range", input_range, INPUT_RANGES)
    check_threshold(threshold)
    if framework is not None:
        check_choice("framework", framework, FRAMEWORKS)
    path = os.fspath(path)
    names = None if class_names is None else tuple(class_names)
    num_outputs = num_classes if names is None else len(names)
    why = None
    if framework != "torch":
        try:
            classifier = _in_jax(
                path,
                num_samples=num_samples,
                num_outputs=num_outputs,
                sample_rate_hz=sample_rate_hz,
                input_range=input_range,
                clip_shape=clip_shape,
                front_end=front_end,
                inputs=inputs or {},
                output=output,
                threshold=threshold,
                class_names=names,
            )
        except _NotInJaxError as error:
            if framework == "jax":
                raise
            why = error
        else:
            return classifier
    in_jax_only = {"front_end": front_end, "inputs": inputs, "output": output}
    given = [name for name, value in in_jax_only.items() if value is not None]
    if given:
        raise why or ValueError(f"{given[0]}: expected none with framework 'torch'")
    if num_outputs is None:
        raise ValueError("num_classes: expected a number for PyTorch, got None")
    try:
        module = _load_torch(path)
    except (ImportError, ValueError) as error:
        if why is None:
            raise
        raise type(error)(f"{why}; {error}") from error
    if why is not None:
        logging.warning("%s; it runs through PyTorch", why)
    classifier = from_torch(
        module,
        num_classes=num_outputs,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        input_range=input_range,
        clip_shape=None if clip_shape is None else tuple(clip_shape),
        num_threads=num_threads,
        name=path,
    )
    return dataclasses.replace(classifier, class_names=names)


def _in_jax(
    path: str,
    *,
    num_samples: int,
    num_outputs: int | None,
    sample_rate_hz: int | None,
    input_range: str,
    clip_shape: Sequence[int] | None,
    front_end: FrontEnd | None,
    inputs: Mapping[str, Any],
    output: str | None,
    threshold: float,
    class_names: tuple[str, ...] | None,
) -> Classifier:
    network = read_onnx(path)
    port = _clips_port(path, network.graph, inputs)
    ends = [end.name for end in network.graph.outputs]
    if output is not None and output not in ends:
        raise ValueError(f"output: expected one of {', '.join(ends)}, got {output!r}")
    last = network.last_activation(output or ends[0])
    wanted = (output or ends[0]) if last is None else last.inputs[0]
    fixed = {name: np.asarray(value) for name, value in inputs.items()}

    def features_of(x: jax.Array) -> jax.Array:
        clips = 2.0 * x - 1.0 if input_range == "waveform" else x
        return clips if front_end is None else front_end(clips)

    clip = jax.ShapeDtypeStruct((1, num_samples), jnp.float32)
    given = jax.eval_shape(features_of, clip).shape[1:]
    shape, has_batch = _shape_of_clip(path, port, given, clip_shape)

    def run(variables: Variables, x: jax.Array) -> jax.Array:
        return network.call(variables, {**fixed, port.name: x}, [wanted])[0]

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        features = features_of(x)
        if has_batch:
            values = run(variables, features.reshape(len(x), *shape))
            return values.reshape(len(x), -1)
        features = features.reshape(len(x), *shape)
        values = jax.vmap(run, in_axes=(None, 0))(variables, features)
        return values.reshape(len(x), -1)

    classifier = Classifier(
        logits,
        {key: jnp.asarray(value) for key, value in network.variables.items()},
        num_samples,
        sample_rate_hz,
        # One name is that of what a detector detects.
        None if num_outputs == 1 else class_names,
        threshold if last is not None and last.name == "Sigmoid" else None,
    )
    try:
        got = classifier.num_classes
    # What does not fit in shape raises what JAX raises.
    except (TypeError, ValueError, IndexError) as error:
        raise _NotInJaxError(
            f"{path}: expected a network that takes the clips, got {one_line(error)}"
        ) from error
    if num_outputs not in (None, got):
        raise ValueError(
            f"{path}: expected a network with {num_outputs} outputs, got {got}"
        )
    compiled = jax.jit(logits)
    probes = probe_clips(num_samples)
    check_classifier(
        lambda clips: np.asarray(compiled(classifier.variables, clips)),
        probes,
        name=path,
        num_classes=got,
    )
    if got == 1 and last is None:
        scores = np.asarray(compiled(classifier.variables, probes))
        if np.all((scores >= 0.0) & (scores <= 1.0)):
            raise ValueError(
                f"{path}: expected a score before its sigmoid, got what looks like a "
                "probability"
            )
    if last is not None:
        logging.info("%s: the logits are those before its %s", path, last.name)
    if got == 1:
        label = "detection" if class_names is None else class_names[0]
        return detector(classifier, label=label, threshold=threshold)
    return classifier


def _clips_port(path: str, graph: Graph, inputs: Mapping[str, Any]) -> Port:
    """Returns the input that takes the clips."""
    names = {port.name for port in graph.inputs}
    unknown = inputs.keys() - names
    if unknown:
        raise ValueError(
            f"inputs: expected some of {', '.join(sorted(names))}, got "
            f"{', '.join(sorted(unknown))}"
        )
    ports = [port for port in graph.inputs if port.name not in inputs]
    if len(ports) != 1:
        raise ValueError(
            f"{path}: expected one input besides `inputs`, got "
            f"{', '.join(port.name for port in ports) or 'none'}"
        )
    (port,) = ports
    if not np.issubdtype(port.dtype, np.floating):
        raise ValueError(
            f"{path}: expected a network that takes real numbers, got {port.dtype} for "
            f"{port.name}"
        )
    return port


def _shape_of_clip(
    path: str,
    port: Port,
    given: tuple[int, ...],
    clip_shape: Sequence[int] | None,
) -> tuple[tuple[int, ...], bool]:
    """Returns what the network takes a clip as, and whether it takes many at once.

    A batch of one that the file fixes is part of the shape.
    """
    if port.shape is None:
        return tuple(given if clip_shape is None else clip_shape), True
    sizes = [n if isinstance(n, int) and n > 0 else None for n in port.shape]
    size = math.prod(given)
    has_batch = len(sizes) > 0 and sizes[0] is None and len(sizes) > 1
    inner = sizes[1:] if has_batch else sizes
    if clip_shape is None:
        shape = _filled(inner, given)
    else:
        shape = tuple(clip_shape)
        if not has_batch and len(shape) == len(inner) - 1 and inner[0] == 1:
            shape = (1, *shape)
    fits = (
        shape is not None
        and len(shape) == len(inner)
        and all(n in (None, m) for n, m in zip(inner, shape, strict=True))
        and math.prod(shape) == size
    )
    if fits:
        return shape, has_batch
    raise ValueError(
        f"{path}: expected clips of {list(port.shape)}, the input of the network, got "
        f"{list(given if clip_shape is None else clip_shape)}; is a front end or "
        "clip_shape missing?"
    )


def _filled(
    sizes: Sequence[int | None], given: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Returns sizes with what is open filled in; None where that is not clear."""
    if len(sizes) == len(given):
        return tuple(m if n is None else n for n, m in zip(sizes, given, strict=True))
    known = math.prod(n for n in sizes if n is not None)
    if list(sizes).count(None) > 1:
        return None
    return tuple(math.prod(given) // known if n is None else n for n in sizes)


def _load_torch(path: str) -> Module:
    try:
        import onnx2torch  # pyrefly: ignore[missing-import]
    # A torchvision of another version than PyTorch's fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            "from_onnx through PyTorch needs onnx2torch: pip install "
            f"'uap_jax[bridges]' ({one_line(error)})"
        ) from error
    model = load_model(path)
    try:
        return onnx2torch.convert(model)
    except Exception as error:
        raise ValueError(
            f"{path}: expected operations that onnx2torch knows (up to opset 17), got "
            f"{one_line(error)}"
        ) from error
