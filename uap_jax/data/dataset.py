"""Labelled recordings of equal length, and splits that keep groups together."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from uap_jax.data.synthetic.rendered import RenderedClips

# Called as progress(what, done, total); library code prints nothing.
ProgressFn = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`M` clips of `N` samples with labels.

    Attributes:
        name: The corpus.
        clips: `[M, N]` int16 PCM or float32 in [-1, 1]; an array, a memmap, or clips
            that are rendered when they are first read.
        labels: `[M]` int32 class indices.
        class_names: In the order of the labels.
        groups: `[M]` strings; clips of one group (a speaker, a source recording)
            must not be in two splits.
        names: `[M]` strings that identify the clips, usually relative paths.
        sample_rate_hz: Samples per second.
        fingerprint: A hash of the clips, or of what they are made from.
        official_splits: `[M]` of "train", "validation", "test", or None.
        noise: `[K, N]` background sound for augmentation, as `clips`, or None.
        skipped: A line for each recording that could not be used.
        groups_overlap: Whether `official_splits` may put one group into two splits.
    """

    name: str
    clips: np.ndarray | RenderedClips
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    names: np.ndarray
    sample_rate_hz: int
    fingerprint: str
    official_splits: np.ndarray | None = None
    noise: np.ndarray | RenderedClips | None = None
    skipped: tuple[str, ...] = ()
    groups_overlap: bool = False

    def __post_init__(self) -> None:
        for field in ("labels", "groups", "names"):
            length = len(getattr(self, field))
            if length != len(self.clips):
                raise ValueError(
                    f"{field}: expected {len(self.clips)} entries, one a clip, got "
                    f"{length}"
                )
        if self.clips.ndim != 2 or self.clips.dtype not in (np.int16, np.float32):
            raise ValueError(
                "clips: expected [M, N] int16 or float32, got "
                f"{self.clips.shape} {self.clips.dtype}"
            )
        low, high = self.labels.min(initial=0), self.labels.max(initial=0)
        if len(self.clips) and not 0 <= low <= high < len(self.class_names):
            raise ValueError(
                f"labels: expected 0..{len(self.class_names) - 1}, got {low}..{high}"
            )

    @property
    def num_samples(self) -> int:
        return self.clips.shape[1]

    def ensure(self, indices: np.ndarray) -> None:
        """Renders what of these clips is missing, at once and in parallel."""
        if isinstance(self.clips, RenderedClips):
            self.clips.ensure(indices)


class Splits(NamedTuple):
    """Indices of the clips of each split.

    No group spans two splits, unless the dataset says that groups overlap.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def to_waveform(clips: np.ndarray | RenderedClips) -> np.ndarray:
    """Returns clips as float32 waveforms in [-1, 1]; int16 is divided by 32768."""
    clips = np.asarray(clips)
    if clips.dtype == np.int16:
        return clips.astype(np.float32) / np.float32(32768)
    return np.asarray(clips, np.float32)


def split_clips(
    dataset: Dataset, *, validation_share: float = 0.1, test_share: float = 0.15
) -> Splits:
    """Splits by the corpus's official splits, and by groups where it has none.

    The split of a group follows from a hash of its name alone, so it does not change
    when recordings are added.

    Args:
        dataset: The corpus.
        validation_share: Share of groups for an unnamed validation split.
        test_share: Share of groups for an unnamed test split.

    Returns:
        The three splits, each in the order of the clips.

    Raises:
        ValueError: A split would be empty, or an official group spans two splits.
    """
    assignment = np.full(len(dataset.labels), "train", dtype="<U10")
    if dataset.official_splits is not None:
        assignment[:] = dataset.official_splits
        spanning = find_spanning(dataset.groups, assignment)
        if spanning and not dataset.groups_overlap:
            group, first, second = spanning
            raise ValueError(
                f"{dataset.name}: expected each speaker in one split, got {group} in "
                f"{first} and {second}"
            )
    if np.any(assignment == "validation"):
        validation_share = 0.0
    if np.any(assignment == "test"):
        test_share = 0.0
    groups, inverse = np.unique(dataset.groups, return_inverse=True)
    hashes = np.array([unit_hash(str(group)) for group in groups])[inverse]
    free = assignment == "train"
    assignment[free & (hashes < validation_share + test_share)] = "test"
    assignment[free & (hashes < validation_share)] = "validation"
    splits = Splits(*(np.flatnonzero(assignment == name) for name in Splits._fields))
    for name, indices in zip(Splits._fields, splits, strict=True):
        if not len(indices):
            raise ValueError(
                f"{dataset.name}: no clips for {name}; expected recordings of more "
                f"than {len(groups)} groups (speakers)"
            )
    return splits


def leaked_share(dataset: Dataset, splits: Splits) -> float:
    """Returns the share of test clips whose group is in the training, in [0, 1]."""
    leaked = np.isin(dataset.groups[splits.test], dataset.groups[splits.train])
    return float(np.mean(leaked))


def unit_hash(text: str) -> float:
    """Returns a number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha1(os.fsencode(text)).digest()[:8], "big") / 2**64


def find_spanning(
    groups: Iterable[str], splits: Iterable[str]
) -> tuple[str, str, str] | None:
    """Returns a group that is in two splits, and these; None if there is none."""
    split_of: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if split_of.setdefault(group, split) != split:
            return group, split_of[group], split
    return None
