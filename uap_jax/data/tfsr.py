"""The TensorFlow Speech Recognition Challenge: words, and clips without labels."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable
from pathlib import Path

from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.data.speech_commands import KAGGLE12, load_speech_commands

_TRAIN = Path("train") / "audio"
_UNLABELLED = Path("test") / "audio"

# What a clip that cannot be read is said to be: nothing is heard in it.
LABEL_OF_NOTHING = "silence"


def load_tfsr(
    data_dir: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str],
    sample_rate_hz: int = 16000,
    num_samples: int = 16000,
    strict: bool = False,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
) -> Dataset:
    """Loads the labelled clips of the challenge, decoded once into a cache.

    They are those of Speech Commands 0.01, in `train/audio`, with the twelve classes
    that were scored (`speech_commands.KAGGLE12`) and splits by the lists in `train`.
    The clips in `test/audio` have no labels and are not among them.

    Args:
        data_dir: The folder with the unpacked train.7z, and test.7z if it is there.
        cache_dir, sample_rate_hz, num_samples, strict, num_workers, progress: As for
            `load_speech_commands`.

    Returns:
        The dataset.

    Raises:
        ValueError, AudioFileError, OSError: As for `load_speech_commands`.
    """
    root = Path(data_dir) / _TRAIN
    if not root.is_dir():
        raise ValueError(
            f"data_dir: expected a folder {_TRAIN} with a folder for each word, as "
            f"train.7z unpacks to, found none in {data_dir}"
        )
    has_lists = (root.parent / "testing_list.txt").is_file()
    dataset = load_speech_commands(
        root,
        cache_dir=cache_dir,
        sample_rate_hz=sample_rate_hz,
        num_samples=num_samples,
        class_set="kaggle12",
        lists_dir=root.parent if has_lists else None,
        strict=strict,
        num_workers=num_workers,
        progress=progress,
    )
    return dataclasses.replace(dataset, name="tfsr")


def unlabelled_clips(data_dir: str | os.PathLike[str]) -> list[Path]:
    """Returns the WAV files in test/audio by name; none where there is no folder.

    Raises:
        OSError: The folder cannot be read.
    """
    folder = Path(data_dir) / _UNLABELLED
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.endswith(".wav") and not entry.name.startswith(".")
        ]
    return [folder / name for name in sorted(names)]


def describe_tfsr(data_dir: str | os.PathLike[str]) -> str:
    """Returns in one line what becomes of the clips without labels."""
    num_clips = len(unlabelled_clips(data_dir))
    folder = Path(data_dir) / _UNLABELLED
    if num_clips:
        return f"{num_clips} clips without labels in {folder}"
    return (
        f"no clips in {folder}: the labelled test clips stand in for them, and no "
        "submission is written"
    )


def submission_label(class_name: str) -> str:
    """Returns the label of the challenge for a class; of others "unknown"."""
    return class_name.strip("_") if class_name in KAGGLE12 else "unknown"


def submission(paths: Iterable[Path], labels: Iterable[str]) -> bytes:
    """Returns the content of a submission, a line `fname,label` for each clip."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("fname", "label"))
    for path, label in zip(paths, labels, strict=True):
        writer.writerow((path.name, label))
    # As the system reads the names of the files.
    return os.fsencode(text.getvalue())
