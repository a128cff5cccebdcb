"""The TensorFlow Speech Recognition Challenge: words, and clips without labels."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable
from pathlib import Path

from uap_jax.data.dataset import Dataset
from uap_jax.data.decoding import Decoding
from uap_jax.data.speech_commands import KAGGLE12, load_speech_commands

_TRAIN = Path("train") / "audio"
_UNLABELLED = Path("test") / "audio"

# The label of a clip that cannot be read.
LABEL_OF_NOTHING = "silence"


def load_tfsr(data_dir: str | os.PathLike[str], decoding: Decoding) -> Dataset:
    """Loads the labelled clips of the challenge, decoded once into a cache.

    They are those of Speech Commands 0.01 in `train/audio`, with the twelve classes
    that were scored (`speech_commands.KAGGLE12`) and splits by the lists in `train`.
    The clips in `test/audio` have no labels and are left out.

    Args:
        data_dir: The folder with the unpacked train.7z, and test.7z if available.
        decoding: As for `load_speech_commands`, which also says what is raised.
    """
    root = Path(data_dir) / _TRAIN
    if not root.is_dir():
        raise ValueError(
            f"data_dir: expected a folder {_TRAIN} with a folder for each word, as "
            f"train.7z unpacks to, found none in {data_dir}"
        )
    lists = root.parent if (root.parent / "testing_list.txt").is_file() else None
    dataset = load_speech_commands(
        root, decoding, class_set="kaggle12", lists_dir=lists
    )
    return dataclasses.replace(dataset, name="tfsr")


def unlabelled_clips(data_dir: str | os.PathLike[str]) -> list[Path]:
    """Returns the WAV files in test/audio by name; none where there is no folder.

    Raises:
        OSError: The folder cannot be read.
    """
    folder = Path(data_dir) / _UNLABELLED
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / n for n in names if n.endswith(".wav") and n[0] != "."]


def describe_tfsr(data_dir: str | os.PathLike[str]) -> str:
    """Returns one line on the clips without labels."""
    num_clips = len(unlabelled_clips(data_dir))
    folder = Path(data_dir) / _UNLABELLED
    if num_clips:
        return f"{num_clips} clips without labels in {folder}"
    return (
        f"no clips in {folder}: the labelled test clips stand in for them, and no "
        "submission is written"
    )


def submission_label(class_name: str) -> str:
    """Returns the label of the challenge for a class, "unknown" for others."""
    return class_name.strip("_") if class_name in KAGGLE12 else "unknown"


def submission(paths: Iterable[Path], labels: Iterable[str]) -> bytes:
    """Returns a submission: a table with the columns fname and label."""
    text = io.StringIO(newline="")
    rows = ((path.name, label) for path, label in zip(paths, labels, strict=True))
    csv.writer(text, lineterminator="\n").writerows([("fname", "label"), *rows])
    # Names keep bytes that are not UTF-8.
    return os.fsencode(text.getvalue())
