"""Networks in files, ONNX or PyTorch's (TorchScript or torch.export).

Beside the file lies one of its name and .json that says what it is made for, see
`STATED_EXAMPLE`. "input_range" is what the network takes: "waveform" in [-1, 1], or
"box" in [0, 1]; one that does not take clips as `[B, N]` has "clip_shape" too, for
example [1, 16000].
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uap_jax.errors import UsageError
from uap_jax.models import OwnModel

FILE_SUFFIXES = (".onnx", ".pt", ".pth", ".pt2")
STATED_EXAMPLE = (
    '{"sample_rate_hz": 16000, "num_samples": 16000, "class_names": ["no", "yes"], '
    '"input_range": "waveform"}'
)
_STATED = ("sample_rate_hz", "num_samples", "class_names", "input_range")


def read_model(path: Path) -> tuple[OwnModel, str]:
    """Returns the network in a file, and a hash of all that it depends on.

    Raises:
        UsageError: It cannot be read, or is not what is stated beside it.
        OSError: A file cannot be read.
    """
    from uap_jax import bridges

    stated = _read_stated(path)
    names = stated.pop("class_names")
    read = bridges.from_onnx if path.suffix == ".onnx" else bridges.from_torch_file
    try:
        bridge = read(path, num_classes=len(names), **stated)
        own = OwnModel(
            bridge.logits,
            bridge.variables,
            num_samples=bridge.num_samples,
            sample_rate_hz=stated["sample_rate_hz"],
            class_names=names,
        )
    except ImportError as error:
        raise UsageError(f"--model: {error}") from None
    except ValueError as error:
        is_of_file = str(error).startswith(str(path))
        where = "--model" if is_of_file else str(stated_path(path))
        raise UsageError(f"{where}: {error}") from None
    digest = hashlib.sha256()
    for file in _files_of(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return own, digest.hexdigest()


def stated_path(path: Path) -> Path:
    """Returns where it stands what a file is made for."""
    return path.with_name(f"{path.name}.json")


def _read_stated(path: Path) -> dict[str, Any]:
    """Returns what a file is made for, as arguments of a bridge."""
    beside = stated_path(path)
    expected = f"such as {STATED_EXAMPLE}"
    try:
        stated = json.loads(beside.read_text())
    except FileNotFoundError:
        raise UsageError(
            f"--model: expected {beside} to say what {path.name} is made for, "
            f"{expected}, got no such file"
        ) from None
    # Brackets can be too deep.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{beside}: expected JSON {expected}, got {error}") from None
    if not isinstance(stated, dict) or stated.keys() - {"clip_shape"} != set(_STATED):
        got = ", ".join(stated) if isinstance(stated, dict) else "no object"
        raise UsageError(f"{beside}: expected an object {expected}, got {got}")
    names, shape = stated["class_names"], stated.get("clip_shape", [])
    for key, part, kind in (("class_names", names, str), ("clip_shape", shape, int)):
        if not isinstance(part, list) or not all(isinstance(x, kind) for x in part):
            raise UsageError(f"{beside}: expected a list for {key}, got {part!r}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"{beside}: expected two or more different class_names, got {names}"
        )
    return stated | {"clip_shape": tuple(shape) or None}


def _files_of(path: Path) -> Iterator[Path]:
    """Yields all files that a network depends on."""
    yield path
    yield stated_path(path)
    if path.suffix == ".onnx":
        import onnx  # pyrefly: ignore[missing-import]

        graph = onnx.load(path, load_external_data=False).graph
        entries = [entry for part in graph.initializer for entry in part.external_data]
        locations = {entry.value for entry in entries if entry.key == "location"}
        for location in sorted(locations):
            yield path.parent / location
