"""Recordings that a table or their names describe, decoded once into the cache."""

import contextlib
import csv
import os
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from uap_jax.audio.files import AudioFileError, printable
from uap_jax.data.cache import decode_clips, list_files, load_or_build, write_rows
from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.files import content_fingerprint

Crop = Literal["start", "center"]
FileFacts = tuple[str, int, int]  # Path, size, time of change: see `list_files`.

_AUDIO = (".wav", ".ogg", ".flac")


class Listed(NamedTuple):
    """What is known of a recording before it is read."""

    path: str  # Relative to the corpus's folder.
    label: int
    group: str
    fold: int


class Listing(NamedTuple):
    """A corpus as its table or its names describe it."""

    root: Path
    layout: str  # For messages.
    class_names: tuple[str, ...]
    recordings: list[Listed]
    undescribed: list[tuple[str, str]]  # Path, and why it cannot be used.


def check_settings(
    data_dir: Path, sample_rate_hz: int, num_samples: int, crop: str
) -> None:
    """Raises ValueError for a setting that every corpus shares."""
    for name, value in (
        ("sample_rate_hz", sample_rate_hz),
        ("num_samples", num_samples),
    ):
        if value <= 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    if crop not in ("start", "center"):
        raise ValueError(f'crop: expected "start" or "center", got {crop!r}')
    if not data_dir.is_dir():
        raise ValueError(f"data_dir: expected a folder, got {data_dir}, which is none")


def find_root(data_dir: Path, marker: str) -> Path | None:
    """Returns the folder with the file `marker`: this one, or the only one in it."""
    if (data_dir / marker).is_file():
        return data_dir
    inner = [path.parents[marker.count("/")] for path in data_dir.glob(f"*/{marker}")]
    return inner[0] if len(inner) == 1 else None


def list_audio(root: Path, folder: str, *, max_depth: int) -> list[FileFacts]:
    """Lists the recordings in a folder of the corpus; the paths begin with it."""
    return [
        (f"{folder}/{path}", size, changed_ns)
        for path, size, changed_ns in list_files(root / folder, max_depth=max_depth)
        if path.lower().endswith(_AUDIO)
    ]


def table_facts(root: Path, table: str) -> FileFacts:
    """Returns of a table what `list_audio` returns of recordings."""
    status = (root / table).stat()
    return table, status.st_size, status.st_mtime_ns


def read_table(
    path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads a table of comma-separated values.

    Args:
        path: The file; its first line names the columns.
        columns: Those that are needed.

    Yields:
        For each row the line in the file and the values by column.

    Raises:
        ValueError: A column is missing, a row is too short, or it is no such table.
    """
    with open_table(path) as reader:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"data_dir: expected columns {','.join(columns)} in {path}, "
                f"got none named {', '.join(missing)}"
            )
        for row in reader:
            values = {name: (row[name] or "").strip() for name in columns}
            if not all(values.values()):
                raise bad_row(path, reader.line_num, "a value in every column", row)
            yield reader.line_num, values


@contextlib.contextmanager
def open_table(path: Path) -> Generator["csv.DictReader[str]", None, None]:
    """Opens a table of comma-separated values.

    Raises:
        ValueError: What is read inside is not one.
    """
    # As the system reads the names of the files.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        try:
            yield reader
        except csv.Error as error:
            raise ValueError(
                f"data_dir: expected comma-separated values in {path}, got in line "
                f"{reader.line_num}: {error}"
            ) from None


def bad_row(path: Path, line: int, expected: str, got: object) -> ValueError:
    """Returns the error of a row that says something impossible."""
    if isinstance(got, dict):
        got = ",".join(str(value or "") for value in got.values())
    text = printable(f"expected {expected} in {path}:{line}, got {got}")
    return ValueError(f"data_dir: {text if len(text) <= 500 else f'{text[:497]}...'}")


def load_listed(
    listing: Listing,
    *,
    name: str,
    key: str,
    cache_dir: str | os.PathLike[str],
    sample_rate_hz: int,
    num_samples: int,
    crop: Crop,
    strict: bool,
    num_workers: int | None,
    progress: ProgressFn | None,
) -> tuple[Dataset, np.ndarray]:
    """Loads what a listing describes, decoded once into a cache.

    Args:
        listing: The corpus.
        name: The corpus's name.
        key: A hash of all that the clips depend on, which names the cache.
        cache_dir: Where caches are kept.
        sample_rate_hz: Rate of the clips.
        num_samples: Length of the clips.
        crop: As for `decode_clips`.
        strict: Whether a recording that cannot be used is an error.
        num_workers: As for `decode_clips`.
        progress: As for `decode_clips`.

    Returns:
        The dataset, without splits, and the fold of each of its clips, `[M]`.

    Raises:
        ValueError: No recording can be used, or one is listed twice.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    root = listing.root
    by_path = {recording.path: recording for recording in listing.recordings}
    if len(by_path) < len(listing.recordings):
        counts = Counter(recording.path for recording in listing.recordings)
        twice = counts.most_common(1)[0][0]
        raise ValueError(
            f"data_dir: expected each recording once, got {printable(twice)} twice in "
            f"{root}"
        )

    def build(folder: Path) -> Dataset:
        used: list[Listed] = []
        skipped: list[str] = []

        def skip(path: str, reason: str) -> None:
            if strict:
                raise AudioFileError(root / path, reason)
            skipped.append(f"{path}: {reason}")

        def rows() -> Iterator[np.ndarray]:
            decoded = decode_clips(
                [root / path for path in by_path],
                sample_rate_hz=sample_rate_hz,
                num_samples=num_samples,
                crop=crop,
                num_workers=num_workers,
                progress=progress,
            )
            for recording, row in zip(listing.recordings, decoded, strict=True):
                if isinstance(row, AudioFileError):
                    skip(recording.path, row.reason)
                else:
                    used.append(recording)
                    yield row
            if not used:
                raise ValueError(
                    f"data_dir: expected recordings as {listing.layout}, none of "
                    f"{len(skipped)} in {root} can be used"
                    + (f", such as {printable(skipped[-1])}" if skipped else "")
                )

        for path, reason in listing.undescribed:
            skip(path, reason)
        clips = write_rows(folder / "clips.npy", rows(), num_samples=num_samples)
        labels = np.array([recording.label for recording in used], np.int32)
        groups = np.array([recording.group for recording in used])
        names = np.array([recording.path for recording in used])
        return Dataset(
            name=name,
            clips=clips,
            labels=labels,
            class_names=listing.class_names,
            groups=groups,
            names=names,
            sample_rate_hz=sample_rate_hz,
            fingerprint=content_fingerprint(
                clips,
                labels,
                np.array(listing.class_names),
                groups,
                names,
                np.array([recording.fold for recording in used]),
                np.array([sample_rate_hz]),
            ),
            skipped=tuple(skipped),
        )

    dataset = load_or_build(Path(cache_dir) / f"{name}-{key}", build)
    if strict and dataset.skipped:
        path, _, reason = dataset.skipped[0].partition(": ")
        raise AudioFileError(root / path, reason)
    return dataset, np.array([by_path[str(path)].fold for path in dataset.names])


def unite_groups(groups: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns folds such that each group is in one: where most of its clips are.

    Args:
        groups: `[M]` strings.
        folds: `[M]` integers.

    Returns:
        `[M]` integers; where two folds hold equally many, the lower one.
    """
    united = folds.copy()
    names, inverse = np.unique(groups, return_inverse=True)
    low = np.full(len(names), folds.max())
    high = np.full(len(names), folds.min())
    np.minimum.at(low, inverse, folds)
    np.maximum.at(high, inverse, folds)
    for group in np.flatnonzero(low != high):
        members = inverse == group
        values, counts = np.unique(folds[members], return_counts=True)
        united[members] = values[counts.argmax()]
    return united
