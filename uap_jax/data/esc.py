"""ESC-50 and ESC-10: five-second recordings of the environment, in five folds.

Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np

from uap_jax.data.dataset import Dataset
from uap_jax.data.decoding import Decoding, load_listed
from uap_jax.data.listing import (
    AUDIO,
    Listed,
    Listing,
    as_unicode,
    bad_row,
    find_root,
    groups_by_class,
    list_beside,
    list_files,
    read_table,
    unite_groups,
)
from uap_jax.files import fingerprint

# In the cache key; raised when clips or splits change.
_VERSION = 1
# Of the sources that are not in the test.
_VALIDATION_SHARE = 1 / 6
_TABLE = "meta/esc50.csv"
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
_FOLDER = re.compile(r"(?P<number>\d+) - (?P<name>.+)")
_RECORDING = re.compile(r"(?P<fold>\d+)-(?P<source>\d+)-(?P<take>[A-Z]+)\.\w+")
_LAYOUTS = {
    "esc50": f"{_TABLE} and audio/<name>.wav",
    "esc10": f"{_TABLE} and audio/<name>.wav, or "
    "<number> - <class>/<fold>-<source>-<take>.ogg",
}


def load_esc(
    data_dir: str | os.PathLike[str],
    decoding: Decoding,
    *,
    subset: Literal["esc50", "esc10"],
) -> Dataset:
    """Loads ESC-50, its ten classes ESC-10, or the original release of ESC-10.

    Layouts and splits are described in docs/data.md. Groups are the source recordings.

    Args:
        data_dir: The folder in one of the layouts, or the one that holds it.
        decoding: How recordings become clips.
        subset: Which classes.

    Raises:
        ValueError: A setting is wrong, the folder is not in one of the layouts, the
            table is damaged, nothing can be used, or there are too few folds.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    data_dir = Path(data_dir)
    if subset not in _LAYOUTS:
        raise ValueError(f"subset: expected one of {tuple(_LAYOUTS)}, got {subset!r}")
    root = find_root(data_dir, _TABLE)
    if root is not None and (root / "audio").is_dir():
        listing = _list_table(root, subset)
    elif subset == "esc10":
        listing = _list_folders(data_dir)
    else:
        raise ValueError(
            f"data_dir: expected {_LAYOUTS[subset]} in {data_dir}, found none"
        )
    key = fingerprint(subset, _VERSION, *decoding.key, listing.files)
    dataset, folds = load_listed(listing, decoding, name=subset, key=key)
    return dataclasses.replace(dataset, official_splits=_split(dataset, folds))


def _list_table(root: Path, subset: str) -> Listing:
    table = root / _TABLE
    classes: dict[int, str] = {}
    rows = []
    listed = set()
    for line, row, (fold, target) in read_table(
        table, _COLUMNS, integers=("fold", "target")
    ):
        path = f"audio/{row['filename']}"
        listed.add(path)
        if fold < 1 or target < 0:
            raise bad_row(table, line, "a fold from 1 and a target from 0", row)
        if subset == "esc10" and row["esc10"].lower() != "true":
            continue
        category = classes.setdefault(target, row["category"])
        if category != row["category"]:
            raise bad_row(table, line, f"{category} as category of {target}", row)
        rows.append(Listed(path, target, row["src_file"], fold))
    targets = sorted(classes)
    recordings = [row._replace(label=targets.index(row.label)) for row in rows]
    names = tuple(classes[target] for target in targets)
    beside = list_beside(root, _TABLE, listed, max_depth=1)
    return Listing(root, _LAYOUTS[subset], names, recordings, *beside)


def _list_folders(data_dir: Path) -> Listing:
    inner = sorted(path for path in data_dir.iterdir() if path.is_dir())
    roots = [path for path in (data_dir, *inner) if _class_folders(path)]
    if len(roots) != 1:
        got = f"{len(roots)} of them" if roots else "none"
        raise ValueError(
            f"data_dir: expected {_LAYOUTS['esc10']} in {data_dir}, found {got}"
        )
    root = roots[0]
    names, files, recordings, unusable = [], [], [], []
    for label, folder in enumerate(_class_folders(root)):
        name = folder.partition(" - ")[2].lower().replace(" ", "_")
        names.append(as_unicode(name))
        in_class = list_files(root, folder, suffixes=AUDIO, max_depth=1)
        files += in_class
        for path, *_ in in_class:
            if match := _RECORDING.fullmatch(path.partition("/")[2]):
                fold = int(match["fold"])
                recordings.append(Listed(path, label, match["source"], fold))
            else:
                unusable.append((path, "is not named <fold>-<source>-<take>.ogg"))
    layout = _LAYOUTS["esc10"]
    return Listing(root, layout, tuple(names), recordings, unusable, files)


def _class_folders(root: Path) -> list[str]:
    names = [path.name for path in root.iterdir() if path.is_dir()]
    matches = filter(None, map(_FOLDER.fullmatch, names))
    return [m[0] for m in sorted(matches, key=lambda match: int(match["number"]))]


def _split(dataset: Dataset, folds: np.ndarray) -> np.ndarray:
    folds = unite_groups(dataset.groups, folds)
    in_test = folds == folds.max()
    if np.all(in_test):
        raise ValueError(
            f"data_dir: expected recordings of at least 2 folds, got those of fold "
            f"{folds.max()}"
        )
    held_out: list[str] = []
    for sources in groups_by_class(
        dataset.groups[~in_test], dataset.labels[~in_test]
    ).values():
        num_held_out = max(len(sources) > 1, round(_VALIDATION_SHARE * len(sources)))
        held_out += sources[:num_held_out]
    in_validation = np.isin(dataset.groups, held_out)
    return np.select([in_test, in_validation], ["test", "validation"], "train")
