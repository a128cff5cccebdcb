"""The built-in city sounds: clips that repeat, and splits that keep sources apart."""

import dataclasses
import functools
import tempfile
from collections import Counter

import numpy as np
import pytest

from uap_jax.data.dataset import Dataset, split_clips
from uap_jax.data.synthetic import recording, synthesis, urban
from uap_jax.data.synthetic.urban import CLASS_NAMES, Scenes, load_synthetic_urban
from uap_jax.data.synthetic.urban_sounds import SOUNDS
from uap_jax.data.urbansound8k import CLASS_NAMES as URBANSOUND_NAMES

SMALL = {"num_sources_per_class": 5, "num_clips_per_source": 1}


@functools.cache
def small_corpus() -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        corpus = load_synthetic_urban(cache_dir=folder, num_workers=1, **SMALL)
        return dataclasses.replace(
            corpus, clips=np.array(corpus.clips), noise=np.array(corpus.noise)
        )


def make_sound(label, *, source=0, take=0):
    return SOUNDS[label](
        np.random.default_rng(source), np.random.default_rng([source, take, 1])
    )


def test_clips():
    corpus = small_corpus()
    assert corpus.class_names == URBANSOUND_NAMES
    assert corpus.clips.shape == (50, 50_999)
    assert len({clip.tobytes() for clip in corpus.clips}) == 50
    assert corpus.clips.dtype == np.int16
    assert corpus.sample_rate_hz == 16000
    assert corpus.noise.shape == (32, 50_999)
    assert Counter(corpus.labels.tolist()) == dict.fromkeys(range(10), 5)
    for label, name in zip(corpus.labels, corpus.names, strict=True):
        assert name.startswith(f"synthetic/{CLASS_NAMES[label]}/")
    peaks_db = 20 * np.log10(np.abs(corpus.clips.astype(int)).max(axis=1) / 32767)
    assert -20.1 < peaks_db.min() < peaks_db.max() < -0.9
    assert np.ptp(peaks_db) > 12


def test_sources_are_in_one_split_and_every_split_has_every_class(tmp_path):
    corpus = load_synthetic_urban(
        cache_dir=tmp_path, num_sources_per_class=10, num_clips_per_source=3
    )
    splits = split_clips(corpus)
    assert [len(split) for split in splits] == [210, 30, 60]
    groups = [set(corpus.groups[split]) for split in splits]
    assert [len(names) for names in groups] == [70, 10, 20]
    assert len(set.union(*groups)) == 100
    for split in splits:
        assert set(corpus.labels[split]) == set(range(10))


def test_workers_and_runs_give_the_same_bytes(tmp_path):
    steps = []
    again = load_synthetic_urban(
        cache_dir=tmp_path,
        num_workers=2,
        progress=lambda *step: steps.append(step),
        **SMALL,
    )
    corpus = small_corpus()
    assert again.fingerprint == corpus.fingerprint
    for field in ("clips", "noise", "groups", "names", "official_splits"):
        np.testing.assert_array_equal(getattr(again, field), getattr(corpus, field))
    assert steps[0] == ("synthetic city sounds", 0, 50)
    assert steps[-1] == ("synthetic city sounds", 50, 50)
    cached = load_synthetic_urban(cache_dir=tmp_path, progress=pytest.fail, **SMALL)
    np.testing.assert_array_equal(cached.clips, corpus.clips)
    # That of earlier versions.
    assert corpus.fingerprint == "0c52d9687d6d5376"


def test_every_setting_is_in_the_fingerprint(tmp_path):
    changes = (
        {},
        {"seed": 1},
        {"num_sources_per_class": 6},
        {"num_clips_per_source": 2},
        {"scenes": Scenes(snr_db=(0.0, 1.0))},
        {"scenes": Scenes(recorder=recording.Conditions())},
    )
    keys = {
        load_synthetic_urban(cache_dir=tmp_path, **(SMALL | change)).fingerprint
        for change in changes
    }
    assert len(keys) == len(changes)


@pytest.mark.parametrize("label", range(10))
def test_sounds_are_audible_and_finite_whatever_is_drawn(label):
    for source in range(8):
        sound = make_sound(label, source=source)
        assert sound.shape == (synthesis.NUM_SAMPLES,)
        assert np.all(np.isfinite(sound))
        # Also when the clip ends early.
        assert np.abs(sound[: int(1.5 * 16000)]).max() > 0.05 * np.abs(sound).max()


@pytest.mark.parametrize("label", range(10))
def test_takes_share_what_is_drawn_of_the_source(label):
    drawn = []
    for take in range(3):
        source = np.random.default_rng(3)
        SOUNDS[label](source, np.random.default_rng(take))
        drawn.append(source.random())
    assert len(set(drawn)) == 1
    first, second = (make_sound(label, source=3, take=take) for take in range(2))
    assert not np.array_equal(first, second)


def test_signal_to_noise_ratio_is_the_drawn_one():
    plain = recording.Conditions(
        level_dbfs=(-6.0, -6.0),
        tilt_db_per_octave=(0.0, 0.0),
        telephone_share=0.0,
        reverb_share=0.0,
    )
    clip = urban._Clip(label=8, source=0, take=0)
    loud, quiet = (
        urban._record(
            clip,
            0,
            Scenes(
                snr_db=(snr_db, snr_db),
                other_share=0.0,
                far_share=0.0,
                short_share=0.0,
                recorder=plain,
            ),
        ).astype(float)
        for snr_db in (6.0, 90.0)
    )
    # The siren is off before it begins and after it ends.
    gain = loud @ quiet / (quiet @ quiet)
    noise = loud - gain * quiet
    snr_db = 20 * np.log10(
        gain * urban._loudness(quiet[:50_880]) / np.sqrt(np.mean(np.square(noise)))
    )
    # The background rises and falls, so that its level is about 1.
    assert snr_db == pytest.approx(6, abs=3)


def test_short_clips_end_in_zeros():
    clip = urban._Clip(label=0, source=0, take=0)
    scenes = Scenes(short_share=1.0, short_s=(2.0, 2.0))
    recorded = urban._record(clip, 0, scenes)
    assert recorded[:32000].any()
    assert not recorded[32000:].any()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_sources_per_class": 4},
        {"num_clips_per_source": 0},
        {"num_workers": 0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_named(tmp_path, settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected at least"):
        load_synthetic_urban(cache_dir=tmp_path, **settings)
