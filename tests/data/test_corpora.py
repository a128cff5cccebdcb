"""What all corpora of recordings share: splits, caches, unusable recordings."""

import os
import shutil

import numpy as np
import pytest
from sounds import NUM_SAMPLES, WRITERS, write_tone

from uap_jax.audio.files import AudioFileError
from uap_jax.data import corpora
from uap_jax.data.dataset import leaked_share, split_clips
from uap_jax.data.decoding import Decoding

SETTINGS = {"sample_rate_hz": 16000, "num_samples": NUM_SAMPLES}
# Of earlier versions; cached models are found by them. Not of ESC-10, since decoders of
# Ogg Vorbis differ.
FINGERPRINTS = {
    "speech_commands": "636e180acdd992ad",
    "speech_commands_kaggle12": "10b0d34b77209d2c",
    "tfsr": "a40c2d2e5da9d28c",
    "urbansound8k": "e4cf78f91f2c355d",
    "esc50": "d3b274c3c5a4a639",
    "folder": "10a68c711c9b170c",
}


@pytest.fixture(params=WRITERS)
def name(request):
    return request.param


@pytest.fixture
def root(name, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    WRITERS[name](folder)
    return folder


def load(name, root, **settings):
    settings = SETTINGS | {"cache_dir": root.parent / "cache"} | settings
    return corpora.load(name, data_dir=root, **settings)


def recordings_of(root):
    return sorted(path for path in root.rglob("*") if path.suffix in (".wav", ".ogg"))


def test_splits_share_no_group(name, root):
    dataset = load(name, root, strict=True)
    assert dataset.clips.shape == (len(dataset.labels), NUM_SAMPLES)
    assert dataset.clips.dtype == np.int16
    assert dataset.labels.dtype == np.int32
    assert len(set(dataset.names)) == len(dataset.names)
    splits = split_clips(dataset)
    groups = [set(dataset.groups[split]) for split in splits]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert leaked_share(dataset, splits) == 0


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprint_is_that_of_earlier_versions(name, root):
    assert load(name, root).fingerprint == FINGERPRINTS[name]


def test_cache_follows_the_recordings(name, root):
    steps = []

    def load_counting(**settings):
        steps.clear()
        dataset = load(name, root, progress=lambda *s: steps.append(s), **settings)
        assert isinstance(dataset.clips, np.memmap)
        return dataset.fingerprint, sum(what == "decoding" for what, *_ in steps)

    first, decoded = load_counting()
    assert decoded == 1
    assert load_counting() == (first, 0)
    changed = recordings_of(root)[0]
    os.utime(changed, ns=(1, 1))
    assert load_counting() == (first, 1), "the same clips, decoded again"
    assert load_counting(num_samples=300)[1] == 1
    (root / "README.md").write_text("irrelevant")
    assert load_counting()[1] == 0
    changed.unlink()
    assert load_counting()[0] != first


def test_unusable_recordings_are_skipped_or_refused(name, root):
    paths = [path for path in recordings_of(root) if path.parent.name != "fold5"]
    empty, text = paths[0], paths[-1]
    empty.write_bytes(b"")
    text.write_text("not a recording")
    whole = load(name, root)
    assert len(whole.clips) == len(recordings_of(root)) - 2
    reasons = [line.split(": ", 1) for line in whole.skipped]
    assert len(reasons) == 2
    for (path, reason), bad, expected in zip(
        sorted(reasons, key=lambda pair: pair[1]),
        (text, empty),
        ("cannot be read as audio", "is empty (0 bytes)"),
        strict=True,
    ):
        assert bad.as_posix().endswith(path)
        assert reason.startswith(expected)
    split_clips(whole)
    for _ in range(2):
        with pytest.raises(AudioFileError, match=rf"^{root}/.*(empty|read as audio)"):
            load(name, root, strict=True)
        shutil.rmtree(root.parent / "cache")
    for path in paths + recordings_of(root):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^data_dir: expected recordings as .*empty"):
        load(name, root)


def test_classes_can_be_refused_before_anything_is_decoded(name, root):
    refused = []

    def refuse(class_names):
        refused.append(class_names)
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        load(name, root, check_classes=refuse)
    assert not (root.parent / "cache").exists()
    assert refused == [load(name, root).class_names]


def test_interrupted_decoding_leaves_nothing(name, root):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(name, root, progress=interrupt)
    cache = root.parent / "cache"
    assert not cache.exists() or not list(cache.glob("[!.]*"))
    assert load(name, root).skipped == ()


def test_other_layouts_are_refused(name, tmp_path):
    for folder in (tmp_path / "missing", tmp_path / "stray"):
        with pytest.raises(ValueError, match=r"^data_dir: expected "):
            load(name, folder)
        write_tone(tmp_path / "stray" / "stray.wav")


@pytest.mark.parametrize(
    "settings", [{"crop": "end"}, {"num_samples": 0}, {"sample_rate_hz": -1}]
)
def test_wrong_settings_are_named(tmp_path, settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected"):
        Decoding(tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nothing", {}, "dataset: expected one of"),
        ("esc50", {}, "data_dir: esc50 needs the folder"),
        ("esc50", {"split": "paper"}, r"split: expected one of \('official',\) for"),
        ("esc50", {"group_pattern": "(a)"}, "group_pattern: esc50 has"),
        ("synthetic_speech", {"data_dir": "x"}, "data_dir: synthetic_speech is built"),
        ("synthetic_urban", {}, "dataset: synthetic_urban has clips of 50999 samples"),
    ],
)
def test_requests_that_fit_no_corpus(name, settings, message, tmp_path):
    settings = {"data_dir": None, "cache_dir": tmp_path} | SETTINGS | settings
    with pytest.raises(ValueError, match=f"^{message}"):
        corpora.load(name, **settings)
