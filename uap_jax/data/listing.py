"""Files of a corpus's folder and rows of its table, before any recording is read."""

import contextlib
import csv
import math
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uap_jax.data.dataset import unit_hash
from uap_jax.text import printable

# Path from the folder on, size in bytes, time of change in ns: names caches.
FileFacts = tuple[str, int, int]

AUDIO = (".wav", ".ogg", ".flac")
# Everything meant as a recording, also if it cannot be decoded: the user is told.
_ANY_AUDIO = (
    *(".aac", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".flac", ".m4a"),
    *(".mp2", ".mp3", ".nist", ".oga", ".ogg", ".opus", ".rf64", ".snd", ".sph"),
    *(".voc", ".w64", ".wav", ".wave", ".webm", ".wma", ".wv"),
)
# Folders that link to each other can be reached in more ways than can be walked.
_MAX_LINKS_TO_FOLDER = 16


class Listed(NamedTuple):
    """A recording before it is read."""

    path: str  # Relative to the corpus's folder.
    label: int
    group: str
    fold: int = -1


class Listing(NamedTuple):
    """A corpus as its table or its file names describe it."""

    root: Path
    layout: str  # For messages.
    class_names: tuple[str, ...]
    recordings: list[Listed]
    unusable: list[tuple[str, str]]  # Path and reason.
    files: list[FileFacts]  # All that the clips depend on.
    ignored: str = ""  # A line for a summary.


def list_files(
    root: Path,
    folder: str = "",
    *,
    suffixes: str | tuple[str, ...] = "",
    max_depth: int,
) -> list[FileFacts]:
    """Lists files of a folder in the corpus, hidden ones left out; follows links.

    Returns:
        In the order of the paths from `root` on. A broken link has size and time 0.
    """
    listed = []
    prefix = f"{folder}/" if folder else ""
    for path in sorted(prefix + path for path in _walk(root / folder, max_depth)):
        if path.lower().endswith(suffixes):
            try:
                status = os.stat(root / path)
                listed.append((path, status.st_size, status.st_mtime_ns))
            except OSError:
                listed.append((path, 0, 0))
    return listed


def list_recordings(root: str | os.PathLike[str]) -> tuple[list[str], Counter[str]]:
    """Lists the recordings of a folder at any depth, by their suffixes.

    Names that begin with a dot are left out. Links are followed, but not in circles
    and at most 16 to one folder.

    Returns:
        The paths from the folder on, sorted, and the number of other files by suffix.

    Raises:
        OSError: A folder cannot be read.
    """
    paths = sorted(_walk(root))
    suffixes = [os.path.splitext(path)[1].lower() for path in paths]
    others = Counter(s or "without suffix" for s in suffixes if s not in _ANY_AUDIO)
    pairs = zip(paths, suffixes, strict=True)
    return [path for path, suffix in pairs if suffix in _ANY_AUDIO], others


def list_beside(
    root: Path,
    table: str,
    listed: Collection[str],
    *,
    folder: str = "audio",
    max_depth: int,
) -> tuple[list[tuple[str, str]], list[FileFacts]]:
    """Returns recordings in a folder that a table does not list, and all files."""
    files = list_files(root, folder, suffixes=AUDIO, max_depth=max_depth)
    reason = f"has no row in {table}"
    unusable = [(path, reason) for path, *_ in files if path not in listed]
    status = (root / table).stat()
    return unusable, [*files, (table, status.st_size, status.st_mtime_ns)]


def as_unicode(text: str) -> str:
    """Replaces bytes that are not UTF-8, which old archives have in names."""
    return os.fsencode(text).decode("utf-8", "replace")


def find_root(data_dir: Path, marker: str) -> Path | None:
    """Returns the folder with the file `marker`: this one or the only one in it."""
    check_folder(data_dir)
    if (data_dir / marker).is_file():
        return data_dir
    inner = [path.parents[marker.count("/")] for path in data_dir.glob(f"*/{marker}")]
    return inner[0] if len(inner) == 1 else None


def check_folder(data_dir: Path) -> None:
    """Raises ValueError unless there is such a folder."""
    if not data_dir.is_dir():
        raise ValueError(f"data_dir: expected a folder, got {data_dir}, which is none")


def read_table(
    path: Path, columns: Sequence[str], *, integers: Sequence[str]
) -> Iterator[tuple[int, dict[str, str], list[int]]]:
    """Reads a table of comma-separated values whose first line names the columns.

    Yields:
        The line in the file, the values of `columns`, and those of `integers`.

    Raises:
        ValueError: It is no such table, or a value is missing or no number.
    """
    with open_table(path) as reader:
        check_columns(path, columns, reader.fieldnames or ())
        for row in reader:
            values = {name: (row[name] or "").strip() for name in columns}
            if not all(values.values()):
                raise bad_row(path, reader.line_num, "a value in every column", row)
            try:
                numbers = [int(values[name]) for name in integers]
            except ValueError:
                expected = f"numbers as {' and '.join(integers)}"
                raise bad_row(path, reader.line_num, expected, values) from None
            yield reader.line_num, values, numbers


class _Rows(csv.DictReader):
    """Rows of a table; a stray quote, which hides rows in one value, is an error."""

    def __next__(self) -> dict[str, Any]:
        start = self.line_num + 1
        row = super().__next__()
        num_commas = len(self.fieldnames or ()) - 1
        for value in row.values():
            text = "\n".join(value) if isinstance(value, list) else value or ""
            lines = text.splitlines()
            if len(lines) > 1 and any(x.count(",") >= num_commas for x in lines):
                raise csv.Error(f"rows in quotes that open in line {start}")
        return row


@contextlib.contextmanager
def open_table(path: Path) -> Generator["csv.DictReader[str]", None, None]:
    """Opens a table of comma-separated values; raises ValueError if it is none."""
    # Bytes that are not UTF-8 become what the system makes of them in file names.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = _Rows(file)
        try:
            yield reader
        except csv.Error as error:
            raise ValueError(
                f"data_dir: expected comma-separated values in {path}, got in line "
                f"{reader.line_num}: {error}"
            ) from None


def check_columns(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    """Raises ValueError for a column that a table lacks."""
    missing = [name for name in columns if name not in names]
    if missing:
        hint, line = "", ",".join(names)
        if "\0" in line:
            hint = "; it looks like UTF-16, save it as UTF-8"
        elif separators := [mark for mark in ";\t|" if mark in line]:
            hint = f"; separate values by commas, not by {separators[0]!r}"
        raise ValueError(
            f"data_dir: expected columns {','.join(columns)} in {path}, "
            f"got none named {', '.join(missing)}{hint}"
        )


def bad_row(path: Path, line: int, expected: str, got: dict[str, str]) -> ValueError:
    """Returns the error of a row with impossible values."""
    values = ",".join(str(value or "") for value in got.values())
    text = printable(f"expected {expected} in {path}:{line}, got {values}")
    return ValueError(f"data_dir: {text if len(text) <= 500 else f'{text[:497]}...'}")


def groups_by_class(groups: np.ndarray, labels: np.ndarray) -> dict[int, list[str]]:
    """Returns the groups of each class, in the order of their hashes.

    A group counts to the class of its first clip.
    """
    label_of: dict[str, int] = {}
    for group, label in zip(groups.tolist(), labels.tolist(), strict=True):
        label_of.setdefault(group, label)
    ordered: dict[int, list[str]] = {}
    for group in sorted(label_of, key=lambda group: (unit_hash(group), group)):
        ordered.setdefault(label_of[group], []).append(group)
    return ordered


def unite_groups(groups: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns `[M]` folds such that each group is in one: where most of its clips are.

    At a tie the lowest of these folds.
    """
    _, group = np.unique(groups, return_inverse=True)
    values, fold = np.unique(folds, return_inverse=True)
    counts = np.zeros((group.max() + 1, len(values)), np.int32)
    np.add.at(counts, (group, fold), 1)
    return values[counts.argmax(axis=1)][group]


def _walk(root: str | os.PathLike[str], max_depth: float = math.inf) -> Iterator[str]:
    """Yields the paths of all files in a folder, hidden ones left out."""
    num_links: Counter[tuple[int, int]] = Counter()
    # Paths from the root on, the real folders above, and whether a link leads there.
    pending: list[tuple[str, tuple[tuple[int, int], ...], bool]] = [("", (), False)]
    while pending:
        prefix, above, linked = pending.pop()
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        real = status.st_dev, status.st_ino
        num_links[real] += linked
        if real in above or (linked and num_links[real] > _MAX_LINKS_TO_FOLDER):
            continue
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
        for entry in sorted(entries, key=lambda entry: entry.name):
            is_link = entry.is_symlink()
            # For a link to itself, entry.is_dir() raises.
            if not (os.path.isdir(entry.path) if is_link else entry.is_dir()):
                yield prefix + entry.name
            elif len(above) + 1 < max_depth:
                inner = f"{prefix}{entry.name}/"
                pending.append((inner, (*above, real), linked or is_link))
