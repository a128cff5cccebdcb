"""Networks in files: ONNX, TFLite or PyTorch's (TorchScript or torch.export).

A file of the same name plus .json says what the network is made for, see
`FACTS_EXAMPLE`. "input_range" is what the network takes: "waveform" in [-1, 1], or
"box" in [0, 1]; one that does not take clips as `[B, N]` has "clip_shape" too, for
example [1, 16000]. An ONNX or TFLite network with a logistic function at the end may
have a "threshold" other than 0.5, above which a label is detected; one with one output,
a detector, has one class name, that of what it detects. A PyTorch network with a
"threshold" gives scores before their sigmoid, one for each label. "framework" is "jax"
or "torch", what runs an ONNX network; without it, JAX where it supports the operations.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging

from uap_jax import bridges
from uap_jax.errors import UsageError
from uap_jax.models import Classifier
from uap_jax.models.detectors import check_threshold

FILE_SUFFIXES = (".onnx", ".tflite", ".pt", ".pth", ".pt2")
FACTS_EXAMPLE = (
    '{"sample_rate_hz": 16000, "num_samples": 16000, "class_names": ["no", "yes"], '
    '"input_range": "waveform"}'
)
_KEYS = set(json.loads(FACTS_EXAMPLE))


def read_classifier(path: Path) -> tuple[Classifier, str, str]:
    """Returns the network in a file, a hash of all it depends on, a note for the user.

    Raises:
        UsageError: It cannot be read, or is not what the JSON file beside it says.
        OSError: A file cannot be read.
    """
    facts = _read_facts(path)
    lines: list[str] = []
    try:
        if _is_onnx(path):
            with _collect_log(lines):
                classifier = bridges.from_onnx(path, **facts)
        elif _is_tflite(path):
            classifier = bridges.from_tflite(path, **facts)
        else:
            names, threshold = facts.pop("class_names"), facts.pop("threshold", None)
            if threshold is not None:
                check_threshold(threshold)
            classifier = dataclasses.replace(
                bridges.from_torch_file(path, num_classes=len(names), **facts),
                class_names=tuple(names),
                threshold=threshold,
            )
    except ImportError as error:
        raise UsageError(f"--model: {error}") from None
    except ValueError as error:
        is_of_file = str(error).startswith(str(path))
        where = "--model" if is_of_file else str(facts_path(path))
        raise UsageError(f"{where}: {error}") from None
    digest = hashlib.sha256()
    for file in _files_of(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    note = "; ".join(line.removeprefix(f"{path}: ") for line in lines)
    return classifier, digest.hexdigest(), note


@contextlib.contextmanager
def _collect_log(lines: list[str]) -> Iterator[None]:
    """Collects what a bridge logs, which a launcher says in its own way."""
    logger = absl.logging.get_absl_logger()
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate, _ = before
        logger.setLevel(before[2])


def facts_path(path: Path) -> Path:
    """Returns the JSON file that says what a network file is made for."""
    return path.with_name(f"{path.name}.json")


def _read_facts(path: Path) -> dict[str, Any]:
    """Returns what a file is made for, as arguments of a bridge and class_names."""
    beside = facts_path(path)
    expected = f"such as {FACTS_EXAMPLE}"
    try:
        facts = json.loads(beside.read_text())
    except FileNotFoundError:
        raise UsageError(
            f"--model: expected {beside} to say what {path.name} is made for, "
            f"{expected}, got no such file"
        ) from None
    # Deep nesting raises RecursionError.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{beside}: expected JSON {expected}, got {error}") from None
    may_detect = _is_tflite(path) or _is_onnx(path)
    optional = {"clip_shape", "threshold"}
    optional |= {"framework"} if _is_onnx(path) else set()
    if not isinstance(facts, dict) or facts.keys() - optional != _KEYS:
        got = ", ".join(facts) if isinstance(facts, dict) else "no object"
        raise UsageError(f"{beside}: expected an object {expected}, got {got}")
    names, shape = facts["class_names"], facts.get("clip_shape", [])
    for key, value, kind in (("class_names", names, str), ("clip_shape", shape, int)):
        if not isinstance(value, list) or not all(isinstance(x, kind) for x in value):
            raise UsageError(f"{beside}: expected a list for {key}, got {value!r}")
    for key in ("sample_rate_hz", "num_samples"):
        if type(facts[key]) is not int:
            got = json.dumps(facts[key])
            raise UsageError(f"{beside}: expected an integer for {key}, got {got}")
    least, words = (1, "one") if may_detect else (2, "two")
    if len(names) < least or len(set(names)) < len(names):
        raise UsageError(
            f"{beside}: expected {words} or more different class_names, got {names}"
        )
    return facts | {"clip_shape": tuple(shape) or None}


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def _is_tflite(path: Path) -> bool:
    return path.suffix.lower() == ".tflite"


def _files_of(path: Path) -> Iterator[Path]:
    """Yields all files that a network depends on."""
    yield path
    yield facts_path(path)
    if _is_onnx(path):
        import onnx  # pyrefly: ignore[missing-import]

        graph = onnx.load(path, load_external_data=False).graph
        entries = [entry for part in graph.initializer for entry in part.external_data]
        locations = {entry.value for entry in entries if entry.key == "location"}
        for location in sorted(locations):
            yield path.parent / location
