"""Anybody's recordings: a folder for each class, or a table of paths and labels."""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uap_jax.audio.files import printable
from uap_jax.data._folder_listing import (
    Found,
    check_headers,
    find_recordings,
    format_counts,
)
from uap_jax.data._listed import Crop, load_listed
from uap_jax.data.dataset import Dataset, ProgressFn, Splits, unit_hash
from uap_jax.files import fingerprint
from uap_jax.text import format_seconds

# Goes into the cache key; to be raised when clips come out differently.
_VERSION = 1
# Of the groups of each class, for the validation and for the test alike.
_HELD_OUT_SHARE = 0.1
# Fewer groups cannot be in all three splits.
_MIN_GROUPS = 3


def load_folder(
    data_dir: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str],
    sample_rate_hz: int = 16000,
    num_samples: int = 16000,
    crop: Crop = "start",
    group_pattern: str | None = None,
    strict: bool = False,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Loads recordings of any classes, rates and lengths, decoded once into a cache.

    Without a table each folder in `data_dir` with recordings in it, at any depth, is
    a class. Names that begin with a dot are left out; links are followed, though not
    in circles; files that are no audio by their suffix are ignored.

    A table has the columns path and label, and if wanted group and split; others are
    ignored. Paths are relative to the table's folder. They may lead out of it or be
    absolute, since recordings are only read. Recordings without a row are no part of
    the corpus.

    Classes are in alphabetical order, numbers before and by value; names are in
    Unicode's composed form. A file that is listed twice, also by links, counts once;
    where its label, group or split differs, not at all.

    Groups, such as speakers or sources, are never in two splits. They are those of
    the table, else what `group_pattern` finds in the path, else each recording is its
    own. Splits are those of the table; a validation or test that it does not name is
    drawn by `split_clips`. Without that column 10% of the groups of each class, by a
    hash of their names, are the validation and 10% the test, at least one each; a
    class of one or two groups is in the training only.

    Args:
        data_dir: The folder, with labels.csv directly in it or with a folder for each
            class; or the table itself, a file with the suffix .csv.
        cache_dir: Where caches are kept.
        sample_rate_hz: Rate of the clips.
        num_samples: Length of the clips.
        crop: Which part of a recording of another length is kept: "start" cuts
            recordings, or pads them with zeros, at the end; "center" at both ends.
        group_pattern: A regular expression with one group, searched for in the path.
        strict: Whether a recording or a row that cannot be used is an error;
            otherwise it is left out and named in `Dataset.skipped`.
        num_workers: Threads that decode; None takes one a core.
        progress: Called as progress(what, done, total).

    Raises:
        ValueError: A setting is wrong, the folder is in neither layout, the table
            lacks a column, nothing can be used, there is only one class, a group is
            in two splits, or no class has groups enough for three.
        AudioFileError: With `strict`, the first recording that cannot be used.
        OSError: A folder cannot be read, or the cache cannot be written.
    """
    found = _find(data_dir, sample_rate_hz, num_samples, crop, group_pattern)
    listing = found.listing
    key = fingerprint(
        "folder",
        _VERSION,
        (sample_rate_hz, num_samples, crop),
        (listing.class_names, listing.recordings, listing.undescribed, found.files),
    )
    if not (Path(cache_dir) / f"folder-{key}").is_dir():
        listing, _ = check_headers(listing, num_workers, progress)
    dataset, splits = load_listed(
        listing,
        name="folder",
        key=key,
        cache_dir=cache_dir,
        sample_rate_hz=sample_rate_hz,
        num_samples=num_samples,
        crop=crop,
        strict=strict,
        num_workers=num_workers,
        progress=progress,
    )
    if splits[0] < 0:
        official = _draw(dataset.labels.tolist(), dataset.groups.tolist())
    else:
        official = np.array(Splits._fields)[splits]
    return dataclasses.replace(dataset, official_splits=official)


def describe_folder(
    data_dir: str | os.PathLike[str],
    *,
    sample_rate_hz: int = 16000,
    num_samples: int = 16000,
    group_pattern: str | None = None,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> list[str]:
    """Says what `load_folder` finds; reads only the headers of recordings.

    Args:
        data_dir, sample_rate_hz, num_samples, group_pattern, num_workers: As for
            `load_folder`.
        progress: Called as progress("reading headers", done, total).

    Returns:
        Lines: recordings, duration and rates; classes with their counts; groups; how
        much of the sound the clips keep; what is ignored; what is skipped, and why.

    Raises:
        ValueError: As for `load_folder`.
        OSError: A folder cannot be read.
    """
    found = _find(data_dir, sample_rate_hz, num_samples, "start", group_pattern)
    listing, headers = check_headers(found.listing, num_workers, progress)
    recordings = listing.recordings
    rates = Counter(f"{rate_hz} Hz" for _, rate_hz in headers)
    seconds = np.array([frames / rate_hz for frames, rate_hz in headers])
    groups = {recording.group for recording in recordings}
    num_own = sum(recording.group == recording.path for recording in recordings)
    counts = {name: 0 for name in listing.class_names}
    groups_of = defaultdict(set)
    for recording in recordings:
        name = listing.class_names[recording.label]
        counts[name] += 1
        groups_of[name].add(recording.group)
    lines = [
        f"{len(recordings)} recordings in {len(counts)} classes, "
        f"{format_seconds(seconds.sum())} at {format_counts(rates)}",
        f"classes: {format_counts(counts)}",
        f"groups: {len(groups)}; {num_own} recordings are groups of their own",
    ]
    small = [name for name in counts if len(groups_of[name]) < _MIN_GROUPS]
    if small and all(recording.fold < 0 for recording in recordings):
        names = ", ".join(small)
        lines.append(f"fewer than {_MIN_GROUPS} groups, for the training only: {names}")
    clip_s = num_samples / sample_rate_hz
    if seconds.any():
        kept = np.minimum(seconds, clip_s).sum() / seconds.sum()
        lines.append(
            f"clips of {clip_s:.3g} s keep {kept:.0%} of the sound; "
            f"shorter and padded: {np.sum(seconds < clip_s)}"
        )
    if found.ignored:
        lines.append(found.ignored)
    if listing.undescribed:
        examples = "; ".join(": ".join(pair) for pair in listing.undescribed[:3])
        lines.append(f"skipped {len(listing.undescribed)}, such as {examples}")
    return [printable(line) for line in lines]


def _find(
    data_dir: str | os.PathLike[str],
    sample_rate_hz: int,
    num_samples: int,
    crop: str,
    group_pattern: str | None,
) -> Found:
    """As `find_recordings`, and refuses before decoding what cannot be split after."""
    found = find_recordings(data_dir, sample_rate_hz, num_samples, crop, group_pattern)
    recordings = found.listing.recordings
    if recordings[0].fold < 0:
        labels = [recording.label for recording in recordings]
        _draw(labels, [recording.group for recording in recordings])
    return found


def _draw(labels: Sequence[int], groups: Sequence[str]) -> np.ndarray:
    """Returns the split of each recording."""
    first_label: dict[str, int] = {}
    for group, label in zip(groups, labels, strict=True):
        first_label.setdefault(group, label)
    groups_of = defaultdict(list)
    for group, label in first_label.items():
        groups_of[label].append(group)
    home: dict[str, str] = {}
    for names in groups_of.values():
        if len(names) < _MIN_GROUPS:
            continue
        num_held_out = max(1, round(_HELD_OUT_SHARE * len(names)))
        names.sort(key=lambda name: (unit_hash(name), name))
        home |= dict.fromkeys(names[:num_held_out], "test")
        home |= dict.fromkeys(names[num_held_out : 2 * num_held_out], "validation")
    if not home:
        raise ValueError(
            f"data_dir: expected a class with recordings of at least {_MIN_GROUPS} "
            f"groups, one a split, got at most {max(map(len, groups_of.values()))}"
        )
    return np.array([home.get(group, "train") for group in groups])
