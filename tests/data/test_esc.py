"""ESC-50 and both layouts of ESC-10: classes, folds, sources, damaged tables."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sounds import (
    ESC_COLUMNS,
    EXPECTED,
    decoding,
    write_esc10,
    write_esc50,
    write_table,
    write_tone,
)

from uap_jax.audio.files import AudioFileError
from uap_jax.data.dataset import leaked_share, split_clips
from uap_jax.data.decoding import Decoding
from uap_jax.data.esc import load_esc


def load(root, *, subset="esc10", **settings):
    return load_esc(root, decoding(root, **settings), subset=subset)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "ESC"
    folder.mkdir()
    return folder


def check_splits(dataset, test_fold):
    splits = split_clips(dataset)
    names = [name.rpartition("/")[2] for name in dataset.names]
    in_test = [name.startswith(f"{test_fold}-") for name in names]
    assert splits.test.tolist() == np.flatnonzero(in_test).tolist()
    assert leaked_share(dataset, splits) == 0.0
    for split in splits:
        assert set(dataset.labels[split]) == set(range(len(dataset.class_names)))
    return splits, [len(set(dataset.groups[split])) for split in splits]


def test_esc50_and_its_ten_classes(root):
    rows = write_esc50(root)
    dataset = load(root, subset="esc50", strict=True)
    assert dataset.class_names == ("dog", "cat", "crackling_fire")
    assert [dataset.class_names[label] for label in dataset.labels] == [
        row[3] for row in rows
    ]
    assert dataset.groups.tolist() == [str(row[5]) for row in rows]
    assert dataset.names[0] == f"audio/{rows[0][0]}"
    # 24 sources of each class are not in the test.
    assert check_splits(dataset, 5)[1] == [60, 12, 18]
    np.testing.assert_allclose(dataset.clips[0], EXPECTED, atol=1)
    ten = load(root, strict=True)
    assert ten.class_names == ("dog", "crackling_fire")
    assert len(ten.clips) == 2 * 5 * 9
    check_splits(ten, 5)


def test_original_release(root):
    write_esc10(root)
    dataset = load(root, strict=True)
    assert dataset.class_names == ("dog_bark", "rain", "fire_crackling")
    assert Counter(dataset.labels.tolist()) == {0: 16, 1: 16, 2: 16}
    assert dataset.names[0] == "001 - Dog bark/1-1010-A.ogg"
    assert dataset.groups[0] == "1010"
    assert check_splits(dataset, 4)[1] == [15, 3, 6]
    above = load_esc(root.parent, decoding(root), subset="esc10")
    np.testing.assert_array_equal(above.official_splits, dataset.official_splits)


def test_source_in_two_folds_is_in_one_split(root):
    write_esc10(root)
    for take in "CDE":
        write_tone(root / "002 - Rain" / f"4-2010-{take}.ogg")
    dataset = load(root)
    assert np.sum(dataset.groups[split_clips(dataset).test] == "2010") == 5


def test_validation_does_not_depend_on_other_classes(root):
    write_esc10(root, num_sources=6)
    before = load(root)
    write_tone(root / "004 - Rooster" / "1-9-A.ogg")
    after = load(root)
    np.testing.assert_array_equal(before.official_splits, after.official_splits[:-1])
    # The only source of its class is for the training.
    assert after.official_splits[-1] == "train"


def test_one_fold_is_too_few(root):
    write_esc10(root, folds=[2])
    with pytest.raises(ValueError, match=r"at least 2 folds, got those of fold 2$"):
        load(root)


def test_recordings_that_nothing_describes(root):
    write_esc10(root)
    write_tone(root / "002 - Rain" / "rain.ogg")
    expected = "002 - Rain/rain.ogg: is not named <fold>-<source>-<take>.ogg"
    assert load(root).skipped == (expected,)
    with pytest.raises(AudioFileError, match=r"rain\.ogg: is not named"):
        load(root, strict=True)
    rows = write_esc50(root / "inner")
    (root / "inner" / "audio" / rows[0][0]).unlink()
    write_tone(root / "inner" / "audio" / "1-1-A-1.wav")
    assert load(root / "inner", subset="esc50").skipped == (
        "audio/1-1-A-1.wav: has no row in meta/esc50.csv",
        f"audio/{rows[0][0]}: does not exist",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "first"}, "numbers as fold and target in .*csv:2, got 1-120100"),
        ({2: -1}, "a fold from 1 and a target from 0 in .*csv:2"),
        ({2: 5}, r"crackling_fire as category of 5 in .*csv:\d+, got .*cat"),
    ],
)
def test_damaged_tables_are_refused(root, change, message):
    rows = write_esc50(root, folds=[1, 2], num_sources=1)
    first = [change.get(column, value) for column, value in enumerate(rows[0])]
    write_table(root / "meta" / "esc50.csv", ESC_COLUMNS, [first, *rows[1:]])
    with pytest.raises(ValueError, match=f"^data_dir: expected {message}"):
        load(root, subset="esc50")


def test_other_layouts_are_refused(root):
    write_esc10(root, folds=[1])
    with pytest.raises(ValueError, match=r"data_dir: expected meta/.* found none$"):
        load(root, subset="esc50")
    write_esc10(root / "inner", folds=[1])
    with pytest.raises(ValueError, match=r"data_dir: .*<class>/.* found 2 of them$"):
        load(root)
    with pytest.raises(ValueError, match=r"^subset: expected one of"):
        load(root, subset="esc100")


@pytest.mark.skipif(
    "UAP_JAX_ESC10_DIR" not in os.environ, reason="needs the recordings of ESC-10"
)
def test_real_recordings(tmp_path):
    root = Path(os.environ["UAP_JAX_ESC10_DIR"])
    settings = Decoding(tmp_path, num_samples=50_999, strict=True)
    dataset = load_esc(root, settings, subset="esc10")
    assert len(dataset.class_names) == 10
    folds = {int(name.partition("/")[2][0]) for name in dataset.names}
    assert len(dataset.clips) == 80 * len(folds)
    splits, _ = check_splits(dataset, max(folds))
    assert len(splits.test) == 80
    assert 0.1 < len(splits.validation) / (80 * (len(folds) - 1)) < 0.25
    assert np.all(np.any(dataset.clips, axis=1))
