"""Speech Commands: the official archives of spoken words, and the 12-class test set."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from uap_jax.audio.files import AudioFileError, read_audio, to_pcm16
from uap_jax.data.dataset import Dataset
from uap_jax.data.decoding import Decoding, decode_recordings, load_decoded
from uap_jax.data.listing import as_unicode, check_folder, list_files
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

# In the cache key; raised when clips change.
_VERSION = 1
_SPEAKER = re.compile(r"(?:(?P<word>.+)_)?(?P<speaker>[0-9a-fA-F]{8})_nohash_")
_MAX_WAVS_PER_CLASS = 2**27 - 1
_LAYOUT = "<word>/<speaker>_nohash_<number>.wav (or .flac, .ogg, .mp3)"
# Once or more: the 12-class test sets have names in .wav.wav.
_SUFFIXES = re.compile(r"(\.(wav|flac|ogg|mp3))+$", re.IGNORECASE)


class _Clip(NamedTuple):
    path: str  # Relative, and ":<start>" if cut from a longer recording.
    class_name: str
    group: str
    has_speaker: bool


def load_speech_commands(
    data_dir: str | os.PathLike[str],
    decoding: Decoding,
    *,
    class_set: Literal["auto", "paper32", "kaggle12"] = "auto",
    lists_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads an unpacked Speech Commands archive, decoded once into a cache.

    Takes the layouts of versions 0.01 and 0.02 (word folders, `_background_noise_`,
    lists of validation and test clips) and of the 12-class test sets (`_silence_`,
    `_unknown_`), as WAV, FLAC, OGG or MP3. Clips are cut, or padded with zeros, at the
    end. Groups are the speakers; a silent clip without a speaker is its own group.

    Splits are those of the list files; without testing_list.txt those of the official
    hash, `which_set` at 10% and 10%; None if that leaves a split without speakers, as
    in the 12-class test sets.

    With "paper32" and "kaggle12", words outside the set become `_unknown_`, and a clip
    in the folder `_unknown_` whose name starts with a word of the set becomes that
    word. Without clips in `_silence_`, silence is cut from the background recordings at
    fixed positions, about as many clips as an average word has; overlapping clips share
    a group. Since the noise comes from the same recordings, accuracy on that silence is
    optimistic for a model trained with the noise.

    Args:
        data_dir: The folder with the word folders.
        decoding: How recordings become clips.
        class_set: "auto": every folder with clips is a class, `_silence_` and
            `_unknown_` first; "paper32": `PAPER32`; "kaggle12": `KAGGLE12`.
        lists_dir: The folder of the list files; None: `data_dir`.

    Returns:
        The dataset; its noise is the background recordings cut into consecutive
        clips.

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
    check_folder(root)
    listing = [
        entry
        for entry in list_files(root, max_depth=2)
        if entry[0].endswith("_list.txt") or _is_recording(entry[0])
    ]
    if lists_dir is not None:
        beside = list_files(Path(lists_dir), max_depth=1)
        listing += [entry for entry in beside if entry[0].endswith("_list.txt")]
    paths = [path for path, *_ in listing if _is_recording(path)]
    words = [path for path in paths if not path.startswith(f"{BACKGROUND}/")]
    if not words:
        raise ValueError(
            f"data_dir: expected recordings named {_LAYOUT}, found none in {root}"
        )
    classes = CLASS_SETS[class_set]
    rate_hz, num_samples, _ = decoding.key
    key = fingerprint(
        "speech_commands", _VERSION, rate_hz, num_samples, class_set, listing
    )

    def build(folder: Path) -> Dataset:
        background, unusable = _read_background(root, set(paths) - set(words), decoding)

        def silence(clips: list[_Clip]) -> Iterator[tuple[_Clip, np.ndarray]]:
            if classes is not None:
                yield from _cut_silence(background, clips, num_samples)

        waveforms, clips, skipped = decode_recordings(
            folder,
            root,
            [_name_clip(path, classes) for path in words],
            decoding,
            layout=_LAYOUT,
            unusable=unusable,
            more=silence,
        )
        class_names = classes or _order_classes(clips)
        labels = [class_names.index(clip.class_name) for clip in clips]
        labels = np.array(labels, np.int32)
        groups = np.array([clip.group for clip in clips])
        names = np.array([clip.path for clip in clips])
        splits = _official_splits(Path(lists_dir or root), clips)
        noise = _cut_noise(background, num_samples)
        return Dataset(
            name="speech_commands",
            clips=waveforms,
            labels=labels,
            class_names=class_names,
            groups=groups,
            names=names,
            sample_rate_hz=rate_hz,
            fingerprint=content_fingerprint(
                *(waveforms, labels, np.array(class_names), groups, names),
                *(splits, noise, np.array([rate_hz])),
            ),
            official_splits=splits,
            noise=noise,
            skipped=skipped,
        )

    return load_decoded(f"speech_commands-{key}", build, root, decoding)


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
    root: Path, paths: set[str], decoding: Decoding
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Returns the background recordings as int16, and why others are unusable."""
    background, unusable = {}, []
    for path in sorted(paths):
        try:
            waveform = read_audio(root / path, sample_rate_hz=decoding.sample_rate_hz)
        except AudioFileError as error:
            unusable.append((path, error.reason))
            continue
        if len(waveform) < decoding.num_samples:
            unusable.append((path, f"is shorter than {decoding.num_samples} samples"))
        else:
            background[path] = to_pcm16(waveform)
    return background, unusable


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
    if any(_SUFFIXES.sub("", clip.path) in test for clip in clips):
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
    name = _SUFFIXES.sub("", clip.path)
    if name in test:
        return "test"
    if name in validation:
        return "validation"
    # The lists do not name silence, which would otherwise be in one split only.
    if clip.class_name == SILENCE and (validation or by_hash == "test"):
        return by_hash
    return "train"


def _read_list(path: Path) -> set[str]:
    """Returns the clips that a list names, without their suffixes."""
    if not path.is_file():
        return set()
    # Bytes that are not UTF-8 become what the system makes of them in file names.
    lines = os.fsdecode(path.read_bytes()).splitlines()
    return {_SUFFIXES.sub("", line.strip()) for line in lines}
