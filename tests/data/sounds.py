"""Small corpora in the layouts of the published ones."""

import csv
import functools
import io

import numpy as np
import soundfile

from uap_jax.data.decoding import Decoding

NUM_SAMPLES = 400
EXPECTED = 16384 * np.sin(2 * np.pi * 440 * np.arange(NUM_SAMPLES) / 16000)
# The official hash puts these at 0.7%, 7.8%, 16.4%, 18.7%, 69.8% and 79.6%.
VALIDATION = ("026290a7", "060cd039")
TEST = ("0c40e715", "0ea0e2f4")
TRAIN = ("00176480", "004ae714")
SPEAKERS = (*VALIDATION, *TEST, *TRAIN)
URBAN_COLUMNS = ("slice_file_name", "fsID", "start", "fold", "classID", "class")
ESC_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")


@functools.cache
def encode(
    suffix, rate_hz=16000, length_s=0.05, frequency_hz=440, channels=1, sub=None
):
    time_s = np.arange(round(length_s * rate_hz)) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * frequency_hz * time_s)
    buffer = io.BytesIO()
    samples = np.stack([tone] * channels, 1)
    soundfile.write(buffer, samples, rate_hz, sub, format=suffix[1:].upper())
    return buffer.getvalue()


def write_tone(path, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(path.suffix, **settings))


def write_table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def decoding(root, **settings):
    settings = {"num_samples": NUM_SAMPLES, "num_workers": 2} | settings
    return Decoding(root.parent / "cache", **settings)


def write_words(root, words=("bed", "yes"), speakers=SPEAKERS):
    for word in words:
        for speaker in speakers:
            write_tone(root / word / f"{speaker}_nohash_0.wav")


def write_challenge(root):
    write_words(root / "train" / "audio")
    for split, speaker in (("validation", VALIDATION[0]), ("testing", TEST[0])):
        names = [f"{word}/{speaker}_nohash_0.wav" for word in ("bed", "yes")]
        (root / "train" / f"{split}_list.txt").write_text("\n".join(names) + "\n")


def urban_row(source, label, fold, number=0):
    name = f"{source}-{label}-0-{number}.wav"
    return (name, source, 0, fold, label, "of no matter")


def write_urban(root, rows=None, **settings):
    rows = rows or [
        urban_row(1000 * fold + label, label, fold, number)
        for fold in range(1, 6)
        for label in (0, 9)
        for number in (0, 1)
    ]
    write_table(root / "metadata" / "UrbanSound8K.csv", URBAN_COLUMNS, rows)
    for row in rows:
        write_tone(root / "audio" / f"fold{row[3]}" / row[0], **settings)
    return rows


def write_esc50(root, *, folds=range(1, 6), num_sources=6):
    rows = []
    # Target, category, and whether the class is in ESC-10.
    for target, category, ten in (
        *((12, "crackling_fire", True), (0, "dog", True), (5, "cat", False)),
    ):
        for fold in folds:
            for number in range(num_sources):
                source = 10000 * target + 100 * fold + number
                for take in "AB"[: 1 + number % 2]:
                    name = f"{fold}-{source}-{take}-{target}.wav"
                    rows.append((name, fold, target, category, ten, source, take))
    write_table(root / "meta" / "esc50.csv", ESC_COLUMNS, rows)
    for row in rows:
        write_tone(root / "audio" / row[0])
    return rows


def write_esc10(root, *, folds=range(1, 5), num_sources=2):
    for number, name in enumerate(("Dog bark", "Rain", "Fire crackling"), 1):
        for fold in folds:
            for source in range(num_sources):
                for take in "AB":
                    file_name = f"{fold}-{1000 * number + 10 * fold + source}-{take}"
                    write_tone(root / f"{number:03d} - {name}" / f"{file_name}.ogg")
    (root / "README.md").write_text("about the sounds")


def write_classes(root, **num_recordings):
    for name, number in (num_recordings or {"a": 6, "b": 5}).items():
        for index in range(number):
            write_tone(root / name / f"{index:03d}.wav")


WRITERS = {
    "speech_commands": write_words,
    "speech_commands_kaggle12": write_words,
    "tfsr": write_challenge,
    "urbansound8k": write_urban,
    "esc50": write_esc50,
    "esc10": write_esc10,
    "folder": write_classes,
}
