"""Which clips a run uses, and what is loaded once."""

import numpy as np
import pytest

from uap_jax.data.dataset import Dataset, Splits
from uap_jax.errors import UsageError
from uap_jax.runs import corpus
from uap_jax.runs.config import RunConfig

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
    return corpus.Corpus(dataset, Splits(others[::2], others[1::2], test))


def choose(num_test_clips, *, seed=0):
    clips = make_corpus()
    config = RunConfig(num_test_clips=num_test_clips, seed=seed)
    chosen = corpus.choose_test_clips(config, clips)
    assert np.all(np.isin(chosen, clips.splits.test))
    assert np.all(np.diff(chosen) > 0)
    return chosen, np.bincount(clips.dataset.labels[chosen], minlength=3)


@pytest.mark.parametrize("wanted", [None, 180, 181, 10**9])
def test_all_test_clips(wanted):
    np.testing.assert_array_equal(choose(wanted)[0], make_corpus().splits.test)


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


def test_attack_clips_are_drawn_by_the_seed():
    clips = make_corpus()

    def draw(**given):
        config = RunConfig(num_attack_clips=20, **given)
        return corpus.choose_clips(config, clips).attack

    first = draw()
    assert len(first) == 20 and np.all(np.diff(first) > 0)
    assert np.all(np.isin(first, clips.splits.train))
    np.testing.assert_array_equal(first, draw())
    assert np.any(first != draw(seed=1))
    # All training clips are of class "a".
    np.testing.assert_array_equal(draw(attack_class="a"), first)
    for name, message in (("b", "with training clips"), ("x", "expected one of a, b")):
        with pytest.raises(UsageError, match=f"--attack_class: .*{message}"):
            draw(attack_class=name)
    with pytest.raises(UsageError, match=r"--target: expected one of a, b, c, got 'x'"):
        draw(target="x")


def test_attack_clips_are_in_the_box():
    clips = corpus.choose_clips(RunConfig(num_attack_clips=7), make_corpus())
    x, labels = corpus.attack_clips(RunConfig(scaling="peak"), clips)
    assert x.shape == (7, 8) and labels.dtype == np.int32
    np.testing.assert_allclose(np.max(np.abs(np.asarray(x) - 0.5), axis=1), 0.5)


def test_gain_is_measured_once(monkeypatch):
    clips, calls = make_corpus(), []

    def measure(dataset, indices, *, scaling):
        calls.append((len(indices), scaling))
        return float(len(calls))

    monkeypatch.setattr(corpus, "_gains", corpus.Latest(2))
    monkeypatch.setattr(corpus, "waveform_gain", measure)
    for scaling in ("peak", "peak", "minmax", "peak"):
        gain = corpus.sound_gain(RunConfig(scaling=scaling), clips)
    num_train = len(clips.splits.train)
    assert calls == [(num_train, "peak"), (num_train, "minmax")]
    assert gain == 1.0


def test_only_the_latest_are_kept():
    latest, made = corpus.Latest(2), []
    for key in (1, 2, 1, 3, 1, 2):
        latest.get(key, lambda key=key: made.append(key))
    assert made == [1, 2, 3, 1, 2]
