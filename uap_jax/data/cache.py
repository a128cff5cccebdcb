"""Clips decoded once into a folder and mapped into memory ever after."""

import contextlib
import dataclasses
import errno
import fcntl
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from uap_jax.audio.files import AudioFileError, read_audio, to_pcm16
from uap_jax.data.dataset import Dataset, ProgressFn

_BLOCK_FILES = 256
# What reading a folder raises when files are missing or damaged.
_DAMAGE = (FileNotFoundError, ValueError, KeyError, TypeError)


def list_files(folder: Path, *, max_depth: int = 3) -> list[tuple[str, int, int]]:
    """Lists the files in a folder and in its folders, hidden ones left out.

    Args:
        folder: The folder. Links are followed.
        max_depth: Levels of folders to look into.

    Returns:
        Relative path, size in bytes and time of change in nanoseconds, in the order
        of the paths. A link that leads nowhere has size and time 0.
    """
    found = []
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if not entry.name.startswith(".")]
    for entry in entries:
        # Of a link that leads to itself, is_dir() raises.
        if not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()):
            try:
                status = entry.stat()
                found.append((entry.name, status.st_size, status.st_mtime_ns))
            except OSError:
                found.append((entry.name, 0, 0))
        elif max_depth > 1:
            inner = list_files(Path(entry.path), max_depth=max_depth - 1)
            found += [(f"{entry.name}/{path}", *rest) for path, *rest in inner]
    return sorted(found)


def decode_clips(
    paths: Sequence[Path],
    *,
    sample_rate_hz: int,
    num_samples: int,
    crop: Literal["start", "center"] = "start",
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Iterator[np.ndarray | AudioFileError]:
    """Decodes recordings in parallel, in their order, a few hundred at a time.

    Args:
        paths: The recordings.
        sample_rate_hz: Rate of the clips.
        num_samples: Length of the clips.
        crop: "start" cuts recordings, or pads them with zeros, at the end; "center"
            at both ends alike.
        num_workers: Threads; None takes one a core.
        progress: Called as progress("decoding", done, total).

    Yields:
        For each recording `[num_samples]` int16, or why it cannot be used.
    """

    def decode(path: Path) -> np.ndarray | AudioFileError:
        try:
            waveform = read_audio(
                path,
                sample_rate_hz=sample_rate_hz,
                num_samples=num_samples if crop == "start" else None,
            )
        except AudioFileError as error:
            return error
        return to_pcm16(_center(waveform, num_samples))

    # Threads: as fast as processes (libsndfile runs without the interpreter lock),
    # and safe beside JAX, which must not be forked.
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for start in range(0, len(paths), _BLOCK_FILES):
            block = paths[start : start + _BLOCK_FILES]
            yield from pool.map(decode, block)
            if progress is not None:
                progress("decoding", start + len(block), len(paths))


def write_rows(
    path: Path, rows: Iterable[np.ndarray], *, num_samples: int
) -> np.ndarray:
    """Writes clips to a .npy file one by one, so that they never fill the memory.

    Args:
        path: The file.
        rows: Clips `[num_samples]` int16; how many is known at the end only.
        num_samples: Length of a clip.

    Returns:
        `[M, num_samples]` int16, mapped from the file.

    Raises:
        ValueError: A clip is of another shape or type, or there are none.
        OSError: The file cannot be written.
    """
    # Written, not mapped: on a full disk a write raises and a mapped page kills.
    with name_full_disk(path), open(path, "wb") as file:
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
    return _map_array(path)


def load_or_build(folder: Path, build: Callable[[Path], Dataset]) -> Dataset:
    """Loads a dataset from its cache folder, which is built first where needed.

    The folder gets its name when it is complete, so a build that is killed leaves
    nothing that looks like a cache. Of several processes one builds, and the others
    wait for it. A cache with missing or damaged files is built again.

    Args:
        folder: The cache: clips.npy, noise.npy and dataset.json.
        build: Makes the dataset. It may write clips.npy and noise.npy into the
            folder that it is given and return arrays mapped from them.

    Returns:
        The dataset, its clips and noise mapped read-only.

    Raises:
        OSError: The folder cannot be read or written.
    """
    with contextlib.suppress(*_DAMAGE):
        return _load(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder) as locked:
        # Built by another process while this one waited.
        with contextlib.suppress(*_DAMAGE):
            return _load(folder)
        if locked:
            _remove_leftovers(folder)
        _build(folder, build)
        return _load(folder)


@contextlib.contextmanager
def name_full_disk(path: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Makes the error of a full disk name the file, which writing to it does not."""
    try:
        yield
    except OSError as error:
        # What NumPy raises: "1000 requested and 512 written", without a number.
        short = error.errno is None and re.search(
            r"requested and \d+ written", str(error)
        )
        if error.errno != errno.ENOSPC and not short:
            raise
        text = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, text, os.fspath(path)) from error


def _build(folder: Path, build: Callable[[Path], Dataset]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, temporary / "damaged")
        content = temporary / "content"
        content.mkdir()
        _save(build(content), content)
        try:
            os.rename(content, folder)
        except OSError:
            # Without locks somebody else may have been first.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(dataset: Dataset, folder: Path) -> None:
    record = {
        field.name: getattr(dataset, field.name)
        for field in dataclasses.fields(dataset)
        if field.name not in ("clips", "noise")
    }
    record = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in record.items()
    }
    for name in ("clips", "noise"):
        array = getattr(dataset, name)
        path = folder / f"{name}.npy"
        if array is not None and not path.exists():
            with name_full_disk(path):
                np.save(path, array)
        record[name] = None if array is None else [*array.shape, str(array.dtype)]
    path = folder / "dataset.json"
    with name_full_disk(path), open(path, "w", encoding="ascii") as file:
        # Escaped, since names may hold bytes that are no UTF-8.
        json.dump(record, file, ensure_ascii=True)
        file.flush()
        os.fsync(file.fileno())


def _load(folder: Path) -> Dataset:
    record = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    for name in ("clips", "noise"):
        if record[name] is not None:
            array = _map_array(folder / f"{name}.npy")
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


@contextlib.contextmanager
def _lock(folder: Path) -> Generator[bool, None, None]:
    """Waits for the lock file beside `folder`; False where there are no locks."""
    path = folder.with_name(f".{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(open(path, "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # some network file systems
                locked = False
                break
            # Whoever had the lock has removed the file, and with it what it locks.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samefile(path, file.fileno()):
                    locked = True
                    break
            file.close()
        try:
            yield locked
        finally:
            path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes temporary folders; their processes have died, or would hold the lock."""
    for leftover in folder.parent.glob(f"{glob.escape(_prefix(folder))}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.building-"


def _center(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Cuts or pads `[N]` at both ends alike, to `[num_samples]`."""
    missing = num_samples - len(waveform)
    if missing >= 0:
        return np.pad(waveform, (missing // 2, missing - missing // 2))
    start = -missing // 2
    return waveform[start : start + num_samples]


def _map_array(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


def _write_npy_header(file: BinaryIO, num_rows: int, num_samples: int) -> None:
    # NumPy leaves room for the count to grow, so this can be written over.
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.int16)),
            "fortran_order": False,
            "shape": (num_rows, num_samples),
        },
    )
