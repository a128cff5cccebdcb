"""The built-in corpus: bytes that repeat, splits that keep voices apart."""

import dataclasses
import functools
import hashlib
import sys
import tempfile

import numpy as np
import pytest

from uap_jax.data import corpora
from uap_jax.data.dataset import Dataset, split_clips
from uap_jax.data.speech_commands import PAPER32
from uap_jax.data.synthetic import espeak, recording, speech
from uap_jax.data.synthetic.recording import Conditions

PLAIN = {
    "tilt_db_per_octave": (0.0, 0.0),
    "telephone_share": 0.0,
    "reverb_share": 0.0,
}
BABBLE = np.random.default_rng(0).standard_normal(40000)


def load(folder, **settings):
    return speech.load_synthetic_speech(cache_dir=folder, **settings)


@functools.cache
def small_corpus() -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        corpus = load(folder, num_clips_per_class=3)
        return dataclasses.replace(
            corpus, clips=np.array(corpus.clips), noise=np.array(corpus.noise)
        )


def test_clips_are_one_second_of_int16_class_by_class():
    corpus = small_corpus()
    assert corpus.class_names == PAPER32
    assert np.array_equal(corpus.labels, np.repeat(np.arange(32), 3))
    for label, name in zip(corpus.labels, corpus.names, strict=True):
        assert name.startswith(f"synthetic/{corpus.class_names[label]}/")
    assert len(set(corpus.names)) == len(corpus.names)
    assert corpus.clips.shape == (96, 16000)
    assert corpus.clips.dtype == corpus.noise.dtype == np.int16
    assert corpus.sample_rate_hz == 16000
    peaks = np.abs(corpus.clips.astype(np.int32)).max(axis=1)
    levels = 20 * np.log10(peaks[corpus.labels > 0] / 32767)
    assert -10.1 < levels.min() < levels.max() < -0.9
    assert np.abs(corpus.noise.astype(np.int32)).max(axis=1).min() > 20000


def test_bytes_repeat_and_are_cached(tmp_path):
    calls = []
    settings = {"num_clips_per_class": 3}
    again = load(tmp_path, progress=lambda *call: calls.append(call), **settings)
    corpus = small_corpus()
    for field in ("clips", "noise", "groups", "names", "official_splits"):
        np.testing.assert_array_equal(getattr(again, field), getattr(corpus, field))
    assert calls[0] == ("synthetic speech", 0, 96)
    assert calls[-1] == ("synthetic speech", 96, 96)
    cached = load(tmp_path, progress=pytest.fail, **settings)
    np.testing.assert_array_equal(cached.clips, corpus.clips)
    assert cached.fingerprint == corpus.fingerprint


@pytest.mark.skipif(
    espeak.espeak_version() != "0.2.4" or sys.platform != "linux",
    reason="another build of espeak-ng",
)
def test_corpus_is_that_of_earlier_versions():
    corpus = small_corpus()
    assert corpus.fingerprint == "4aff9232a8775139"
    digest = hashlib.sha256(np.ascontiguousarray(corpus.clips[::9])).hexdigest()
    assert digest[:16] == "0a4bcd484a235b88"


def test_splits_share_no_voice_and_have_every_class():
    corpus = small_corpus()
    splits = split_clips(corpus)
    assert [len(indices) for indices in splits] == [32, 32, 32]
    voices = [set(corpus.groups[indices]) for indices in splits]
    assert len(set.union(*voices)) == sum(map(len, voices))
    for indices in splits:
        assert set(corpus.labels[indices]) == set(range(32))
    for seed in range(3):
        variants = speech.split_variants(seed)
        assert sorted(sum(variants.values(), ())) == sorted(espeak.VARIANTS)
        assert min(map(len, variants.values())) >= 5


def test_plan_of_the_whole_corpus():
    turns = speech._plan(speech.split_variants(0), 300, 0, Conditions())
    splits, counts = np.unique([turn.split for turn in turns], return_counts=True)
    counts = dict(zip(splits, counts, strict=True))
    assert counts == {"train": 240, "validation": 30, "test": 30}
    unknown = {
        split: {turn.unknown_word for turn in turns if turn.split == split}
        for split in splits
    }
    assert unknown["test"] - unknown["train"]
    assert unknown["test"] & unknown["train"]
    assert unknown["validation"] - unknown["train"] - unknown["test"]
    assert not set(speech.CLASS_NAMES) & set.union(*unknown.values())
    variants = speech.split_variants(1)
    assert variants != speech.split_variants(0)
    assert turns != speech._plan(variants, 300, 1, Conditions())


@pytest.mark.parametrize(
    ("length", "offcentre_s", "onset"),
    [(8000, 0.0, 4000), (8000, 0.1, 5600), (8000, -0.1, 2400), (15000, -0.1, 0)],
)
def test_words_are_in_the_middle_or_beside_it(length, offcentre_s, onset):
    word = np.sin(np.arange(length) * 0.3)
    offcentre = (offcentre_s, offcentre_s)
    conditions = Conditions(offcentre_s=offcentre, snr_db=(90.0, 90.0), **PLAIN)
    rng = np.random.default_rng(0)
    clip = recording.record_word(word, rng, BABBLE, conditions)
    loud = np.flatnonzero(np.abs(clip) > 0.1 * np.abs(clip).max())
    assert loud[0] == pytest.approx(onset, abs=2)
    assert loud[-1] == pytest.approx(onset + length, abs=12)


def test_some_silence_is_all_zero():
    clips = [
        recording.record_silence(np.random.default_rng(seed), BABBLE, Conditions())
        for seed in range(100)
    ]
    assert 3 <= sum(not clip.any() for clip in clips) <= 20


def test_signal_to_noise_ratio_is_the_drawn_one():
    word = np.sin(np.arange(8000) * 0.3)
    loud, quiet = (
        recording.record_word(
            word,
            np.random.default_rng(3),
            BABBLE,
            Conditions(snr_db=(snr_db, snr_db), level_dbfs=(-6.0, -6.0), **PLAIN),
        ).astype(float)
        for snr_db in (10.0, 90.0)
    )
    gain = loud @ quiet / (quiet @ quiet)
    noise = loud - gain * quiet
    speech_energy = np.sum((gain * quiet) ** 2) * 16000 / len(word)
    assert 10 * np.log10(speech_energy / np.sum(noise**2)) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("variant", ["f3", "klatt3", "whisper", "Mr serious"])
def test_nothing_leaks_from_one_synthesizer_to_the_next(variant):
    def say(words: str) -> list[np.ndarray]:
        with espeak.fresh_synthesizer() as speak:
            return [
                speak(word, espeak.Voice("en-us", variant)) for word in words.split()
            ]

    alone = say("seven happy")
    say("something else altogether")
    for first, second in zip(alone, say("seven happy"), strict=True):
        assert len(first) > 5000
        assert np.array_equal(first, second)


def say_word(speak, **changes) -> np.ndarray:
    voice = espeak.Voice("en", "m1", **changes)
    return espeak.say_word(speak, "marvin", voice, longest_s=0.5)


def test_voices():
    with espeak.fresh_synthesizer() as speak:
        for variant in espeak.VARIANTS:
            assert len(speak("no", espeak.Voice("en", variant)))
        with pytest.raises(ValueError, match=r"en-us\+nobody"):
            speak("seven", espeak.Voice("en-us", "nobody"))
        # Long words are spoken faster.
        seconds = len(say_word(speak, rate_wpm=80)) / espeak.SAMPLE_RATE_HZ
        assert 0.35 < seconds < 0.55
    with pytest.raises(RuntimeError, match=r"'en\+m1' says nothing for 'marvin'"):
        say_word(lambda *_: np.zeros(4000, np.int16))


def test_missing_wheel_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(espeak.MissingDemoError) as error:
        corpora.load(
            "synthetic_speech",
            data_dir=None,
            cache_dir=tmp_path,
            sample_rate_hz=16000,
            num_samples=16000,
        )
    assert isinstance(error.value, ImportError)
    assert str(error.value) == (
        "the built-in synthetic speech needs espeak-ng: "
        "pip install 'uap_jax[demo]'  (or give --data_dir)"
    )


@pytest.mark.parametrize("settings", [{"num_clips_per_class": 2}, {"seed": -1}])
def test_settings_out_of_range_are_named(settings, tmp_path):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected at least"):
        load(tmp_path, **settings)
