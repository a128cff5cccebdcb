"""UrbanSound8K: 8,732 excerpts of city sounds in ten classes and ten folds.

Salamon, Jacoby, Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM
Multimedia 2014. Sizes of the "paper" split: Abdoli et al., "Universal Adversarial
Audio Perturbations", released code.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np

from uap_jax.data.dataset import Dataset, unit_hash
from uap_jax.data.decoding import Decoding, load_listed
from uap_jax.data.listing import (
    Listed,
    Listing,
    bad_row,
    find_root,
    list_beside,
    read_table,
    unite_groups,
)
from uap_jax.files import fingerprint

# In the order of classID.
CLASS_NAMES = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
SPLITS = ("official", "paper")

# In the cache key and the fingerprint; raised when clips, or splits, change.
_VERSION = 1
_SPLIT_VERSION = 1
# The table and the folder of fold1 to fold10: official, and as Kaggle unpacks it.
_LAYOUTS = (("metadata/UrbanSound8K.csv", "audio"), ("UrbanSound8K.csv", ""))
_COLUMNS = ("slice_file_name", "fsID", "fold", "classID")
_LAYOUT = " or ".join(
    f"{table} and {os.path.join(audio, 'fold<number>', '<name>.wav')}"
    for table, audio in _LAYOUTS
)


def load_urbansound8k(
    data_dir: str | os.PathLike[str],
    decoding: Decoding,
    *,
    split: Literal["official", "paper"] = "official",
    test_fold: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Loads the unpacked UrbanSound8K archive, decoded once into a cache.

    Groups are the source recordings. Both splits share one cache, not the fingerprint.

    Args:
        data_dir: The folder with `audio` and `metadata`, or as Kaggle unpacks it with
            `fold1` and so on, or the one that holds it.
        decoding: How recordings become clips.
        split: "official": by folds; "paper": by clips, at random. See docs/data.md.
        test_fold: Test fold of "official"; None: the highest.
        split_seed: Seed of "paper".

    Raises:
        ValueError: A setting is wrong, the folder is not in this layout, the table
            is damaged, nothing can be used, or there are too few folds.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    listing = _list(Path(data_dir))
    key = fingerprint("urbansound8k", _VERSION, *decoding.key, listing.files)
    dataset, folds = load_listed(listing, decoding, name="urbansound8k", key=key)
    if split == "paper":
        splits, rule = _split_clips(dataset.names, split_seed), ["paper", split_seed]
    else:
        splits, rule = _split_folds(dataset, folds, test_fold), ["official", test_fold]
    return dataclasses.replace(
        dataset,
        official_splits=splits,
        groups_overlap=split == "paper",
        fingerprint=fingerprint(dataset.fingerprint, _SPLIT_VERSION, *rule),
    )


def _list(data_dir: Path) -> Listing:
    for name, audio in _LAYOUTS:
        root = find_root(data_dir, name)
        if root is not None and any((root / audio).glob("fold*")):
            break
    else:
        raise ValueError(f"data_dir: expected {_LAYOUT} in {data_dir}, found none")
    table = root / name
    recordings = []
    for line, row, (fold, label) in read_table(
        table, _COLUMNS, integers=("fold", "classID")
    ):
        if fold < 1 or not 0 <= label < len(CLASS_NAMES):
            raise bad_row(table, line, "a fold from 1 and a classID in 0..9", row)
        path = os.path.join(audio, f"fold{fold}", row["slice_file_name"])
        recordings.append(Listed(path, label, row["fsID"], fold))
    listed = {recording.path for recording in recordings}
    beside = list_beside(root, name, listed, folder=audio, max_depth=2)
    return Listing(root, _LAYOUT, CLASS_NAMES, recordings, *beside)


def _split_folds(
    dataset: Dataset, folds: np.ndarray, test_fold: int | None
) -> np.ndarray:
    folds = unite_groups(dataset.groups, folds)
    present = np.unique(folds).tolist()
    if len(present) < 3:
        raise ValueError(
            "data_dir: expected recordings of at least 3 folds, one a split, got "
            f"those of {', '.join(f'fold{fold}' for fold in present)}"
        )
    test_fold = present[-1] if test_fold is None else test_fold
    if test_fold not in present:
        raise ValueError(f"test_fold: expected one of {present}, got {test_fold}")
    in_validation = folds == present[present.index(test_fold) - 1]
    in_test = folds == test_fold
    return np.select([in_test, in_validation], ["test", "validation"], "train")


def _split_clips(names: np.ndarray, seed: int) -> np.ndarray:
    # By hashes, so that most clips stay in their split when one is left out.
    order = np.argsort([unit_hash(f"{seed}:{name}") for name in names])
    num_test = math.ceil(len(names) / 10)
    num_validation = math.ceil((len(names) - num_test) / 10)
    counts = (num_test, num_validation, len(names) - num_test - num_validation)
    splits = np.empty(len(names), dtype="<U10")
    splits[order] = np.repeat(["test", "validation", "train"], counts)
    return splits
