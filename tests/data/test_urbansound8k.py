"""UrbanSound8K: formats, folds, both splits, damaged tables."""

import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile
from sounds import (
    EXPECTED,
    NUM_SAMPLES,
    URBAN_COLUMNS,
    decoding,
    urban_row,
    write_table,
    write_tone,
    write_urban,
)

from uap_jax.audio.files import AudioFileError
from uap_jax.data import corpora, urbansound8k
from uap_jax.data.dataset import leaked_share, split_clips
from uap_jax.data.listing import unite_groups
from uap_jax.data.urbansound8k import CLASS_NAMES, load_urbansound8k

FORMATS = (
    (8000, 1, "PCM_16"),
    (11025, 2, "PCM_U8"),
    (22050, 2, "PCM_24"),
    (44100, 1, "IMA_ADPCM"),
    (44100, 2, "MS_ADPCM"),
    (48000, 2, "FLOAT"),
    (96000, 1, "DOUBLE"),
    (192000, 2, "PCM_32"),
    (44100, 1, "ULAW"),
)


def load(root, *, split="official", test_fold=None, split_seed=0, **settings):
    chosen = {"split": split, "test_fold": test_fold, "split_seed": split_seed}
    return load_urbansound8k(root, decoding(root, **settings), **chosen)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "UrbanSound8K"


def test_every_format_becomes_the_same_tone(root):
    rows = [urban_row(n, n, 1 + n % 3) for n in range(len(FORMATS))]
    write_urban(root, rows)
    for row, (rate_hz, channels, sub) in zip(rows, FORMATS, strict=True):
        path = root / "audio" / f"fold{row[3]}" / row[0]
        write_tone(path, rate_hz=rate_hz, channels=channels, sub=sub)
    dataset = load(root, strict=True)
    assert dataset.clips.shape == (len(FORMATS), NUM_SAMPLES)
    for clip, settings in zip(dataset.clips, FORMATS, strict=True):
        error = np.abs(clip[100:300] - EXPECTED[100:300]).max()
        assert error < 600, settings


def test_official_folds(root):
    rows = write_urban(root)
    dataset = load(root)
    assert dataset.class_names == CLASS_NAMES == tuple(sorted(CLASS_NAMES))
    assert dataset.names[0] == "audio/fold1/1000-0-0-0.wav"
    assert dataset.groups.tolist() == [str(row[1]) for row in rows]
    assert dataset.labels.tolist() == [row[4] for row in rows]
    folds = np.array([row[3] for row in rows])
    splits = split_clips(dataset)
    assert [set(folds[split]) for split in splits] == [{1, 2, 3}, {4}, {5}]
    above = load_urbansound8k(root.parent, decoding(root))
    np.testing.assert_array_equal(above.names, dataset.names)
    for test_fold, validation in ((1, 5), (4, 3)):
        other = load(root, test_fold=test_fold)
        splits = split_clips(other)
        assert set(folds[splits.test]) == {test_fold}
        assert set(folds[splits.validation]) == {validation}
        assert other.fingerprint != dataset.fingerprint
    with pytest.raises(ValueError, match=r"^test_fold: expected one of"):
        load(root, test_fold=11)


def test_as_kaggle_unpacks_it(root):
    rows = write_urban(root)
    official = load(root)
    for path in [*root.glob("audio/fold*"), root / "metadata" / "UrbanSound8K.csv"]:
        path.rename(root / path.name)
    (root / "audio").rmdir()
    write_tone(root / "fold1" / "surplus.wav")
    for folder in (root, root.parent):
        dataset = load_urbansound8k(folder, decoding(root))
        assert dataset.names[0] == f"fold1/{rows[0][0]}"
        assert dataset.skipped == ("fold1/surplus.wav: has no row in UrbanSound8K.csv",)
        for field in ("clips", "labels", "groups", "official_splits"):
            np.testing.assert_array_equal(
                getattr(dataset, field), getattr(official, field)
            )


def test_source_in_two_folds_is_in_the_one_with_more_of_it(root):
    write_urban(
        root,
        [
            *(urban_row(fold, 0, fold, n) for fold in (1, 2, 3) for n in range(2)),
            *(urban_row(7, 1, 3, n) for n in (4, 5, 6)),
            *(urban_row(7, 1, 1, n) for n in (0, 1)),
        ],
    )
    dataset = load(root)
    splits = split_clips(dataset)
    assert set(dataset.groups[splits.test]) == {"3", "7"}
    assert len(splits.test) == 7
    assert leaked_share(dataset, splits) == 0.0
    groups = np.array(["a", "a", "b", "c", "b", "c", "c"])
    folds = np.array([4, 4, 3, 1, 2, 7, 7])
    assert unite_groups(groups, folds).tolist() == [4, 4, 2, 7, 2, 7, 7]


def test_paper_split_has_its_sizes_and_leaks(root):
    names = np.array([f"audio/fold1/{number}.wav" for number in range(8732)])
    counts = Counter(urbansound8k._split_clips(names, 0).tolist())
    assert counts == {"train": 7072, "validation": 786, "test": 874}
    write_urban(
        root,
        [
            urban_row(10 * fold + label, label, fold, n)
            for fold in range(1, 6)
            for label in (0, 9)
            for n in range(4)
        ],
    )
    steps = []
    official = load(root, progress=lambda *step: steps.append(step))
    dataset = load(root, split="paper", progress=lambda *step: steps.append(step))
    assert steps == [("decoding", 40, 40)], "one cache for both splits"
    np.testing.assert_array_equal(official.clips, dataset.clips)
    assert dataset.groups_overlap and not official.groups_overlap
    splits = split_clips(dataset)
    assert [len(split) for split in splits] == [32, 4, 4]
    heard = set(dataset.groups[splits.train])
    expected = np.mean([group in heard for group in dataset.groups[splits.test]])
    assert leaked_share(dataset, splits) == expected > 0
    again = corpora.load(
        "urbansound8k",
        split="paper",
        data_dir=root,
        cache_dir=root.parent / "cache",
        sample_rate_hz=16000,
        num_samples=NUM_SAMPLES,
    )
    np.testing.assert_array_equal(dataset.official_splits, again.official_splits)
    other = load(root, split="paper", split_seed=1)
    assert np.any(other.official_splits != dataset.official_splits)
    keys = {dataset.fingerprint, other.fingerprint, official.fingerprint}
    assert len(keys) == 3
    with pytest.raises(ValueError, match=r"^split: expected one of"):
        load(root, split="random")


@pytest.mark.parametrize("crop", ["start", "center"])
def test_long_and_short_clips(root, crop):
    rows = write_urban(root, [urban_row(fold, 0, fold) for fold in (1, 2, 3)])
    ramp = np.arange(1, 1000, dtype=np.int16)
    for row, length in zip(rows, (999, 101, NUM_SAMPLES), strict=True):
        soundfile.write(root / "audio" / f"fold{row[3]}" / row[0], ramp[:length], 16000)
    clips = load(root, crop=crop).clips
    first, before = (0, 0) if crop == "start" else (299, 149)
    np.testing.assert_array_equal(clips[0], ramp[first : first + NUM_SAMPLES])
    padded = np.pad(ramp[:101], (before, NUM_SAMPLES - 101 - before))
    np.testing.assert_array_equal(clips[1], padded)
    np.testing.assert_array_equal(clips[2], ramp[:NUM_SAMPLES])


def test_missing_and_undescribed_recordings(root):
    write_urban(root)
    shutil.rmtree(root / "audio" / "fold5")
    write_tone(root / "audio" / "fold2" / "99-1-0-0.wav")
    dataset = load(root)
    assert len(dataset.skipped) == 5
    assert dataset.skipped[0] == (
        "audio/fold2/99-1-0-0.wav: has no row in metadata/UrbanSound8K.csv"
    )
    assert dataset.skipped[1].endswith("/5000-0-0-0.wav: does not exist")
    splits = split_clips(dataset)
    assert all("/fold4/" in name for name in dataset.names[splits.test])
    with pytest.raises(AudioFileError, match=r"99-1-0-0\.wav: has no row in"):
        load(root, strict=True)


def test_too_few_folds(root):
    write_urban(root, [urban_row(n, n % 2, 1 + n % 2) for n in range(8)])
    with pytest.raises(ValueError, match=r"at least 3 folds.* those of fold1, fold2$"):
        load(root)
    assert len(split_clips(load(root, split="paper")).train) == 6


@pytest.mark.parametrize("missing", ["audio", "metadata"])
def test_other_layouts_are_refused(root, missing):
    write_urban(root)
    shutil.rmtree(root / missing)
    with pytest.raises(ValueError, match=r"data_dir: expected metadata/.*found none$"):
        load(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: ""}, r"a value in every column in .*csv:2, got 1000-0-0-0\.wav,,0"),
        ({3: "one"}, r"numbers as fold and classID in .*csv:2"),
        ({3: 0}, r"a fold from 1 and a classID in 0\.\.9 in .*csv:2"),
        ({4: 10}, r"a fold from 1 and a classID in 0\.\.9 in .*csv:2"),
        ({0: "1000-0-0-1.wav"}, r"each recording once, got audio/fold1/1000-0-0-1"),
    ],
)
def test_damaged_tables_are_refused(root, change, message):
    rows = write_urban(root)
    table = root / "metadata" / "UrbanSound8K.csv"
    first = [change.get(column, value) for column, value in enumerate(rows[0])]
    write_table(table, URBAN_COLUMNS, [first, *rows[1:]])
    with pytest.raises(ValueError, match=f"^data_dir: expected {message}"):
        load(root)


def test_table_without_a_column_or_with_a_byte_order_mark(root):
    rows = write_urban(root)
    table = root / "metadata" / "UrbanSound8K.csv"
    write_table(table, ["\ufeffslice_file_name", *URBAN_COLUMNS[1:]], rows)
    assert len(load(root).clips) == 20
    write_table(table, ["file", *URBAN_COLUMNS[1:]], rows)
    with pytest.raises(ValueError, match=r"got none named slice_file_name$"):
        load(root)
