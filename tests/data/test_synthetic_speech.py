"""The built-in corpus: bytes that repeat, splits that keep voices apart."""

import errno
import functools
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from uap_jax.data.dataset import Dataset, split_clips
from uap_jax.data.synthetic import espeak as _espeak
from uap_jax.data.synthetic import recording as _recording
from uap_jax.data.synthetic import rendering as _rendering
from uap_jax.data.synthetic import speech as synthetic_speech

SETTINGS = {"rate_wpm": 150, "pitch": 50, "pitch_range": 50}


@functools.cache
def small_corpus() -> Dataset:
    return synthetic_speech.render_corpus(num_clips_per_class=4, num_workers=1)


def peaks(clips: np.ndarray) -> np.ndarray:
    return np.abs(clips.astype(np.int32)).max(axis=1)


def test_classes_are_those_of_table_11_in_its_order():
    corpus = small_corpus()
    assert " ".join(corpus.class_names) == (
        "_silence_ _unknown_ sheila nine stop bed four six down bird marvin cat off "
        "right seven eight up three happy go zero on wow dog yes five one tree house "
        "two left no"
    )
    assert np.array_equal(corpus.labels, np.repeat(np.arange(32), 4))
    for label, name in zip(corpus.labels, corpus.names, strict=True):
        assert name.startswith(f"synthetic/{corpus.class_names[label]}/")
    assert len(set(corpus.names)) == len(corpus.names)


def test_clips_are_one_second_of_int16():
    corpus = small_corpus()
    assert corpus.clips.shape == (128, 16000)
    assert corpus.clips.dtype == np.int16
    assert corpus.sample_rate_hz == 16000


def test_workers_and_runs_give_the_same_bytes():
    corpus = small_corpus()
    again = synthetic_speech.render_corpus(num_clips_per_class=4, num_workers=2)
    assert np.array_equal(corpus.clips, again.clips)
    assert np.array_equal(corpus.noise, again.noise)
    assert np.array_equal(corpus.groups, again.groups)
    assert corpus.fingerprint == again.fingerprint


def test_another_seed_gives_other_voices_and_clips():
    other = synthetic_speech.render_corpus(num_clips_per_class=3, seed=1, num_workers=1)
    assert set(other.groups) != set(small_corpus().groups)
    assert other.fingerprint != small_corpus().fingerprint
    assert synthetic_speech.split_variants(0) != synthetic_speech.split_variants(1)


def test_splits_share_no_variant_and_have_every_class():
    corpus = small_corpus()
    heard = {}
    for split in ("train", "validation", "test"):
        chosen = corpus.official_splits == split
        assert set(corpus.labels[chosen]) == set(range(32))
        heard[split] = set(corpus.groups[chosen])
    assert not heard["train"] & heard["validation"]
    assert not heard["train"] & heard["test"]
    assert not heard["validation"] & heard["test"]
    assert [len(indices) for indices in split_clips(corpus)] == [64, 32, 32]


@pytest.mark.parametrize("seed", range(3))
def test_every_voice_is_in_one_split(seed):
    variants = synthetic_speech.split_variants(seed)
    assert sorted(sum(variants.values(), ())) == sorted(_espeak.VARIANTS)
    assert len(set(_espeak.VARIANTS)) == len(_espeak.VARIANTS)
    assert min(map(len, variants.values())) >= 5


def test_shares_of_the_splits():
    plan = synthetic_speech._plan_corpus(
        synthetic_speech.split_variants(0), 200, 0, synthetic_speech.Conditions()
    )
    names, counts = np.unique(plan.splits, return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {
        "train": 160 * 32,
        "validation": 20 * 32,
        "test": 20 * 32,
    }


def test_held_out_splits_have_unknown_words_of_their_own():
    plan = synthetic_speech._plan_corpus(
        synthetic_speech.split_variants(0), 300, 0, synthetic_speech.Conditions()
    )
    unknown = {"train": set(), "validation": set(), "test": set()}
    for job in plan.jobs:
        unknown[job.split] |= {
            utterance.word
            for utterance in job.utterances
            if plan.labels[utterance.row] == 1
        }
    assert unknown["test"] - unknown["train"]
    assert unknown["test"] & unknown["train"]
    assert unknown["validation"] - unknown["train"] - unknown["test"]
    words = set(synthetic_speech.CLASS_NAMES)
    assert not words & set.union(*unknown.values())


def test_levels_are_in_range_and_only_silence_may_be_empty():
    corpus = small_corpus()
    speech = 20 * np.log10(peaks(corpus.clips[corpus.labels > 0]) / 32767)
    assert speech.min() > -10.1
    assert speech.max() < -0.9
    assert peaks(corpus.noise).min() > 20000
    assert corpus.noise.dtype == np.int16


@pytest.mark.parametrize(
    ("length", "offcentre_s", "onset"),
    [(8000, 0.0, 4000), (8000, 0.1, 5600), (8000, -0.1, 2400), (15000, -0.1, 0)],
)
def test_words_are_in_the_middle_or_beside_it(length, offcentre_s, onset):
    word = np.sin(np.arange(length) * 0.3)
    conditions = synthetic_speech.Conditions(
        offcentre_s=(offcentre_s, offcentre_s),
        snr_db=(90.0, 90.0),
        tilt_db_per_octave=(0.0, 0.0),
        telephone_share=0.0,
        reverb_share=0.0,
    )
    babble = np.random.default_rng(0).standard_normal(40000)
    clip = _recording.record_word(word, np.random.default_rng(0), babble, conditions)
    loud = np.flatnonzero(np.abs(clip) > 0.1 * np.abs(clip).max())
    assert loud[0] == pytest.approx(onset, abs=2)
    assert loud[-1] == pytest.approx(onset + length, abs=12)


def test_every_voice_is_one_of_espeak():
    with _espeak.fresh_synthesizer() as speak:
        for variant in _espeak.VARIANTS:
            assert len(speak("no", accent="en", variant=variant, **SETTINGS))


def test_some_silence_is_all_zero():
    babble = np.random.default_rng(0).standard_normal(40000)
    conditions = synthetic_speech.Conditions()
    clips = [
        _recording.record_silence(np.random.default_rng(seed), babble, conditions)
        for seed in range(100)
    ]
    num_zero = sum(not clip.any() for clip in clips)
    assert 3 <= num_zero <= 20


def test_signal_to_noise_ratio_is_the_drawn_one():
    word = np.sin(np.arange(8000) * 0.3)
    plain = {
        "level_dbfs": (-6.0, -6.0),
        "tilt_db_per_octave": (0.0, 0.0),
        "telephone_share": 0.0,
        "reverb_share": 0.0,
    }
    loud, quiet = (
        _recording.record_word(
            word,
            np.random.default_rng(3),
            np.random.default_rng(0).standard_normal(40000),
            synthetic_speech.Conditions(snr_db=(snr_db, snr_db), **plain),
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
        with _espeak.fresh_synthesizer() as speak:
            return [
                speak(word, accent="en-us", variant=variant, **SETTINGS)
                for word in words.split()
            ]

    alone = say("seven happy")
    say("something else altogether")
    for first, second in zip(alone, say("seven happy"), strict=True):
        assert len(first) > 5000
        assert np.array_equal(first, second)


def test_unknown_voice_is_an_error():
    with (
        _espeak.fresh_synthesizer() as speak,
        pytest.raises(ValueError, match=r"en-us\+nobody"),
    ):
        speak("seven", accent="en-us", variant="nobody", **SETTINGS)


def say_word(speak, **changes) -> np.ndarray:
    settings = {"accent": "en", "variant": "m1", **SETTINGS, **changes}
    return _espeak.say_word(
        speak, "marvin", longest_s=0.5, sample_rate_hz=16000, **settings
    )


def test_long_words_are_spoken_faster():
    with _espeak.fresh_synthesizer() as speak:
        assert 0.35 * 16000 < len(say_word(speak, rate_wpm=80)) < 0.55 * 16000


def test_voice_that_says_nothing_is_an_error():
    def mute(*_args, **_settings) -> np.ndarray:
        return np.zeros(4000, np.int16)

    with pytest.raises(RuntimeError, match=r"'en\+m1' says nothing for 'marvin'"):
        say_word(mute)


def test_failing_worker_is_an_error(monkeypatch):
    babble = dict.fromkeys(("train", "validation", "test"), np.ones(40000))
    monkeypatch.setattr(synthetic_speech, "_make_babble", lambda *_: babble)
    monkeypatch.setattr(_espeak, "ACCENTS", ("xx-nowhere",))
    with pytest.raises(RuntimeError, match=r"worker failed: .* voice 'xx-nowhere\+"):
        synthetic_speech.render_corpus(num_clips_per_class=3, num_workers=2)


def prepare_workers(folder):
    job = _rendering.Job("train", None, [_rendering.Utterance(0, (0,), "")])
    babble = np.random.default_rng(0).standard_normal(40000)
    task = _rendering.Task([job], {"train": babble}, synthetic_speech.Conditions(), 0)
    (folder / "task.pickle").write_bytes(pickle.dumps(task))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_in_a_worker_is_the_error_of_the_disk(tmp_path):
    prepare_workers(tmp_path)
    path = tmp_path / "clips.raw"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        list(_rendering._run_workers(tmp_path, 1))
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)


def test_missing_file_in_a_worker_is_named(tmp_path):
    prepare_workers(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        list(_rendering._run_workers(tmp_path, 1))
    assert error.value.filename == str(tmp_path / "clips.raw")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_worker_that_does_not_start_leaves_nothing_open(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        list(_rendering._run_workers(tmp_path, 1))
    assert set(os.listdir("/proc/self/fd")) == before


def test_missing_wheel_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(synthetic_speech.MissingDemoError) as error:
        synthetic_speech.load_synthetic_speech(cache_dir=tmp_path)
    assert isinstance(error.value, ImportError)
    assert str(error.value) == (
        "the built-in synthetic speech needs espeak-ng: "
        "pip install 'uap_jax[demo]'  (or give --data_dir)"
    )


@pytest.mark.parametrize(
    "settings", [{"num_clips_per_class": 2}, {"num_workers": 0}, {"seed": -1}]
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        synthetic_speech.render_corpus(**settings)


def test_second_load_reads_the_cache(tmp_path, monkeypatch):
    calls = []
    settings = {"cache_dir": tmp_path, "num_clips_per_class": 3, "num_workers": 1}
    first = synthetic_speech.load_synthetic_speech(
        **settings, progress=lambda *call: calls.append(call)
    )
    assert calls[0] == ("synthetic speech", 0, 96)
    assert calls[-1] == ("synthetic speech", 96, 96)
    monkeypatch.setattr(synthetic_speech, "render_corpus", None)
    second = synthetic_speech.load_synthetic_speech(**settings)
    assert np.array_equal(first.clips, second.clips)
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.clips, np.memmap)


def test_workers_import_neither_jax_nor_scipy():
    code = (
        "import sys; from uap_jax.data import synthetic_speech; "
        "assert not {'jax', 'scipy', 'librosa'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
