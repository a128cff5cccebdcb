"""The recordings of a folder or a table, listed without decoding any."""

import functools
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from uap_jax.audio.files import AudioFileError, read_header
from uap_jax.data.dataset import ProgressFn, Splits, find_spanning
from uap_jax.data.listing import (
    FileFacts,
    Listed,
    Listing,
    as_unicode,
    check_columns,
    check_folder,
    list_recordings,
    open_table,
)
from uap_jax.text import printable

_TABLE = "labels.csv"
_COLUMNS = ("path", "label")
_ALL_COLUMNS = (*_COLUMNS, "group", "split")
_LAYOUT = f"<class>/<recording>, or {_TABLE} with columns path,label"
# Of a class's name in bytes; leaves room for the rest of a file's name.
_MAX_NAME_BYTES = 200
# Folders that are not classes if there are no others.
_SPLIT_FOLDERS = (
    *("train", "training", "val", "valid", "validation", "dev"),
    *("test", "testing", "eval", "evaluation"),
)


class _Row(NamedTuple):
    """A recording's description; "" where nothing is stated."""

    path: str
    label: str
    group: str = ""
    split: str = ""


_Unusable = list[tuple[str, str]]  # Paths and reasons.


def find_recordings(
    data_dir: str | os.PathLike[str], group_pattern: str | None
) -> Listing:
    """Lists the recordings of a folder or a table, see `folder.load_folder`.

    Folds are indices of splits, or -1 where the table has no splits.

    Raises:
        ValueError: A setting is wrong, the folder is in neither layout, the table
            lacks a column, nothing can be used, there is only one class, or a group
            spans two splits.
        OSError: A folder cannot be read.
    """
    pattern = None if group_pattern is None else _compile(group_pattern)
    root = source = Path(data_dir)
    if root.suffix.lower() == ".csv" and root.is_file():
        root = root.parent
    elif (root / _TABLE).is_file():
        source = root / _TABLE
    check_folder(root)
    by_folder = source == root
    described, unusable, ignored = (_list_folders if by_folder else _read_table)(source)
    rows, files = _select(root, described, unusable)
    if not rows:
        example = printable(f", such as {': '.join(unusable[0])}") if unusable else ""
        raise ValueError(
            f"data_dir: expected recordings as {_LAYOUT}, found none that can be used "
            f"in {source}; skipped {len(unusable)}{example}"
        )
    names = sorted({row.label for row in rows})
    _check_classes(names, source, by_folder=by_folder)
    # Numbers first, by value.
    names.sort(key=lambda name: (0, int(name)) if name.isdecimal() else (1, 0))
    labels = {name: label for label, name in enumerate(names)}
    recordings = []
    for row in rows:
        match = pattern.search(row.path) if pattern else None
        group = row.group or (match and match[1]) or row.path
        split = Splits._fields.index(row.split) if row.split else -1
        recordings.append(Listed(row.path, labels[row.label], group, split))
    groups = [recording.group for recording in recordings]
    if spanning := find_spanning(groups, [row.split for row in rows]):
        group, first, second = spanning
        raise ValueError(
            f"data_dir: expected each group in one split in {source}, got "
            f"{printable(group)} in {first} and {second}"
        )
    return Listing(root, _LAYOUT, tuple(names), recordings, unusable, files, ignored)


def read_headers(
    listing: Listing, num_workers: int | None, progress: ProgressFn | None
) -> tuple[Listing, list[tuple[int, int]]]:
    """Returns the listing of usable recordings, and their headers: frames and rate."""

    def read(recording: Listed) -> tuple[int, int] | AudioFileError:
        try:
            return read_header(listing.root / recording.path)
        except AudioFileError as error:
            return error

    recordings, headers, unusable = [], [], [*listing.unusable]
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        results = pool.map(read, listing.recordings)
        for done, header in enumerate(results):
            recording = listing.recordings[done]
            if isinstance(header, AudioFileError):
                unusable.append((recording.path, header.reason))
            else:
                recordings.append(recording)
                headers.append(header)
            if progress is not None:
                progress("reading headers", done + 1, len(listing.recordings))
    return listing._replace(recordings=recordings, unusable=unusable), headers


def format_counts(counts: Mapping[str, int]) -> str:
    """Returns counts as "a (2), b (1)"."""
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _list_folders(root: Path) -> tuple[list[_Row], _Unusable, str]:
    """Returns rows, what is unusable, and a line on what is ignored, or ""."""
    rows, unusable = [], []
    paths, ignored = list_recordings(root)
    for path in sorted(paths, key=lambda path: (_composed(path), path)):
        if "/" in path:
            rows.append(_Row(path, _composed(as_unicode(path.partition("/")[0]))))
        else:
            unusable.append((path, "is in no folder of a class"))
    line = f"ignored, not audio: {format_counts(ignored)}" if ignored else ""
    return rows, unusable, line


def _read_table(table: Path) -> tuple[list[_Row], _Unusable, str]:
    rows, unusable = [], []
    with open_table(table) as reader:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        check_columns(table, _COLUMNS, names)
        reader.fieldnames = names
        for entry in reader:
            row = _Row(*((entry.get(name) or "").strip() for name in _ALL_COLUMNS))
            row = row._replace(
                label=_composed(as_unicode(row.label)), split=row.split.lower()
            )
            if not row.path:
                problem = "has no path"
            elif entry.get(None):
                problem = "has more values than there are columns"
            elif not row.label:
                problem = "has no label"
            elif "split" in names and row.split not in Splits._fields:
                expected = ", ".join(Splits._fields)
                problem = f"has the split {row.split!r}, none of {expected}"
            else:
                rows.append(row)
                continue
            line = f"{table.name}:{reader.line_num}"
            unusable.append((row.path or line, f"{problem} ({line})"))
    others = ", ".join(name for name in names if name not in _ALL_COLUMNS)
    return rows, unusable, f"ignored columns: {others}" if others else ""


def _select(
    root: Path, described: list[_Row], unusable: _Unusable
) -> tuple[list[_Row], list[FileFacts]]:
    """Returns the rows of existing files, once each; adds others to `unusable`."""
    same: dict[str, list[tuple[_Row, FileFacts]]] = {}
    # Once for all files of a folder.
    real_folder = functools.cache(os.path.realpath)
    for row in described:
        path = os.path.join(root, row.path)
        folder, name = os.path.split(path)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            unusable.append((row.path, "does not exist"))
            continue
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or error
            unusable.append((row.path, f"cannot be read ({reason})"))
            continue
        if not stat.S_ISREG(status.st_mode):
            unusable.append((row.path, "is no file"))
            continue
        real = os.path.join(real_folder(folder), name)
        if os.path.islink(path):
            real = os.path.realpath(path)
        facts = row.path, status.st_size, status.st_mtime_ns
        same.setdefault(real, []).append((row, facts))
    selected = []
    for entries in same.values():
        rows = [row for row, _ in entries]
        if any(row[1:] != rows[0][1:] for row in rows):
            reason = "is listed twice, with different labels, groups or splits"
        else:
            reason = f"is listed twice, the first time as {rows.pop(0).path}"
            selected.append(entries[0])
        unusable += [(row.path, reason) for row in rows]
    return [row for row, _ in selected], [facts for _, facts in selected]


def _check_classes(names: Sequence[str], source: Path, *, by_folder: bool) -> None:
    for name in names:
        has_control = any(unicodedata.category(letter) == "Cc" for letter in name)
        if "/" in name or has_control or len(name.encode()) > _MAX_NAME_BYTES:
            raise ValueError(
                "data_dir: expected names of classes that can be in names of files, "
                f"got {name[:80]!r} in {source}"
            )
    if by_folder and all(name.lower() in _SPLIT_FOLDERS for name in names):
        raise ValueError(
            f"data_dir: expected a folder for each class in {source}, got splits: "
            f"{', '.join(names)}; give one of them, or a {_TABLE} with a column split"
        )


def _compile(group_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        got = f"{group_pattern!r}: {error}"
    else:
        if pattern.groups == 1:
            return pattern
        got = f"{pattern.groups} in {group_pattern!r}"
    raise ValueError(
        f"group_pattern: expected a regular expression with one group, got {got}"
    )


def _composed(name: str) -> str:
    # Some file systems give decomposed names, which are not what a keyboard writes.
    return unicodedata.normalize("NFC", name)
