"""Victims that come with the package: trained weights in half precision.

A victim is two files named after its training: NAME.npz has the weights, NAME.json says
how they were trained and how accurate they are. Another machine trains other weights
from the same seed, since sums round in another order; these are the same everywhere.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uap_jax import files
from uap_jax.errors import UsageError
from uap_jax.models import Architecture, Classifier, create

FOLDER = Path(__file__).parent / "victims"
# Of the ten that float16 has; together the victims have to stay small.
MANTISSA_BITS = 9


def describe(name: str) -> dict[str, Any] | None:
    """Returns the facts about a victim, or None where the package has none."""
    return files.read_json(FOLDER / f"{name}.json")


def names() -> list[str]:
    """Returns the names of all victims of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Classifier:
    """Returns a victim of the package.

    Raises:
        UsageError: The package has no such victim, or its file is damaged.
    """
    facts = describe(name)
    if facts is None:
        raise UsageError(f"expected one of {', '.join(names())}, got {name}")
    path = FOLDER / f"{name}.npz"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise UsageError(f"{path}: damaged; install uap_jax again")
    architecture = create(
        facts["model"],
        num_classes=len(facts["class_names"]),
        num_samples=facts["num_samples"],
    )
    variables = unpack(content, architecture)
    return architecture.classifier(variables, tuple(facts["class_names"]))


def store(folder: Path, name: str, variables: Any, facts: dict[str, Any]) -> None:
    """Writes the two files of a victim."""
    content = pack(variables)
    sha256 = hashlib.sha256(content).hexdigest()
    files.write_bytes(folder / f"{name}.npz", content)
    files.write_json(folder / f"{name}.json", {**facts, "sha256": sha256})


def pack(variables: Any) -> bytes:
    """Returns variables as the content of a file.

    Weights are rounded to float16 of a short mantissa. Their upper and lower bytes
    stand apart, as the upper ones compress well. Statistics keep float32.
    """
    halves = _round_mantissa(_joined(variables["params"])).astype(np.float16)
    planes = halves.view(np.uint8).reshape(-1, 2)
    others = {key: part for key, part in variables.items() if key != "params"}
    file = io.BytesIO()
    np.savez_compressed(
        file,
        lower=np.ascontiguousarray(planes[:, 0]),
        upper=np.ascontiguousarray(planes[:, 1]),
        statistics=_joined(others),
    )
    return file.getvalue()


def unpack(content: bytes, architecture: Architecture) -> Any:
    """Returns the variables of `pack`, in float32."""
    with np.load(io.BytesIO(content)) as stored:
        planes = np.stack([stored["lower"], stored["upper"]], axis=1)
        statistics = stored["statistics"]
    weights = planes.view(np.float16)[:, 0].astype(np.float32)
    shapes = jax.eval_shape(architecture.init, jax.random.key(0))
    others = {key: part for key, part in shapes.items() if key != "params"}
    return {"params": _split(weights, shapes["params"]), **_split(statistics, others)}


def _joined(tree: Any) -> np.ndarray:
    leaves = [np.zeros(0, np.float32), *map(np.asarray, jax.tree.leaves(tree))]
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def _split(values: np.ndarray, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(values, ends[:-1]) if leaves else []
    return structure.unflatten(
        jax.numpy.asarray(part.reshape(leaf.shape))
        for part, leaf in zip(parts, leaves, strict=True)
    )


def _round_mantissa(values: np.ndarray) -> np.ndarray:
    """Rounds numbers to `MANTISSA_BITS` beside the leading one; ties to even."""
    mantissas, exponents = np.frexp(values)  # of [0.5, 1)
    scale = 2.0 ** (MANTISSA_BITS + 1)
    return np.ldexp(np.round(mantissas * scale) / scale, exponents)
