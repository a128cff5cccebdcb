"""Recordings decoded into clips; those that cannot be used are skipped or refused."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from uap_jax.audio.files import AudioFileError, check_positive, read_audio, to_pcm16
from uap_jax.data.cache import load_or_build, write_rows
from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.data.listing import Listed, Listing
from uap_jax.files import content_fingerprint
from uap_jax.text import printable

_BLOCK_FILES = 256

CheckFn = Callable[[tuple[str, ...]], None]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How recordings become clips."""

    cache_dir: str | os.PathLike[str]  # Folder of the decoded corpora.
    sample_rate_hz: int = 16_000
    num_samples: int = 16_000
    # Where other lengths are cut, or padded with zeros: at the end, or both ends alike.
    crop: Literal["start", "center"] = "start"
    # Whether an unusable recording is an error, or left out and named in
    # `Dataset.skipped`.
    strict: bool = False
    num_workers: int | None = None  # Threads; None: one a core.
    progress: ProgressFn | None = None  # Called as progress("decoding", done, total).
    # Called with the names of the classes before recordings are decoded; may raise.
    check_classes: CheckFn | None = None

    def __post_init__(self) -> None:
        check_positive("sample_rate_hz", self.sample_rate_hz)
        check_positive("num_samples", self.num_samples)
        if self.crop not in ("start", "center"):
            raise ValueError(f'crop: expected "start" or "center", got {self.crop!r}')

    @property
    def key(self) -> tuple[int, int, str]:
        """What the clips depend on, for the names of caches."""
        return self.sample_rate_hz, self.num_samples, self.crop


def load_listed(
    listing: Listing,
    decoding: Decoding,
    *,
    name: str,
    key: str,
    prepare: Callable[[Listing], Listing] = lambda listing: listing,
    extend: Callable[[list[Listed]], Iterable[tuple[Listed, np.ndarray]]] = (
        lambda used: ()
    ),
    complete: Callable[[Dataset, np.ndarray], Dataset] | None = None,
) -> tuple[Dataset, np.ndarray]:
    """Loads listed recordings, decoded once into a cache.

    Args:
        listing, decoding, name: The corpus.
        key: A hash of all that the clips depend on; names the cache.
        prepare: Called with the listing before recordings are decoded.
        extend: From the recordings that were decoded, clips to append.
        complete: Adds further fields, and the fingerprint, to a dataset and its folds.

    Returns:
        The dataset, without splits, and the folds of its clips, `[M]`.

    Raises:
        ValueError: No recording can be used, or one is listed twice.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    if decoding.check_classes is not None:
        decoding.check_classes(listing.class_names)
    root = listing.root
    fold_of = {recording.path: recording.fold for recording in listing.recordings}
    if len(fold_of) < len(listing.recordings):
        counts = Counter(recording.path for recording in listing.recordings)
        raise ValueError(
            "data_dir: expected each recording once, got "
            f"{printable(counts.most_common(1)[0][0])} twice in {root}"
        )

    def build(folder: Path) -> Dataset:
        used: list[Listed] = []
        skipped: list[str] = []

        def skip(path: str, reason: str) -> None:
            if decoding.strict:
                raise AudioFileError(root / path, reason)
            skipped.append(f"{path}: {reason}")

        def rows() -> Iterator[np.ndarray]:
            decoded = decode_clips(
                [root / recording.path for recording in ready.recordings],
                sample_rate_hz=decoding.sample_rate_hz,
                num_samples=decoding.num_samples,
                crop=decoding.crop,
                num_workers=decoding.num_workers,
                progress=decoding.progress,
            )
            for recording, row in zip(ready.recordings, decoded, strict=True):
                if isinstance(row, AudioFileError):
                    skip(recording.path, row.reason)
                else:
                    used.append(recording)
                    yield row
            if not used:
                raise ValueError(
                    f"data_dir: expected recordings as {listing.layout}, none of "
                    f"{len(skipped)} in {root} can be used"
                    + (f", such as {printable(skipped[-1])}" if skipped else "")
                )
            for recording, row in extend(used):
                used.append(recording)
                yield row

        ready = prepare(listing)
        for path, reason in ready.unusable:
            skip(path, reason)
        path = folder / "clips.npy"
        clips = write_rows(path, rows(), num_samples=decoding.num_samples)
        names, labels, groups, folds = map(np.array, zip(*used, strict=True))
        dataset = Dataset(
            name=name,
            clips=clips,
            labels=labels.astype(np.int32),
            class_names=listing.class_names,
            groups=groups,
            names=names,
            sample_rate_hz=decoding.sample_rate_hz,
            fingerprint="",
            skipped=tuple(skipped),
        )
        return (complete or with_fingerprint)(dataset, folds)

    dataset = load_or_build(Path(decoding.cache_dir) / f"{name}-{key}", build)
    if decoding.strict and dataset.skipped:
        path, _, reason = dataset.skipped[0].partition(": ")
        raise AudioFileError(root / path, reason)
    return dataset, np.array([fold_of.get(str(path), -1) for path in dataset.names])


def with_fingerprint(dataset: Dataset, *facts: np.ndarray | None) -> Dataset:
    """Returns the dataset with a fingerprint of its content and of further arrays."""
    fingerprint = content_fingerprint(
        *(np.asarray(dataset.clips), dataset.labels, np.array(dataset.class_names)),
        *(dataset.groups, dataset.names, *facts, np.array([dataset.sample_rate_hz])),
    )
    return dataclasses.replace(dataset, fingerprint=fingerprint)


def decode_clips(
    paths: Sequence[Path],
    *,
    sample_rate_hz: int,
    num_samples: int,
    crop: Literal["start", "center"] = "start",
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Iterator[np.ndarray | AudioFileError]:
    """Decodes recordings in parallel, in their order; settings are those of `Decoding`.

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
        missing = num_samples - len(waveform)
        if missing > 0:
            waveform = np.pad(waveform, (missing // 2, missing - missing // 2))
        start = max(0, -missing // 2)
        return to_pcm16(waveform[start : start + num_samples])

    # Threads: as fast as processes (libsndfile releases the interpreter lock), and
    # safe beside JAX, which must not be forked.
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for start in range(0, len(paths), _BLOCK_FILES):
            block = paths[start : start + _BLOCK_FILES]
            yield from pool.map(decode, block)
            if progress is not None:
                progress("decoding", start + len(block), len(paths))
