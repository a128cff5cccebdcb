"""Recordings decoded into clips; those that cannot be used are skipped or refused."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from uap_jax.audio.files import AudioFileError, read_audio, to_pcm16
from uap_jax.data.cache import load_or_build, write_rows
from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.files import content_fingerprint
from uap_jax.text import printable

_BLOCK_FILES = 256


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How recordings become clips.

    Attributes:
        cache_dir: Folder of the decoded corpora.
        sample_rate_hz: Rate of the clips.
        num_samples: Length of the clips.
        crop: Which part of a recording of another length remains: "start" cuts it, or
            pads it with zeros, at the end; "center" at both ends alike.
        strict: Whether an unusable recording is an error; otherwise it is left out and
            named in `Dataset.skipped`.
        num_workers: Threads; None: one a core.
        progress: Called as progress("decoding", done, total).
    """

    cache_dir: str | os.PathLike[str]
    sample_rate_hz: int = 16_000
    num_samples: int = 16_000
    crop: Literal["start", "center"] = "start"
    strict: bool = False
    num_workers: int | None = None
    progress: ProgressFn | None = None

    def __post_init__(self) -> None:
        for name in ("sample_rate_hz", "num_samples"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name}: expected a positive number, got {getattr(self, name)}"
                )
        if self.crop not in ("start", "center"):
            raise ValueError(f'crop: expected "start" or "center", got {self.crop!r}')

    @property
    def key(self) -> tuple[int, int, str]:
        """What the clips depend on, for the names of caches."""
        return self.sample_rate_hz, self.num_samples, self.crop


class Listed(NamedTuple):
    """A recording before it is read."""

    path: str  # Relative to the corpus's folder.
    label: int
    group: str
    fold: int


class Listing(NamedTuple):
    """A corpus as its table or its file names describe it."""

    root: Path
    layout: str  # For messages.
    class_names: tuple[str, ...]
    recordings: list[Listed]
    unusable: list[tuple[str, str]]  # Path and reason.


def load_listed(
    listing: Listing, decoding: Decoding, *, name: str, key: str
) -> tuple[Dataset, np.ndarray]:
    """Loads listed recordings, decoded once into a cache.

    Args:
        listing: The corpus.
        decoding: How to decode it.
        name: The corpus's name.
        key: A hash of all that the clips depend on; names the cache.

    Returns:
        The dataset, without splits, and the folds of its clips, `[M]`.

    Raises:
        ValueError: No recording can be used, or one is listed twice.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    fold_of = {recording.path: recording.fold for recording in listing.recordings}
    if len(fold_of) < len(listing.recordings):
        counts = Counter(recording.path for recording in listing.recordings)
        raise ValueError(
            "data_dir: expected each recording once, got "
            f"{printable(counts.most_common(1)[0][0])} twice in {listing.root}"
        )

    def build(folder: Path) -> Dataset:
        clips, used, skipped = decode_recordings(
            folder,
            listing.root,
            listing.recordings,
            decoding,
            layout=listing.layout,
            unusable=listing.unusable,
        )
        names, labels, groups, folds = map(np.array, zip(*used, strict=True))
        labels = labels.astype(np.int32)
        rate_hz = decoding.sample_rate_hz
        return Dataset(
            name=name,
            clips=clips,
            labels=labels,
            class_names=listing.class_names,
            groups=groups,
            names=names,
            sample_rate_hz=rate_hz,
            fingerprint=content_fingerprint(
                *(clips, labels, np.array(listing.class_names), groups, names, folds),
                np.array([rate_hz]),
            ),
            skipped=skipped,
        )

    dataset = load_decoded(f"{name}-{key}", build, listing.root, decoding)
    return dataset, np.array([fold_of[str(path)] for path in dataset.names])


def load_decoded(
    name: str, build: Callable[[Path], Dataset], root: Path, decoding: Decoding
) -> Dataset:
    """As `load_or_build`, and refuses skipped recordings if `strict`."""
    dataset = load_or_build(Path(decoding.cache_dir) / name, build)
    if decoding.strict and dataset.skipped:
        path, _, reason = dataset.skipped[0].partition(": ")
        raise AudioFileError(root / path, reason)
    return dataset


def decode_recordings(
    folder: Path,
    root: Path,
    recordings: Sequence[Any],
    decoding: Decoding,
    *,
    layout: str,
    unusable: Iterable[tuple[str, str]] = (),
    more: Callable[[list[Any]], Iterable[tuple[Any, np.ndarray]]] = lambda used: (),
) -> tuple[np.ndarray, list[Any], tuple[str, ...]]:
    """Decodes recordings into clips.npy.

    Args:
        folder: Where clips.npy goes.
        root: The corpus's folder.
        recordings: Descriptions with a `path`, relative to `root`.
        decoding: How to decode them.
        layout: What was expected, for messages.
        unusable: Paths of others, and why they cannot be used.
        more: From the descriptions of decoded recordings, clips to append and their
            descriptions.

    Returns:
        The clips `[M, N]`, their descriptions, and a line for each unusable recording.

    Raises:
        ValueError: No recording can be used.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    used: list[Any] = []
    skipped: list[str] = []

    def skip(path: str, reason: str) -> None:
        if decoding.strict:
            raise AudioFileError(root / path, reason)
        skipped.append(f"{path}: {reason}")

    def rows() -> Iterator[np.ndarray]:
        decoded = decode_clips(
            [root / recording.path for recording in recordings],
            sample_rate_hz=decoding.sample_rate_hz,
            num_samples=decoding.num_samples,
            crop=decoding.crop,
            num_workers=decoding.num_workers,
            progress=decoding.progress,
        )
        for recording, row in zip(recordings, decoded, strict=True):
            if isinstance(row, AudioFileError):
                skip(recording.path, row.reason)
            else:
                used.append(recording)
                yield row
        if not used:
            raise ValueError(
                f"data_dir: expected recordings as {layout}, none of {len(skipped)} in "
                f"{root} can be used"
                + (f", such as {printable(skipped[-1])}" if skipped else "")
            )
        for recording, row in more(used):
            used.append(recording)
            yield row

    for path, reason in unusable:
        skip(path, reason)
    path = folder / "clips.npy"
    clips = write_rows(path, rows(), num_samples=decoding.num_samples)
    return clips, used, tuple(skipped)


def decode_clips(
    paths: Sequence[Path],
    *,
    sample_rate_hz: int,
    num_samples: int,
    crop: Literal["start", "center"] = "start",
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Iterator[np.ndarray | AudioFileError]:
    """Decodes recordings in parallel, in their order, a few hundred at a time.

    Args:
        paths: The recordings.
        sample_rate_hz, num_samples, crop, num_workers, progress: See `Decoding`.

    Yields:
        For each recording `[num_samples]` int16, or why it cannot be used.
    """

    def decode(path: Path) -> np.ndarray | AudioFileError:
        needed = num_samples if crop == "start" else None
        try:
            waveform = read_audio(
                path, sample_rate_hz=sample_rate_hz, num_samples=needed
            )
        except AudioFileError as error:
            return error
        return to_pcm16(_center(waveform, num_samples))

    # Threads: as fast as processes (libsndfile releases the interpreter lock), and
    # safe beside JAX, which must not be forked.
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for start in range(0, len(paths), _BLOCK_FILES):
            block = paths[start : start + _BLOCK_FILES]
            yield from pool.map(decode, block)
            if progress is not None:
                progress("decoding", start + len(block), len(paths))


def _center(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    missing = num_samples - len(waveform)
    if missing >= 0:
        return np.pad(waveform, (missing // 2, missing - missing // 2))
    start = -missing // 2
    return waveform[start : start + num_samples]
