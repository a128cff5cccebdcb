"""UrbanSound8K: 8,732 excerpts of city sounds in ten classes and ten folds."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

import numpy as np

from uap_jax.data._listed import (
    Crop,
    FileFacts,
    Listed,
    Listing,
    bad_row,
    check_settings,
    find_root,
    list_audio,
    load_listed,
    read_table,
    table_facts,
    unite_groups,
)
from uap_jax.data.dataset import Dataset, ProgressFn, unit_hash
from uap_jax.files import fingerprint

# In the order of classID.
CLASS_NAMES = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
SPLITS = ("official", "paper")

# Go into the cache key and the fingerprint; to be raised when clips, or splits,
# come out differently.
_VERSION = 1
_SPLIT_VERSION = 1
_TABLE = "metadata/UrbanSound8K.csv"
_COLUMNS = ("slice_file_name", "fsID", "fold", "classID")
_LAYOUT = f"{_TABLE} and audio/fold<number>/<name>.wav"


def load_urbansound8k(
    data_dir: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str],
    sample_rate_hz: int = 16000,
    num_samples: int = 50_999,
    crop: Crop = "start",
    split: Literal["official", "paper"] = "official",
    test_fold: int | None = None,
    split_seed: int = 0,
    strict: bool = False,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Loads the unpacked UrbanSound8K archive, decoded once into a cache.

    Recordings of any rate, width and number of channels become one channel at one
    rate. Excerpts last 0.05 to 4 s, clips of 50,999 samples 3.19 s: longer ones lose
    their end, shorter ones are padded with zeros at the end (`crop="start"`), or
    both ends alike (`crop="center"`). The groups are the Freesound recordings that
    the excerpts were cut from; a class without clips keeps its place.

    Splits:
        "official": By folds, of which at least three must be there. The fold before
            the test fold, or the highest if there is none, is the validation. A few
            recordings (five in the archive) are in two folds; all their clips
            count to the fold with more of them, at a tie to the lower.
        "paper": 10% of all clips for the test and 10% of the others for the
            validation, at random, 7,072, 786 and 874 clips. Most test clips then
            come from recordings that training has heard, see `leaked_share`.

    Args:
        data_dir: The folder with `audio` and `metadata`, or the one that holds it.
        cache_dir: Where caches are kept.
        sample_rate_hz: Rate of the clips.
        num_samples: Length of the clips.
        crop: Which part of a recording of another length is kept.
        split: Which splits.
        test_fold: Fold of the test for "official"; None takes the highest.
        split_seed: Seed of "paper".
        strict: Whether a recording that cannot be used, has no row in the table or
            no file is an error; otherwise it is left out and named in
            `Dataset.skipped`.
        num_workers: Threads that decode; None takes one a core.
        progress: Called as progress("decoding", done, total).

    Returns:
        The dataset. Both splits share one cache, and have fingerprints of their own.

    Raises:
        ValueError: A setting is wrong, the folder is not in this layout, the table
            is damaged, nothing can be used, or there are too few folds.
        AudioFileError: With `strict`, the first recording that cannot be used.
        OSError: The cache cannot be written.

    Source:
        Salamon, Jacoby, Bello, "A Dataset and Taxonomy for Urban Sound Research",
        ACM Multimedia 2014. The sizes of "paper": Abdoli et al., "Universal
        Adversarial Audio Perturbations", released code.
    """
    data_dir = Path(data_dir)
    check_settings(data_dir, sample_rate_hz, num_samples, crop)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    listing, files = _list(data_dir)
    dataset, folds = load_listed(
        listing,
        name="urbansound8k",
        key=fingerprint(
            "urbansound8k", _VERSION, sample_rate_hz, num_samples, crop, files
        ),
        cache_dir=cache_dir,
        sample_rate_hz=sample_rate_hz,
        num_samples=num_samples,
        crop=crop,
        strict=strict,
        num_workers=num_workers,
        progress=progress,
    )
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


def _list(data_dir: Path) -> tuple[Listing, list[FileFacts]]:
    root = find_root(data_dir, _TABLE)
    if root is None or not (root / "audio").is_dir():
        raise ValueError(f"data_dir: expected {_LAYOUT} in {data_dir}, found none")
    table = root / _TABLE
    recordings = []
    for line, row in read_table(table, _COLUMNS):
        try:
            fold, label = int(row["fold"]), int(row["classID"])
        except ValueError:
            raise bad_row(table, line, "numbers as fold and classID", row) from None
        if fold < 1 or not 0 <= label < len(CLASS_NAMES):
            raise bad_row(table, line, "a fold from 1 and a classID in 0..9", row)
        path = f"audio/fold{fold}/{row['slice_file_name']}"
        recordings.append(Listed(path, label, row["fsID"], fold))
    files = list_audio(root, "audio", max_depth=2)
    listed = {recording.path for recording in recordings}
    undescribed = [
        (path, f"has no row in {_TABLE}") for path, *_ in files if path not in listed
    ]
    listing = Listing(root, _LAYOUT, CLASS_NAMES, recordings, undescribed)
    return listing, [*files, table_facts(root, _TABLE)]


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
    if test_fold is None:
        test_fold = present[-1]
    if test_fold not in present:
        raise ValueError(f"test_fold: expected one of {present}, got {test_fold}")
    splits = np.full(len(folds), "train", dtype="<U10")
    splits[folds == present[present.index(test_fold) - 1]] = "validation"
    splits[folds == test_fold] = "test"
    return splits


def _split_clips(names: np.ndarray, seed: int) -> np.ndarray:
    # By hashes, so that most clips keep their place when one is left out.
    order = np.argsort([unit_hash(f"{seed}:{name}") for name in names])
    num_test = -(-len(names) // 10)
    num_validation = -(-(len(names) - num_test) // 10)
    splits = np.full(len(names), "train", dtype="<U10")
    splits[order[:num_test]] = "test"
    splits[order[num_test : num_test + num_validation]] = "validation"
    return splits
