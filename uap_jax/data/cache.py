"""Clips decoded once into a folder, and memory-mapped ever after."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from uap_jax import files
from uap_jax.data.dataset import Dataset

# What reading a folder raises when files are missing or damaged.
_DAMAGE = (FileNotFoundError, ValueError, KeyError, TypeError)


def load_or_build(folder: Path, build: Callable[[Path], Dataset]) -> Dataset:
    """Loads a dataset from its cache folder, which is first built if needed.

    The folder gets its name once it is complete, so a killed build leaves nothing
    that looks like a cache. Of several processes one builds, and the others wait. A
    cache with missing or damaged files is built again.

    Args:
        folder: The cache: clips.npy, noise.npy and dataset.json.
        build: Makes the dataset. It may write clips.npy into the folder that it is
            given and return an array mapped from it.

    Returns:
        The dataset, its clips and noise mapped read-only.
    """
    with contextlib.suppress(*_DAMAGE):
        return _load(folder)
    with files.locked(folder.parent, wait=True, name=f".{folder.name}.lock"):
        # Another process may have built it while this one waited.
        with contextlib.suppress(*_DAMAGE):
            return _load(folder)
        with files.building(folder) as unfinished:
            _save(build(unfinished), unfinished)
        return _load(folder)


def write_rows(
    path: Path, rows: Iterable[np.ndarray], *, num_samples: int
) -> np.ndarray:
    """Writes clips to a .npy file one by one, so that they never fill the memory.

    Args:
        path: The file.
        rows: Clips `[num_samples]` int16; their number is known only at the end.
        num_samples: Length of a clip.

    Returns:
        `[M, num_samples]` int16, mapped from the file.
    """
    # Written, not mapped: on a full disk a write raises and a mapped page kills.
    with files.naming(path), open(path, "wb") as file:
        num_rows = 0
        _write_npy_header(file, num_rows, num_samples)
        for row in rows:
            if row.shape != (num_samples,) or row.dtype != np.int16:
                raise ValueError(
                    f"rows: expected [{num_samples}] int16, got {row.shape} {row.dtype}"
                )
            file.write(row.tobytes())
            num_rows += 1
        if not num_rows:
            raise ValueError("rows: expected clips, got none")
        file.seek(0)
        _write_npy_header(file, num_rows, num_samples)
        file.flush()
        os.fsync(file.fileno())
    return np.lib.format.open_memmap(path, mode="r")


def _save(dataset: Dataset, folder: Path) -> None:
    record = {**vars(dataset)}
    for name, value in record.items():
        if name in ("clips", "noise") and value is not None:
            if not (folder / f"{name}.npy").exists():
                files.write_array(folder / f"{name}.npy", value)
            record[name] = [*value.shape, str(value.dtype)]
        elif isinstance(value, np.ndarray):
            record[name] = value.tolist()
    # ASCII, since names may hold bytes that are not UTF-8.
    files.write_bytes(folder / "dataset.json", json.dumps(record).encode("ascii"))


def _load(folder: Path) -> Dataset:
    record = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    for name in ("clips", "noise"):
        if record[name] is not None:
            array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r")
            if [*array.shape, str(array.dtype)] != record[name]:
                raise ValueError(f"{folder}: {name}.npy is of another shape")
            record[name] = array
    for name in ("groups", "names", "official_splits"):
        if record[name] is not None:
            record[name] = np.array(record[name], dtype=np.str_)
    record["labels"] = np.array(record["labels"], np.int32)
    for name in ("class_names", "skipped"):
        record[name] = tuple(record[name])
    return Dataset(**record)


def _write_npy_header(file: BinaryIO, num_rows: int, num_samples: int) -> None:
    # NumPy leaves room for the number to grow, so this can be overwritten.
    shape = (num_rows, num_samples)
    header = {"descr": "<i2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
