"""Clips that are rendered when they are first needed, and then read from a file."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from uap_jax import files

# Clips between two syncs; a killed rendering loses no more.
_SYNC_CLIPS = 512

# From ascending indices to (index, `[N]` int16) of at least these, in any order.
RenderFn = Callable[[np.ndarray], Iterable[tuple[int, np.ndarray]]]

T = TypeVar("T")
R = TypeVar("R")


class RenderedClips:
    """Reads like an `[M, N]` int16 array; what is read is rendered first.

    A second file says which clips are in the first, so a killed rendering resumes. Of
    several processes one renders, and the others wait. Reading takes no lock.

    Args:
        path: The .npy file; made with its folder when something is rendered.
        shape: `(M, N)`
        render: Renders clips; a clip must not depend on which others are rendered.
        progress: Called as progress(what, done, total).
        what: What is rendered.
    """

    ndim = 2
    dtype = np.dtype(np.int16)

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        render: RenderFn,
        *,
        progress: Callable[[str, int, int], None] | None = None,
        what: str = "clips",
    ) -> None:
        self.shape = shape
        self._path = path
        self._render = render
        self._progress = progress or (lambda *_: None)
        self._what = what
        self._done = np.zeros(len(self), bool)
        self._array = np.empty((0, shape[1]), np.int16)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        self.ensure(np.arange(len(self))[index])
        return self._array[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype, copy=copy)

    def ensure(self, indices: np.ndarray | int) -> None:
        """Renders what of these clips is missing; faster than while they are read."""
        wanted = np.zeros(len(self), bool)
        wanted[indices] = True
        if not len(self._missing(wanted)):
            return
        with files.locked(self._path.parent, wait=True):
            # Another process may have rendered them while this one waited.
            missing = self._missing(wanted)
            if len(missing):
                self._fill(missing)

    @property
    def _done_path(self) -> Path:
        return self._path.with_suffix(".rendered")

    def _missing(self, wanted: np.ndarray) -> np.ndarray:
        if np.any(wanted & ~self._done):
            self._read()
        return np.flatnonzero(wanted & ~self._done)

    def _read(self) -> None:
        """Maps the file; one that is missing or damaged holds no clips."""
        self._done = np.zeros(len(self), bool)
        try:
            array = np.lib.format.open_memmap(self._path, mode="r")
            done = np.fromfile(self._done_path, np.uint8) == 1
        except (FileNotFoundError, ValueError):
            return
        if (array.shape, array.dtype, len(done)) == (self.shape, self.dtype, len(self)):
            self._array, self._done = array, done

    def _fill(self, missing: np.ndarray) -> None:
        if not np.any(self._done):
            self._create()
        size = self._array[0].nbytes
        offset = self._path.stat().st_size - len(self) * size
        written: list[int] = []
        # Written, not mapped: on a full disk a write raises and a mapped page kills.
        with files.naming(self._path), open(self._path, "r+b") as file:

            def sync() -> None:
                file.flush()
                os.fsync(file.fileno())
                self._done[written] = True
                files.write_bytes(self._done_path, self._done.tobytes())

            self._progress(self._what, 0, len(missing))
            for index, row in self._render(missing):
                file.seek(offset + index * size)
                file.write(row.tobytes())
                written.append(index)
                self._progress(self._what, len(written), len(missing))
                if len(written) % _SYNC_CLIPS == 0:
                    sync()
            sync()

    def _create(self) -> None:
        """Makes the file; it takes the space of what is rendered only."""
        self._done_path.unlink(missing_ok=True)
        with files.naming(self._path), files.replacing(self._path) as file:
            header = {"descr": "<i2", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2 * self.shape[0] * self.shape[1])
        self._array = np.lib.format.open_memmap(self._path, mode="r")


def in_threads(
    function: Callable[[T], R], items: Sequence[T], *, num_workers: int | None = None
) -> Iterator[R]:
    """Yields the results of a function, in order, a bounded number ahead of the reader.

    Args:
        function: Spends its time outside of the interpreter's lock.
        items: Its arguments.
        num_workers: Threads; None: one a core.
    """
    num_workers = num_workers or os.cpu_count() or 1
    block = 16 * num_workers
    with ThreadPoolExecutor(num_workers) as pool:
        for start in range(0, len(items), block):
            yield from pool.map(function, items[start : start + block])
