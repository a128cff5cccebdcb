"""Files written whole or not at all, locks, fingerprints and the cache's folder."""

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from uap_jax.errors import UsageError

Record = TypeVar("Record")

# Devices of file systems that are known to have no locks.
_unlocked: set[int] = set()


class InUseError(UsageError):
    """Another process holds the folder."""


@contextlib.contextmanager
def replacing(path: Path) -> Generator[BinaryIO, None, None]:
    """Opens a file that replaces `path` once it is complete and on the disk."""
    # Without the name, which may be as long as names can be.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with naming(path), open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def building(folder: Path) -> Generator[Path, None, None]:
    """Yields an empty folder that replaces `folder` once it is complete.

    The caller holds a lock; what a killed process left is removed.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        if folder.is_dir():
            shutil.rmtree(folder)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def naming(path: Path) -> Generator[None, None, None]:
    """Names the file in an OSError that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON; numbers that are not finite become null."""
    write_bytes(path, (json.dumps(finite(value), indent=2) + "\n").encode())


def read_json(
    path: Path, record_type: Callable[..., Record] = dict[str, Any]
) -> Record | None:
    """Reads a JSON object, or returns None if there is no such file.

    Args:
        path: The file.
        record_type: Takes the object's fields as keywords, such as a dataclass.

    Raises:
        UsageError: The file holds something else.
    """
    try:
        return record_type(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        raise UsageError(
            f"{path}: damaged, expected a JSON object; delete the file"
        ) from None


def write_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line."""
    write_bytes(path, "".join(map(_line, objects)).encode())


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Appends one JSON object as a line."""
    with naming(path), path.open("a") as file:
        file.write(_line(entry))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of one JSON object a line; skips torn lines."""
    objects = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            objects.append(json.loads(line))
    return [entry for entry in objects if isinstance(entry, dict)]


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file."""
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        # Not by NumPy, whose error on a full disk has neither number nor name.
        file.write(array.data)


def write_arrays(path: Path, **arrays: Any) -> None:
    """Writes arrays by name to an .npz file."""
    with replacing(path) as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def locked(
    folder: Path, *, wait: bool, name: str = ".lock"
) -> Generator[None, None, None]:
    """Locks a folder, made if needed, against other processes.

    The lock ends with the process, so a killed one holds none. A file system without
    locks is used unlocked, which a warning says once.

    Raises:
        InUseError: Another process holds the lock, and `wait` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InUseError(f"{folder}: in use by another process") from None
        except OSError as error:  # Some network file systems.
            _warn_unlocked(os.fstat(file.fileno()).st_dev, folder, error)
        yield


def _warn_unlocked(device: int, folder: Path, error: OSError) -> None:
    if device not in _unlocked:
        _unlocked.add(device)
        logging.getLogger("uap_jax").warning(
            "%s: no locks on this file system (%s); let one process at a time use it",
            *(folder, error.strerror),
        )


def finite(value: Any) -> Any:
    """Returns JSON-like data with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def default_cache_dir() -> Path:
    """Returns $UAP_JAX_CACHE, or a folder in the user's cache."""
    if folder := os.environ.get("UAP_JAX_CACHE"):
        return expanded(folder)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "uap_jax"


def expanded(path: str) -> Path:
    """Returns the path, its `~` the user's home if there is one."""
    return Path(os.path.expanduser(path))


def fingerprint(*parts: Any) -> str:
    """Returns 16 hex digits that depend on the parts, which JSON can express."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_fingerprint(*arrays: np.ndarray | None) -> str:
    """Returns 16 hex digits that depend on the content of arrays.

    The same clips, decoded again from copied recordings or on another machine, have
    the same fingerprint, so models trained on them are found in the cache.

    Args:
        *arrays: Numbers or strings of any shape; may be memory-mapped.
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


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(finite(entry)) + "\n"
