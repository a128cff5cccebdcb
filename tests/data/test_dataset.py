"""The dataset's checks, and splits that keep groups together."""

import numpy as np
import pytest

from uap_jax.data.dataset import Dataset, leaked_share, split_clips, to_waveform


def make_dataset(num_clips=3, **changes):
    fields = {
        "name": "tiny",
        "clips": np.zeros((num_clips, 8), np.int16),
        "labels": np.zeros(num_clips, np.int32),
        "class_names": ("no", "yes"),
        "groups": np.array([f"speaker{index}" for index in range(num_clips)]),
        "names": np.array([f"{index}.wav" for index in range(num_clips)]),
        "sample_rate_hz": 16000,
        "fingerprint": "0123",
    }
    return Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(2, np.int32)}, "labels: expected 3 entries"),
        ({"groups": np.array(["a"])}, "groups: expected 3 entries"),
        ({"names": np.array(["a"] * 4)}, "names: expected 3 entries"),
        ({"clips": np.zeros((3, 8))}, "clips: expected .* float64"),
        ({"clips": np.zeros((3, 8, 1), np.int16)}, r"clips: expected .*\(3, 8, 1\)"),
        ({"labels": np.array([0, 1, 2])}, r"labels: expected 0\.\.1, got 0\.\.2"),
        ({"labels": np.array([0, 1, -1])}, r"labels: expected 0\.\.1, got -1\.\.1"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(**changes)


def test_to_waveform():
    pcm = np.array([[-32768, 0, 16384, 32767]], np.int16)
    waveform = to_waveform(pcm)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, pcm / 32768)
    floats = np.array([[0.1, -0.7]], np.float32)
    np.testing.assert_array_equal(to_waveform(floats), floats)


def make_speakers(*, num_speakers=300, num_each=3, **changes):
    groups = np.repeat([f"speaker{index}" for index in range(num_speakers)], num_each)
    order = np.random.default_rng(0).permutation(len(groups))
    return make_dataset(len(groups), groups=groups[order], **changes)


def assert_partition(dataset, splits):
    together = np.concatenate(splits)
    np.testing.assert_array_equal(np.sort(together), np.arange(len(dataset.labels)))
    groups = [set(dataset.groups[indices]) for indices in splits]
    assert len(set.union(*groups)) == sum(map(len, groups))
    for indices in splits:
        assert np.all(np.diff(indices) > 0)


def test_splits_by_group():
    dataset = make_speakers()
    splits = split_clips(dataset, validation_share=0.2, test_share=0.1)
    assert_partition(dataset, splits)
    assert abs(len(splits.validation) - 180) < 70
    assert abs(len(splits.test) - 90) < 50


def test_a_group_stays_where_it_was_when_others_come():
    small, large = make_speakers(num_speakers=100), make_speakers(num_speakers=300)
    for first, second in zip(split_clips(small), split_clips(large), strict=True):
        assert set(small.groups[first]) <= set(large.groups[second])


def test_splits_by_the_corpus():
    official = np.array(["test", "train", "validation", "train", "test"])
    splits = split_clips(make_dataset(5, official_splits=official))
    assert [indices.tolist() for indices in splits] == [[1, 3], [2], [0, 4]]


@pytest.mark.parametrize(
    ("named", "drawn", "expected"),
    [("test", "validation", 81), ("validation", "test", 122)],
)
def test_a_split_that_is_not_named_comes_from_train(named, drawn, expected):
    dataset = make_speakers()
    is_named = np.char.endswith(dataset.groups, "7")
    dataset = make_speakers(official_splits=np.where(is_named, named, "train"))
    splits = split_clips(dataset)
    assert_partition(dataset, splits)
    np.testing.assert_array_equal(getattr(splits, named), np.flatnonzero(is_named))
    assert abs(len(getattr(splits, drawn)) - expected) < 55


def test_a_speaker_in_two_lists_is_refused():
    official = np.full(900, "train")
    official[0] = "test"
    with pytest.raises(ValueError, match=r"each speaker in one split, got .* in "):
        split_clips(make_speakers(official_splits=official))


def test_groups_that_may_overlap_are_counted():
    dataset = make_dataset(
        6,
        groups=np.array(["a", "a", "b", "b", "c", "d"]),
        official_splits=np.array(
            ["train", "test", "validation", "test", "test", "test"]
        ),
        groups_overlap=True,
    )
    splits = split_clips(dataset)
    assert [indices.tolist() for indices in splits] == [[0], [2], [1, 3, 4, 5]]
    assert leaked_share(dataset, splits) == 0.25


def test_too_few_groups():
    with pytest.raises(ValueError, match="tiny: no clips for validation"):
        split_clips(make_dataset(4, groups=np.array(["a"] * 4)))
