"""The challenge's folder: labelled clips, clips without labels, submissions."""

import csv

import numpy as np
import pytest

from uap_jax.audio.files import write_wav
from uap_jax.data import corpora, tfsr
from uap_jax.data.dataset import split_clips
from uap_jax.data.speech_commands import KAGGLE12, load_speech_commands

NUM_SAMPLES = 400
# Listed for validation and test, against what the hash of the corpus would say.
VALIDATION, TEST, TRAIN = "70000001", "70000002", ("0c40e715", "0ea0e2f4")


def write_clip(path, *, seed=0, num_samples=NUM_SAMPLES):
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples)
    write_wav(path, waveform, sample_rate_hz=16000)


@pytest.fixture
def root(tmp_path):
    """Two words that are scored and one that is not, and the lists beside them."""
    folder = tmp_path / "challenge"
    audio = folder / "train" / "audio"
    for word in ("yes", "stop", "bed"):
        for speaker in (VALIDATION, TEST, *TRAIN):
            write_clip(audio / word / f"{speaker}_nohash_0.wav")
    noise = audio / "_background_noise_" / "running_tap.wav"
    write_clip(noise, num_samples=40 * NUM_SAMPLES)
    for split, speaker in (("validation", VALIDATION), ("testing", TEST)):
        names = [f"{word}/{speaker}_nohash_0.wav" for word in ("yes", "stop", "bed")]
        (folder / "train" / f"{split}_list.txt").write_text("\n".join(names) + "\n")
    return folder


def load(root, **settings):
    settings = {"num_samples": NUM_SAMPLES, "num_workers": 1} | settings
    return tfsr.load_tfsr(root, cache_dir=root.parent / "cache", **settings)


def test_labelled_clips(root):
    write_clip(root / "test" / "audio" / "clip_1.wav")
    dataset = load(root)
    assert dataset.name == "tfsr"
    assert dataset.class_names == KAGGLE12
    words = dataset.names[: 3 * 4]
    assert set(words) == {
        f"{word}/{speaker}_nohash_0.wav"
        for word in ("yes", "stop", "bed")
        for speaker in (VALIDATION, TEST, *TRAIN)
    }
    named = dict(zip(dataset.names, dataset.labels, strict=True))
    for word, class_name in (("yes", "yes"), ("stop", "stop"), ("bed", "_unknown_")):
        assert KAGGLE12[named[f"{word}/{TEST}_nohash_0.wav"]] == class_name
    assert "_silence_" in {KAGGLE12[label] for label in dataset.labels}
    assert dataset.noise is not None
    assert dataset.official_splits is not None
    splits = dict(zip(dataset.names, dataset.official_splits, strict=True))
    for speaker, split in ((VALIDATION, "validation"), (TEST, "test")):
        assert splits[f"yes/{speaker}_nohash_0.wav"] == split
    assert all(splits[f"yes/{speaker}_nohash_0.wav"] == "train" for speaker in TRAIN)
    assert len(split_clips(dataset).test)


def test_lists_may_be_beside_the_words_or_change(root):
    first = load(root)
    lists = sorted((root / "train").glob("*_list.txt"))
    for path in lists:
        path.rename(root / "train" / "audio" / path.name)
    moved = load(root)
    assert moved.names.tolist() == first.names.tolist()
    assert moved.official_splits.tolist() == first.official_splits.tolist()
    testing = root / "train" / "testing_list.txt"
    testing.write_text(f"yes/{TRAIN[0]}_nohash_0.wav\n")
    changed = load(root)
    splits = dict(zip(changed.names, changed.official_splits, strict=True))
    assert splits[f"yes/{TRAIN[0]}_nohash_0.wav"] == "test"
    assert splits[f"yes/{TEST}_nohash_0.wav"] == "train"


def test_same_clips_as_speech_commands(root):
    audio = root / "train" / "audio"
    plain = load_speech_commands(
        audio,
        cache_dir=root.parent / "plain",
        num_samples=NUM_SAMPLES,
        class_set="kaggle12",
    )
    found = load(root)
    np.testing.assert_array_equal(found.clips, plain.clips)
    np.testing.assert_array_equal(found.labels, plain.labels)


def test_by_name(root, tmp_path):
    found = corpora.load(
        "tfsr",
        data_dir=root,
        cache_dir=tmp_path / "cache",
        sample_rate_hz=16000,
        num_samples=NUM_SAMPLES,
    )
    assert found.fingerprint == load(root).fingerprint


def test_clips_without_labels(root):
    assert tfsr.unlabelled_clips(root) == []
    assert "no submission is written" in tfsr.describe_tfsr(root)
    folder = root / "test" / "audio"
    for name in ("clip_b.wav", "clip_a.wav", ".clip_c.wav"):
        write_clip(folder / name)
    (folder / "notes.txt").write_text("none")
    assert tfsr.unlabelled_clips(root) == [folder / "clip_a.wav", folder / "clip_b.wav"]
    assert tfsr.describe_tfsr(root) == f"2 clips without labels in {folder}"


def test_labels_are_those_of_the_challenge():
    labels = [tfsr.submission_label(name) for name in KAGGLE12]
    assert labels == [
        *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
        *("silence", "unknown"),
    ]
    assert tfsr.submission_label("marvin") == "unknown"
    assert tfsr.LABEL_OF_NOTHING in labels


def test_a_submission_reads_back(tmp_path):
    names = ["clip_1.wav", 'clip, "two".wav', "clip_\udcff.wav"]
    content = tfsr.submission((tmp_path / name for name in names), ["yes"] * 3)
    assert content.startswith(b"fname,label\nclip_1.wav,yes\n")
    assert b"clip_\xff.wav,yes\n" in content
    rows = list(csv.reader(content.decode("utf-8", "surrogateescape").splitlines()))
    assert rows == [["fname", "label"], *([name, "yes"] for name in names)]


def test_folders_that_are_none(root, tmp_path):
    with pytest.raises(ValueError, match=r"data_dir: expected a folder train/audio"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"data_dir: expected a folder train/audio"):
        load(root / "train" / "audio")
    empty = tmp_path / "empty"
    (empty / "train" / "audio" / "yes").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"found none in .*train/audio"):
        load(empty)
