"""Speech Commands: the official archives of spoken words, and the 12-class test set."""

import codecs
import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from uap_jax.audio.files import AudioFileError, read_audio, to_pcm16
from uap_jax.data.dataset import Dataset
from uap_jax.data.decoding import Decoding, load_listed, with_fingerprint
from uap_jax.data.listing import (
    Listed,
    Listing,
    as_unicode,
    check_folder,
    list_files,
)
from uap_jax.files import fingerprint
from uap_jax.text import printable

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

# In the cache key; raised when clips or splits change.
_VERSION = 2
_SPEAKER = re.compile(r"(?:(?P<word>.+)_)?(?P<speaker>[0-9a-fA-F]{8})_nohash_")
_MAX_WAVS_PER_CLASS = 2**27 - 1
_LAYOUT = "<word>/<speaker>_nohash_<number>.wav (or .flac, .ogg, .mp3)"
# Once or more: the 12-class test sets have names in .wav.wav.
_SUFFIXES = re.compile(r"(\.(wav|flac|ogg|mp3))+$", re.IGNORECASE)


def load_speech_commands(
    data_dir: str | os.PathLike[str],
    decoding: Decoding,
    *,
    class_set: Literal["auto", "paper32", "kaggle12"] = "auto",
    lists_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads an unpacked Speech Commands archive, decoded once into a cache.

    Layouts, groups, splits and the origin of silence are described in docs/data.md.

    Args:
        data_dir: The folder with the word folders.
        decoding: How recordings become clips.
        class_set: "auto": every folder with clips is a class, `_silence_` and
            `_unknown_` first; "paper32": `PAPER32`; "kaggle12": `KAGGLE12`.
        lists_dir: The folder of the list files; None: `data_dir`.

    Returns:
        The dataset; its noise is the background recordings cut into clips.

    Raises:
        ValueError: A setting is wrong, `data_dir` has no usable recordings, or a list
            names none of them.
        AudioFileError: With `strict`, the first recording that cannot be used.
    """
    root = Path(data_dir)
    if class_set not in CLASS_SETS:
        raise ValueError(
            f"class_set: expected one of {', '.join(CLASS_SETS)}, got {class_set!r}"
        )
    check_folder(root)
    files = [
        entry
        for entry in list_files(root, max_depth=2)
        if entry[0].endswith("_list.txt") or _is_recording(entry[0])
    ]
    if lists_dir is not None:
        files += list_files(Path(lists_dir), suffixes="_list.txt", max_depth=1)
    paths = [path for path, *_ in files if _is_recording(path)]
    words = [path for path in paths if not path.startswith(f"{BACKGROUND}/")]
    if not words:
        raise ValueError(
            f"data_dir: expected recordings named {_LAYOUT}, found none in {root}"
        )
    classes = CLASS_SETS[class_set]
    folders = {as_unicode(path.partition("/")[0]) for path in words}
    names = classes or sorted(folders, key=lambda name: (name[0] != "_", name))
    background: dict[str, np.ndarray] = {}

    def prepare(listing: Listing) -> Listing:
        unusable = []
        for path in sorted(set(paths) - set(words)):
            try:
                waveform = read_audio(root / path, sample_rate_hz=rate_hz)
            except AudioFileError as error:
                unusable.append((path, error.reason))
                continue
            if len(waveform) < num_samples:
                unusable.append((path, f"is shorter than {num_samples} samples"))
            else:
                background[path] = to_pcm16(waveform)
        return listing._replace(unusable=unusable)

    def extend(used: list[Listed]) -> Iterator[tuple[Listed, np.ndarray]]:
        if classes is not None:
            counts = Counter(names[recording.label] for recording in used)
            label = names.index(SILENCE)
            for path, group, clip in _cut_silence(background, counts, num_samples):
                yield Listed(path, label, group), clip

    def complete(dataset: Dataset, _: np.ndarray) -> Dataset:
        if classes is None:  # A folder of unusable clips is no class.
            present, labels = np.unique(dataset.labels, return_inverse=True)
            dataset = dataclasses.replace(
                dataset,
                labels=labels.astype(np.int32),
                class_names=tuple(names[label] for label in present),
            )
        splits = _official_splits(Path(lists_dir or root), dataset)
        pieces = [
            waveform[: len(waveform) // num_samples * num_samples]
            for waveform in background.values()
        ]
        noise = np.concatenate(pieces).reshape(-1, num_samples) if pieces else None
        dataset = dataclasses.replace(dataset, official_splits=splits, noise=noise)
        return with_fingerprint(dataset, splits, noise)

    rate_hz, num_samples, _ = decoding.key
    recordings = [_describe(path, names, classes) for path in words]
    dataset, _ = load_listed(
        Listing(root, _LAYOUT, tuple(names), recordings, [], files),
        decoding,
        name="speech_commands",
        key=fingerprint(
            "speech_commands", _VERSION, rate_hz, num_samples, class_set, files
        ),
        prepare=prepare,
        extend=extend,
        complete=complete,
    )
    return dataset


def which_set(
    file_name: str, validation_percentage: float, testing_percentage: float
) -> Literal["training", "validation", "testing"]:
    """Returns the split of a recording by the corpus's official rule.

    SHA-1 of the base name up to `_nohash_`, modulo 2^27, as a percentage: all
    recordings of a speaker are in one split, whatever else the corpus holds.

    Args:
        file_name: Name of the file, with or without folders.
        validation_percentage: Share of speakers for validation, 0 to 100.
        testing_percentage: Share of speakers for the test, 0 to 100.
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


def _describe(
    path: str, names: Sequence[str], classes: tuple[str, ...] | None
) -> Listed:
    folder, file_name = path.split("/")
    match = _SPEAKER.match(file_name)
    if match:
        group = match["speaker"]
    elif "_nohash_" in file_name:
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
    return Listed(path, names.index(class_name), group)


def _cut_silence(
    background: dict[str, np.ndarray], counts: Counter[str], num_samples: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Cuts clips from segments of two clips' length; a segment is a group."""
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
            clip = segment[offset : offset + num_samples]
            yield f"{path}:{start + offset}", f"silence/{group}", clip


def _official_splits(folder: Path, dataset: Dataset) -> np.ndarray | None:
    names = {"training": "train", "validation": "validation", "testing": "test"}
    hashed = [names[which_set(group, 10, 10)] for group in dataset.groups.tolist()]
    clips = [_SUFFIXES.sub("", path) for path in dataset.names.tolist()]
    test = _read_list(folder / "testing_list.txt", clips)
    validation = _read_list(folder / "validation_list.txt", clips)
    if not test:
        spoken = {
            split
            for split, path, group in zip(hashed, clips, dataset.groups, strict=True)
            if "_nohash_" in path.partition("/")[2] and not group.startswith("silence/")
        }
        return np.array(hashed) if len(spoken) == len(names) else None
    splits = []
    for clip, label, by_hash in zip(clips, dataset.labels, hashed, strict=True):
        if clip in test:
            split = "test"
        elif clip in validation:
            split = "validation"
        # The lists do not name silence, which would otherwise be in one split only.
        elif dataset.class_names[label] != SILENCE:
            split = "train"
        else:
            split = by_hash if validation or by_hash == "test" else "train"
        splits.append(split)
    return np.array(splits)


def _read_list(path: Path, clips: Collection[str]) -> set[str]:
    """Returns the clips that a list names, without their suffixes.

    Raises:
        ValueError: It names none of the corpus's clips.
    """
    if not path.is_file():
        return set()
    # Bytes that are not UTF-8 become what the system makes of them in file names.
    text = os.fsdecode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    lines = [line.strip() for line in text.replace("\\", "/").splitlines()]
    listed = {_SUFFIXES.sub("", line) for line in lines if line}
    if listed and listed.isdisjoint(clips):
        got = f"{len(listed)} others, such as {min(listed)[:80]}"
        raise ValueError(
            printable(f"data_dir: expected clips of the corpus in {path}, got {got}")
        )
    return listed
