"""Custom recordings: a folder for each class, or a table of paths and labels."""

import dataclasses
import os
from collections import Counter

import numpy as np

from uap_jax.data.dataset import Dataset, ProgressFn, Splits
from uap_jax.data.decoding import CheckFn, Decoding, load_listed
from uap_jax.data.folder_listing import find_recordings, format_counts, read_headers
from uap_jax.data.listing import Listing, groups_by_class
from uap_jax.files import fingerprint
from uap_jax.text import format_seconds, printable

# In the cache key; raised when clips change.
_VERSION = 1
# Share of the groups of each class in the validation, and in the test.
_HELD_OUT_SHARE = 0.1
# Recordings whose headers tell the usual length.
_NUM_MEASURED = 500
# Fewer groups cannot be in all three splits.
_MIN_GROUPS = 3


def load_folder(
    data_dir: str | os.PathLike[str],
    decoding: Decoding,
    *,
    group_pattern: str | None = None,
) -> Dataset:
    """Loads recordings of any classes, rates and lengths, decoded once into a cache.

    Layouts, groups and splits are described in docs/data.md.

    Args:
        data_dir: The folder, with labels.csv directly in it or with a folder for each
            class; or the table itself, a file with the suffix .csv.
        decoding: How recordings become clips.
        group_pattern: A regular expression with one group, searched for in the path.

    Raises:
        ValueError: A setting is wrong, the folder is in neither layout, nothing can be
            used, there is only one class, a group spans two splits, or no class has
            enough groups for three.
        AudioFileError: With `strict`, the first recording that cannot be used.
        OSError: A folder cannot be read, or the cache cannot be written.
    """
    listing = _find(data_dir, group_pattern)
    facts = listing.class_names, listing.recordings, listing.unusable, listing.files
    dataset, splits = load_listed(
        listing,
        decoding,
        name="folder",
        key=fingerprint("folder", _VERSION, decoding.key, facts),
        prepare=lambda listing: read_headers(
            listing, decoding.num_workers, decoding.progress
        )[0],
    )
    if splits[0] < 0:
        official = _draw(dataset.groups, dataset.labels)
    else:
        official = np.array(Splits._fields)[splits]
    return dataclasses.replace(dataset, official_splits=official)


def describe_folder(
    data_dir: str | os.PathLike[str],
    *,
    sample_rate_hz: int = 16_000,
    num_samples: int = 16_000,
    group_pattern: str | None = None,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
    check_classes: CheckFn | None = None,
) -> list[str]:
    """Describes what `load_folder` would load; reads only the headers of recordings.

    Args:
        data_dir, group_pattern: See `load_folder`, which also says what is raised.
        sample_rate_hz, num_samples, num_workers, progress, check_classes: See
            `Decoding`.

    Returns:
        Lines: recordings, duration and rates; classes with their counts; groups; share
        of the sound in the clips; what is ignored; what is skipped, and why.
    """
    listing = _find(data_dir, group_pattern)
    if check_classes is not None:
        check_classes(listing.class_names)
    listing, headers = read_headers(listing, num_workers, progress)
    recordings, names = listing.recordings, listing.class_names
    rates = Counter(f"{rate_hz} Hz" for _, rate_hz in headers)
    seconds = np.array([frames / rate_hz for frames, rate_hz in headers])
    groups = {recording.group for recording in recordings}
    num_alone = sum(recording.group == recording.path for recording in recordings)
    counts = dict.fromkeys(names, 0) | Counter(names[r.label] for r in recordings)
    groups_of = Counter(label for label, _ in {(r.label, r.group) for r in recordings})
    lines = [
        f"{len(recordings)} recordings in {len(counts)} classes, "
        f"{format_seconds(seconds.sum())} at {format_counts(rates)}",
        f"classes: {format_counts(counts)}",
        f"groups: {len(groups)}; {num_alone} recordings are groups of one",
    ]
    small = [n for label, n in enumerate(names) if groups_of[label] < _MIN_GROUPS]
    if small and all(recording.fold < 0 for recording in recordings):
        small = ", ".join(small)
        lines.append(f"fewer than {_MIN_GROUPS} groups, for the training only: {small}")
    clip_s = num_samples / sample_rate_hz
    if seconds.any():
        kept = np.minimum(seconds, clip_s).sum() / seconds.sum()
        lines.append(
            f"clips of {clip_s:.3g} s keep {kept:.0%} of the sound; "
            f"shorter and padded: {np.sum(seconds < clip_s)}"
        )
    if listing.ignored:
        lines.append(listing.ignored)
    if listing.unusable:
        examples = "; ".join(": ".join(pair) for pair in listing.unusable[:3])
        lines.append(f"skipped {len(listing.unusable)}, such as {examples}")
    return [printable(line) for line in lines]


def median_s(
    data_dir: str | os.PathLike[str], *, group_pattern: str | None = None
) -> float:
    """Returns the median duration of recordings in seconds, to 10 ms.

    Raises:
        ValueError: As `load_folder`, or no header can be read.
    """
    listing = find_recordings(data_dir, group_pattern)
    step = -(-len(listing.recordings) // _NUM_MEASURED)
    some = listing._replace(recordings=listing.recordings[::step], unusable=[])
    some, headers = read_headers(some, None, None)
    if not headers:
        raise ValueError(f"data_dir: expected recordings, got {some.unusable[0][1]}")
    seconds = [frames / rate_hz for frames, rate_hz in headers]
    return max(0.05, round(float(np.median(seconds)), 2))


def _find(data_dir: str | os.PathLike[str], group_pattern: str | None) -> Listing:
    """As `find_recordings`; refuses, before decoding, what cannot be split after it."""
    listing = find_recordings(data_dir, group_pattern)
    _, labels, groups, folds = map(np.array, zip(*listing.recordings, strict=True))
    if folds[0] < 0:
        _draw(groups, labels)
    return listing


def _draw(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the split of each recording."""
    split_of: dict[str, str] = {}
    by_class = groups_by_class(groups, labels).values()
    for names in by_class:
        if len(names) >= _MIN_GROUPS:
            num = max(1, round(_HELD_OUT_SHARE * len(names)))
            split_of |= dict.fromkeys(names[:num], "test")
            split_of |= dict.fromkeys(names[num : 2 * num], "validation")
    if not split_of:
        raise ValueError(
            f"data_dir: expected a class with recordings of at least {_MIN_GROUPS} "
            f"groups, one a split, got at most {max(map(len, by_class))}"
        )
    return np.array([split_of.get(group, "train") for group in groups.tolist()])
