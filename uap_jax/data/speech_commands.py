"""Speech Commands: the official archives of spoken words, and the 12-class test set."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from uap_jax.audio.files import AudioFileError, printable, read_audio, to_pcm16
from uap_jax.data.cache import decode_clips, list_files, load_or_build, write_rows
from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.data.recording_files import as_unicode
from uap_jax.files import content_fingerprint, fingerprint

SILENCE = "_silence_"
UNKNOWN = "_unknown_"
BACKGROUND = "_background_noise_"

# The columns of the paper's Table 11.
PAPER32 = (
    *(SILENCE, UNKNOWN, "sheila", "nine", "stop", "bed", "four", "six", "down"),
    *("bird", "marvin", "cat", "off", "right", "seven", "eight", "up", "three"),
    *("happy", "go", "zero", "on", "wow", "dog", "yes", "five", "one", "tree"),
    *("house", "two", "left", "no"),
)
# What the Kaggle challenge of 2018 scored.
KAGGLE12 = (
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    *(SILENCE, UNKNOWN),
)
CLASS_SETS = {"auto": None, "paper32": PAPER32, "kaggle12": KAGGLE12}

# Goes into the cache key; to be raised when clips come out differently.
_VERSION = 1
_SPEAKER = re.compile(r"(?:(?P<word>.+)_)?(?P<speaker>[0-9a-fA-F]{8})_nohash_")
_MAX_WAVS_PER_CLASS = 2**27 - 1
_LAYOUT = "<word>/<speaker>_nohash_<number>.wav (or .flac, .ogg, .mp3)"
# Once or more: the 12-class test sets have names in .wav.wav.
_SUFFIXES = re.compile(r"(\.(wav|flac|ogg|mp3))+$", re.IGNORECASE)


class _Clip(NamedTuple):
    name: str  # Relative path, and position where cut from a longer recording.
    class_name: str
    group: str
    has_speaker: bool


def load_speech_commands(
    data_dir: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str],
    sample_rate_hz: int = 16000,
    num_samples: int = 16000,
    class_set: Literal["auto", "paper32", "kaggle12"] = "auto",
    lists_dir: str | os.PathLike[str] | None = None,
    strict: bool = False,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Loads an unpacked Speech Commands archive, decoded once into a cache.

    Takes the layouts of versions 0.01 and 0.02 (word folders, `_background_noise_`,
    lists of validation and test clips) and of the 12-class test sets (`_silence_`,
    `_unknown_`), as WAV, FLAC, OGG or MP3. Clips are cut, or padded with zeros, at the
    end. The groups are the speakers; a silent clip without a speaker is a group of its
    own.

    The splits are those of the list files, which may name a clip in any of these
    formats; without testing_list.txt those of the official hash, `which_set` at 10%
    and 10%; and None where that puts no speaker into one of the three, as in the
    12-class test sets.

    Class sets:
        "auto": Every folder with clips is a class: `_silence_` and `_unknown_`
            first, then the words in alphabetical order.
        "paper32": The 32 classes of the paper's Table 11 (`PAPER32`).
        "kaggle12": Ten words, silence and the rest (`KAGGLE12`).

    With the latter two, words outside the set become `_unknown_`, and a clip in the
    folder `_unknown_` whose file name starts with a word of the set becomes that
    word. Where no folder `_silence_` has clips, silence is cut from the background
    recordings at fixed places, about as many clips as an average word has; clips
    that overlap share a group. A class without clips keeps its place.

    Silence is then cut from the same recordings as the noise. A model trained with
    that noise has heard the silence of all splits, so its accuracy on silence is
    optimistic; a folder `_silence_` of other recordings avoids that.

    Args:
        data_dir: The folder with the word folders.
        cache_dir: Where caches are kept.
        sample_rate_hz: Rate of the clips.
        num_samples: Length of the clips.
        class_set: Which classes to tell apart.
        lists_dir: The folder of the list files; None: `data_dir`.
        strict: Whether a recording that cannot be used is an error; otherwise it is
            left out and named in `Dataset.skipped`.
        num_workers: Threads that decode; None takes one a core.
        progress: Called as progress("decoding", done, total).

    Returns:
        The dataset; its noise is the background recordings cut into consecutive
        pieces of `num_samples`.

    Raises:
        ValueError: A setting is wrong, or `data_dir` has no usable recordings.
        AudioFileError: With `strict`, the first recording that cannot be used.
        OSError: The cache cannot be written.
    """
    root = Path(data_dir)
    if class_set not in CLASS_SETS:
        raise ValueError(
            f"class_set: expected one of {', '.join(CLASS_SETS)}, got {class_set!r}"
        )
    for name, value in (
        ("sample_rate_hz", sample_rate_hz),
        ("num_samples", num_samples),
    ):
        if value <= 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    if not root.is_dir():
        raise ValueError(f"data_dir: expected a folder, got {root}, which is none")
    listing = [
        entry
        for entry in list_files(root, max_depth=2)
        if entry[0].endswith("_list.txt") or _is_recording(entry[0])
    ]
    if lists_dir is not None:
        beside = list_files(Path(lists_dir), max_depth=1)
        listing += [entry for entry in beside if entry[0].endswith("_list.txt")]
    paths = [path for path, *_ in listing if _is_recording(path)]
    if all(path.startswith(f"{BACKGROUND}/") for path in paths):
        raise ValueError(
            f"data_dir: expected recordings named {_LAYOUT}, found none in {root}"
        )
    classes = CLASS_SETS[class_set]
    key = fingerprint(
        "speech_commands", _VERSION, sample_rate_hz, num_samples, class_set, listing
    )

    def build(folder: Path) -> Dataset:
        background, skipped = _read_background(
            root, paths, sample_rate_hz, num_samples, strict=strict
        )
        clips: list[_Clip] = []

        def rows() -> Iterator[np.ndarray]:
            named = [
                _name_clip(path, classes)
                for path in paths
                if not path.startswith(f"{BACKGROUND}/")
            ]
            decoded = decode_clips(
                [root / clip.name for clip in named],
                sample_rate_hz=sample_rate_hz,
                num_samples=num_samples,
                num_workers=num_workers,
                progress=progress,
            )
            for clip, row in zip(named, decoded, strict=True):
                if isinstance(row, AudioFileError):
                    if strict:
                        raise row
                    skipped.append(f"{clip.name}: {row.reason}")
                else:
                    clips.append(clip)
                    yield row
            if not clips:
                raise ValueError(
                    f"data_dir: expected recordings named {_LAYOUT}, none of the "
                    f"{len(named)} in {root} can be used, such as "
                    f"{printable(skipped[-1])}"
                )
            if classes is not None:
                for clip, row in _cut_silence(background, clips, num_samples):
                    clips.append(clip)
                    yield row

        waveforms = write_rows(folder / "clips.npy", rows(), num_samples=num_samples)
        class_names = classes or _order_classes(clips)
        labels = np.array(
            [class_names.index(clip.class_name) for clip in clips], np.int32
        )
        groups = np.array([clip.group for clip in clips])
        names = np.array([clip.name for clip in clips])
        splits = _official_splits(Path(lists_dir or root), clips)
        noise = _cut_noise(background, num_samples)
        return Dataset(
            name="speech_commands",
            clips=waveforms,
            labels=labels,
            class_names=class_names,
            groups=groups,
            names=names,
            sample_rate_hz=sample_rate_hz,
            fingerprint=content_fingerprint(
                waveforms,
                labels,
                np.array(class_names),
                groups,
                names,
                splits,
                noise,
                np.array([sample_rate_hz]),
            ),
            official_splits=splits,
            noise=noise,
            skipped=tuple(skipped),
        )

    dataset = load_or_build(Path(cache_dir) / f"speech_commands-{key}", build)
    if strict and dataset.skipped:
        name, _, reason = dataset.skipped[0].partition(": ")
        raise AudioFileError(root / name, reason)
    return dataset


def which_set(
    file_name: str, validation_percentage: float, testing_percentage: float
) -> Literal["training", "validation", "testing"]:
    """Returns the split of a recording by the corpus's own rule.

    SHA-1 of the base name up to `_nohash_`, modulo 2^27, as a percentage: all
    recordings of a speaker are in one split, whatever else the corpus holds.

    Args:
        file_name: Name of the file, with or without folders.
        validation_percentage: Share of speakers for validation, 0 to 100.
        testing_percentage: Share of speakers for the test, 0 to 100.

    Returns:
        The name of the split as the corpus spells it.
    """
    speaker = os.path.basename(file_name).partition("_nohash_")[0]
    digest = int(hashlib.sha1(os.fsencode(speaker)).hexdigest(), 16)
    percentage = digest % (_MAX_WAVS_PER_CLASS + 1) * (100.0 / _MAX_WAVS_PER_CLASS)
    if percentage < validation_percentage:
        return "validation"
    if percentage < testing_percentage + validation_percentage:
        return "testing"
    return "training"


def _is_recording(path: str) -> bool:
    return path.count("/") == 1 and _SUFFIXES.search(path) is not None


def _name_clip(path: str, classes: tuple[str, ...] | None) -> _Clip:
    folder, file_name = path.split("/")
    match = _SPEAKER.match(file_name)
    has_speaker = "_nohash_" in file_name
    if match:
        group = match["speaker"]
    elif has_speaker:
        group = file_name.partition("_nohash_")[0]
    else:
        group = _SUFFIXES.sub("", file_name)
        if folder == SILENCE:
            group = f"silence/{group}"
    class_name = as_unicode(folder)
    if classes is not None:
        if folder == UNKNOWN and match and match["word"]:
            class_name = match["word"]
        if class_name not in classes:
            class_name = UNKNOWN
    return _Clip(path, class_name, group, has_speaker)


def _order_classes(clips: list[_Clip]) -> tuple[str, ...]:
    present = {clip.class_name for clip in clips}
    return tuple(sorted(present, key=lambda name: (name[0] != "_", name)))


def _read_background(
    root: Path, paths: list[str], sample_rate_hz: int, num_samples: int, *, strict: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The background recordings as int16, and a line for each that is unusable."""
    background, skipped = {}, []
    for path in paths:
        if not path.startswith(f"{BACKGROUND}/"):
            continue
        try:
            waveform = read_audio(root / path, sample_rate_hz=sample_rate_hz)
            if len(waveform) < num_samples:
                reason = f"is shorter than {num_samples} samples"
                raise AudioFileError(root / path, reason)
        except AudioFileError as error:
            if strict:
                raise
            skipped.append(f"{path}: {error.reason}")
        else:
            background[path] = to_pcm16(waveform)
    return background, skipped


def _cut_noise(
    background: dict[str, np.ndarray], num_samples: int
) -> np.ndarray | None:
    pieces = [
        waveform[: len(waveform) // num_samples * num_samples].reshape(-1, num_samples)
        for waveform in background.values()
    ]
    return np.concatenate(pieces) if pieces else None


def _cut_silence(
    background: dict[str, np.ndarray], clips: list[_Clip], num_samples: int
) -> Iterator[tuple[_Clip, np.ndarray]]:
    """Cuts clips from segments of two clips' length; a segment is a group."""
    counts = Counter(clip.class_name for clip in clips)
    words = [count for name, count in counts.items() if name not in (SILENCE, UNKNOWN)]
    segments = [
        (path, start, waveform[start : start + 2 * num_samples])
        for path, waveform in background.items()
        for start in range(0, len(waveform) - num_samples + 1, 2 * num_samples)
    ]
    if counts[SILENCE] or not words or not segments:
        return
    wanted = round(sum(words) / len(words))
    shares = np.bincount(
        np.arange(wanted) * len(segments) // wanted, minlength=len(segments)
    )
    for (path, start, segment), share in zip(segments, shares, strict=True):
        group = hashlib.sha1(os.fsencode(f"{path}:{start}")).hexdigest()[:8]
        last = len(segment) - num_samples
        for offset in np.unique(np.linspace(0, last, share).astype(int)):
            clip = _Clip(f"{path}:{start + offset}", SILENCE, f"silence/{group}", False)
            yield clip, segment[offset : offset + num_samples]


def _official_splits(folder: Path, clips: list[_Clip]) -> np.ndarray | None:
    test = _read_list(folder / "testing_list.txt")
    validation = _read_list(folder / "validation_list.txt")
    names = {"training": "train", "validation": "validation", "testing": "test"}
    hashed = [names[which_set(clip.group, 10, 10)] for clip in clips]
    if any(_SUFFIXES.sub("", clip.name) in test for clip in clips):
        splits = [
            _listed_split(clip, test, validation, by_hash)
            for clip, by_hash in zip(clips, hashed, strict=True)
        ]
        return np.array(splits)
    spoken = {s for s, clip in zip(hashed, clips, strict=True) if clip.has_speaker}
    return np.array(hashed) if len(spoken) == len(names) else None


def _listed_split(
    clip: _Clip, test: set[str], validation: set[str], by_hash: str
) -> str:
    name = _SUFFIXES.sub("", clip.name)
    if name in test:
        return "test"
    if name in validation:
        return "validation"
    # The lists do not name silence, which would then be in one split only.
    if clip.class_name == SILENCE and (validation or by_hash == "test"):
        return by_hash
    return "train"


def _read_list(path: Path) -> set[str]:
    """The clips that a list names, without their suffixes."""
    if not path.is_file():
        return set()
    # As the system reads the names of the files.
    lines = os.fsdecode(path.read_bytes()).splitlines()
    return {_SUFFIXES.sub("", line.strip()) for line in lines}
