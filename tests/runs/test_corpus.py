"""Which test clips a run is judged on, and the gain that a sweep measures once."""

import types

import numpy as np
import pytest

from uap_jax.data.dataset import Dataset, Splits
from uap_jax.runs import judge
from uap_jax.sweeps.shared import Context, Shared

NUM_CLIPS, COUNTS = 300, np.array([10, 40, 130])


def make_corpus():
    """300 clips, 180 of them in the test: 10, 40 and 130 of the three classes."""
    rng = np.random.default_rng(0)
    test = np.sort(rng.permutation(NUM_CLIPS)[: COUNTS.sum()])
    labels = np.zeros(NUM_CLIPS, np.int32)
    labels[test] = rng.permutation(np.repeat(np.arange(3), COUNTS))
    names = np.arange(NUM_CLIPS).astype(str)
    dataset = Dataset(
        name="toy",
        clips=rng.integers(-999, 999, (NUM_CLIPS, 8), np.int16),
        labels=labels,
        class_names=("a", "b", "c"),
        groups=names,
        names=names,
        sample_rate_hz=8000,
        fingerprint="toy",
    )
    others = np.setdiff1d(np.arange(NUM_CLIPS), test)
    return dataset, Splits(others[::2], others[1::2], test)


def settings(num_test_clips=None, *, seed=0, scaling="fixed"):
    return types.SimpleNamespace(
        num_test_clips=num_test_clips, seed=seed, scaling=scaling
    )


def choose(num_test_clips, *, seed=0):
    dataset, splits = make_corpus()
    chosen = judge.choose_test_clips(
        settings(num_test_clips, seed=seed), dataset, splits
    )
    assert chosen.train is splits.train and chosen.validation is splits.validation
    assert np.all(np.isin(chosen.test, splits.test))
    assert np.all(np.diff(chosen.test) > 0)
    return chosen.test, np.bincount(dataset.labels[chosen.test], minlength=3)


@pytest.mark.parametrize("wanted", [None, 180, 181, 10**9])
def test_all_test_clips(wanted):
    np.testing.assert_array_equal(choose(wanted)[0], make_corpus()[1].test)


@pytest.mark.parametrize("wanted", [1, 2, 18, 90, 100, 179])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_class_has_its_share(wanted, seed):
    chosen, counts = choose(wanted, seed=seed)
    assert len(chosen) == wanted
    assert np.all(np.abs(counts - COUNTS * wanted / COUNTS.sum()) <= 1.5)


def test_clips_follow_from_the_seed():
    np.testing.assert_array_equal(choose(50)[0], choose(50)[0])
    assert np.any(choose(50)[0] != choose(50, seed=1)[0])


def test_every_clip_is_as_likely():
    times = np.zeros(NUM_CLIPS)
    for seed in range(400):
        times[choose(45, seed=seed)[0]] += 1
    dataset, splits = make_corpus()
    share = times[splits.test] / 400
    for label in range(3):
        mean = np.mean(share[dataset.labels[splits.test] == label])
        assert mean == pytest.approx(45 / 180, abs=0.02)
    assert share.min() > 0.15 and share.max() < 0.36


def test_gain_is_measured_once(monkeypatch, tmp_path):
    dataset, splits = make_corpus()
    kept = Shared(Context(tmp_path, tmp_path, False))
    calls = []

    def measure(dataset, indices, *, scaling):
        calls.append((len(indices), scaling))
        return float(len(calls))

    monkeypatch.setattr(judge, "waveform_gain", measure)
    for scaling in ("peak", "peak", "minmax", "peak"):
        kept.gain(settings(scaling=scaling), dataset, splits)
    assert calls == [(len(splits.train), "peak"), (len(splits.train), "minmax")]
    assert kept.gain(settings(scaling="minmax"), dataset, splits) == 2.0
