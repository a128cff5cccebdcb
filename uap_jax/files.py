"""Files of a work directory; each is written aside and renamed when whole."""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uap_jax.errors import UsageError


class InUseError(UsageError):
    """Another process holds the folder."""


def write_json(path: Path, value: Any) -> None:
    """Writes JSON; what is not finite becomes null."""
    write_bytes(path, (json.dumps(finite(value), indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, or None if there is no such file.

    Raises:
        UsageError: The file holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    # Brackets can be too deep.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a JSON object; delete the file")
    return value


def write_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line."""
    text = "".join(json.dumps(finite(entry)) + "\n" for entry in objects)
    write_bytes(path, text.encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file with one a line; torn lines are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    objects = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            objects.append(json.loads(line))
    return [entry for entry in objects if isinstance(entry, dict)]


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds one JSON object as a line and flushes it."""
    with naming(path), path.open("a") as file:
        file.write(json.dumps(finite(entry)) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_arrays(path: Path, **arrays: Any) -> None:
    """Writes arrays by name to an npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, so that it is there whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is private; its successor is as public as others here.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Generator[None, None, None]:
    """Names the file in an OSError that does not, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Generator[None, None, None]:
    """Holds a folder, made if it is not there, against other processes.

    The lock goes with the process, so a killed one leaves none behind.

    Raises:
        InUseError: Another process holds it, and `wait` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InUseError(f"{folder}: another process works there") from None
        yield


def finite(value: Any) -> Any:
    """Returns JSON-like data with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def default_cache_dir() -> Path:
    """Returns where caches go unless told: below $UAP_JAX_CACHE or the user's cache."""
    if folder := os.environ.get("UAP_JAX_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "uap_jax"
    return Path.home() / ".cache" / "uap_jax"


def fingerprint(*parts: Any) -> str:
    """Returns 16 hex digits that depend on the parts, which JSON can express."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_fingerprint(*arrays: np.ndarray | None) -> str:
    """Returns 16 hex digits that depend on what arrays hold.

    Clips that are decoded anew from a copy of the recordings, or on another machine,
    have the one that they had, so that what was trained on them is found.

    Args:
        *arrays: Numbers or strings, of any shape; large ones may be mapped.
    """
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none")
            continue
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for row in array.reshape(-1, array.shape[-1]) if array.size else ():
            digest.update(row.tobytes())
    return digest.hexdigest()[:16]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
