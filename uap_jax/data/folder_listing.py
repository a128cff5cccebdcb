"""The recordings of a folder or a table, listed without decoding any."""

import functools
import os
import re
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from uap_jax.audio.files import AudioFileError, read_header
from uap_jax.data.dataset import ProgressFn, Splits
from uap_jax.data.decoding import Listed, Listing
from uap_jax.data.listing import (
    FileFacts,
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
_SPLIT_FOLDERS = frozenset(
    (
        *("train", "training", "val", "valid", "validation", "dev"),
        *("test", "testing", "eval", "evaluation"),
    )
)


class _Row(NamedTuple):
    """A recording's description; "" where nothing is stated."""

    path: str
    label: str
    group: str = ""
    split: str = ""


# Rows, what is unusable and why, and a line on what is ignored for the summary, or "".
_Rows = tuple[list[_Row], list[tuple[str, str]], str]


class Recordings(NamedTuple):
    """The recordings of a folder or a table; their folds are splits, or -1."""

    listing: Listing
    files: list[FileFacts]
    ignored: str  # A line for the summary, or "".


def find_recordings(
    data_dir: str | os.PathLike[str], group_pattern: str | None
) -> Recordings:
    """Lists the recordings of a folder or a table, see `folder.load_folder`.

    Raises:
        ValueError: A setting is wrong, the folder is in neither layout, the table
            lacks a column, nothing can be used, there is only one class, or a group
            spans two splits.
        OSError: A folder cannot be read.
    """
    pattern = _compile(group_pattern)
    root = source = Path(data_dir)
    if root.suffix.lower() == ".csv" and root.is_file():
        root = root.parent
    elif (root / _TABLE).is_file():
        source = root / _TABLE
    check_folder(root)
    described = _list_folders(root) if source == root else _read_table(source)
    rows, files, unusable = _select(root, *described[:2])
    if not rows:
        example = printable(f", such as {': '.join(unusable[0])}") if unusable else ""
        raise ValueError(
            f"data_dir: expected recordings as {_LAYOUT}, found none that can be used "
            f"in {source}; skipped {len(unusable)}{example}"
        )
    names = sorted({row.label for row in rows})
    _check_classes(names, source, by_folder=source == root)
    names.sort(key=_order)
    labels = {name: label for label, name in enumerate(names)}
    recordings = []
    for row in rows:
        match = pattern.search(row.path) if pattern else None
        group = row.group or (match and match[1]) or row.path
        split = Splits._fields.index(row.split) if row.split else -1
        recordings.append(Listed(row.path, labels[row.label], group, split))
    _check_groups(recordings, source)
    listing = Listing(root, _LAYOUT, tuple(names), recordings, unusable)
    return Recordings(listing, files, described[2])


def read_headers(
    listing: Listing, num_workers: int | None, progress: ProgressFn | None
) -> tuple[Listing, list[tuple[int, int]]]:
    """Returns the listing of usable recordings, and their headers: frames and rate."""
    paths = [listing.root / recording.path for recording in listing.recordings]
    recordings, headers = [], []
    unusable = list(listing.unusable)
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for done, (recording, header) in enumerate(
            zip(listing.recordings, pool.map(_read_header, paths), strict=True), 1
        ):
            if isinstance(header, AudioFileError):
                unusable.append((recording.path, header.reason))
            else:
                recordings.append(recording)
                headers.append(header)
            if progress is not None:
                progress("reading headers", done, len(paths))
    return listing._replace(recordings=recordings, unusable=unusable), headers


def format_counts(counts: Mapping[str, int]) -> str:
    """Returns counts as "a (2), b (1)"."""
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _list_folders(root: Path) -> _Rows:
    rows, unusable = [], []
    paths, ignored = list_recordings(root)
    for path in sorted(paths, key=lambda path: (_composed(path), path)):
        if "/" in path:
            rows.append(_Row(path, _composed(as_unicode(path.partition("/")[0]))))
        else:
            unusable.append((path, "is in no folder of a class"))
    line = f"ignored, not audio: {format_counts(ignored)}" if ignored else ""
    return rows, unusable, line


def _read_table(table: Path) -> _Rows:
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
            problem = _problem_of(row, entry.get(None), has_split="split" in names)
            if problem:
                line = f"{table.name}:{reader.line_num}"
                unusable.append((row.path or line, f"{problem} ({line})"))
            else:
                rows.append(row)
    others = ", ".join(name for name in names if name not in _ALL_COLUMNS)
    return rows, unusable, f"ignored columns: {others}" if others else ""


def _problem_of(row: _Row, surplus: Any, *, has_split: bool) -> str:
    if not row.path:
        return "has no path"
    if surplus:
        return "has more values than there are columns"
    if not row.label:
        return "has no label"
    if has_split and row.split not in Splits._fields:
        return f"has the split {row.split!r}, none of {', '.join(Splits._fields)}"
    return ""


def _select(
    root: Path, described: list[_Row], unusable: list[tuple[str, str]]
) -> tuple[list[_Row], list[FileFacts], list[tuple[str, str]]]:
    """Returns the rows of existing files, once each; their facts; the others."""
    same: dict[str, list[_Row]] = {}
    facts: dict[str, FileFacts] = {}
    # Once for all files of a folder.
    real_folder = functools.cache(os.path.realpath)
    for row in described:
        path = os.path.join(root, row.path)
        folder, name = os.path.split(path)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            unusable.append((row.path, "does not exist"))
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or error
            unusable.append((row.path, f"cannot be read ({reason})"))
        else:
            if stat.S_ISREG(status.st_mode):
                facts[row.path] = row.path, status.st_size, status.st_mtime_ns
                is_link = os.path.islink(path)
                real = os.path.join(real_folder(folder), name)
                real = os.path.realpath(path) if is_link else real
                same.setdefault(real, []).append(row)
            else:
                unusable.append((row.path, "is no file"))
    rows = []
    for first, *others in same.values():
        if any(other[1:] != first[1:] for other in others):
            others.insert(0, first)
            reason = "is listed twice, with different labels, groups or splits"
        else:
            rows.append(first)
            reason = f"is listed twice, the first time as {first.path}"
        unusable += [(row.path, reason) for row in others]
    return rows, [facts[row.path] for row in rows], unusable


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
    if len(names) < 2:
        raise ValueError(
            f"data_dir: expected at least 2 classes in {source}, got only {names[0]!r}"
        )


def _check_groups(recordings: Sequence[Listed], source: Path) -> None:
    """Refuses, before decoding, what cannot be split after it."""
    splits: dict[str, int] = {}
    for recording in recordings:
        split = splits.setdefault(recording.group, recording.fold)
        if split != recording.fold:
            raise ValueError(
                f"data_dir: expected each group in one split in {source}, got "
                f"{printable(recording.group)} in {Splits._fields[split]} and "
                f"{Splits._fields[recording.fold]}"
            )


def _read_header(path: Path) -> tuple[int, int] | AudioFileError:
    try:
        return read_header(path)
    except AudioFileError as error:
        return error


def _compile(group_pattern: str | None) -> re.Pattern[str] | None:
    if group_pattern is None:
        return None
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise ValueError(
            f"group_pattern: expected a regular expression, got {group_pattern!r}: "
            f"{error}"
        ) from None
    if pattern.groups != 1:
        raise ValueError(
            "group_pattern: expected a regular expression with one group, got "
            f"{pattern.groups} in {group_pattern!r}"
        )
    return pattern


def _order(name: str) -> tuple[bool, int, str]:
    is_number = name.isdecimal()
    return not is_number, int(name) if is_number else 0, name


def _composed(name: str) -> str:
    # Some file systems give decomposed names, which are not what a keyboard writes.
    return unicodedata.normalize("NFC", name)
