"""Speech Commands: layouts, classes, speakers, splits and recordings that are bad."""

import hashlib
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile

from uap_jax.audio.files import AudioFileError, to_pcm16, write_wav
from uap_jax.data import speech_commands
from uap_jax.data.dataset import split_clips
from uap_jax.data.speech_commands import load_speech_commands, which_set

NUM_SAMPLES = 400
# The official hash puts these at 0.7%, 7.8%, 16.4%, 18.7%, 69.8% and 79.6%.
VALIDATION = ("026290a7", "060cd039")
TEST = ("0c40e715", "0ea0e2f4")
TRAIN = ("00176480", "004ae714")
SPEAKERS = (*VALIDATION, *TEST, *TRAIN)


def write_clip(path, *, seed=0, num_samples=NUM_SAMPLES, rate_hz=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples)
    write_wav(path, waveform, sample_rate_hz=rate_hz)
    return waveform


def write_words(root, words, *, speakers=SPEAKERS):
    for word in words:
        for speaker in speakers:
            write_clip(root / word / f"{speaker}_nohash_0.wav")


def write_background(root, *, num_clips=6):
    folder = root / "_background_noise_"
    write_clip(folder / "doing_the_dishes.wav", num_samples=num_clips * NUM_SAMPLES)
    write_clip(folder / "running_tap.wav", seed=1, num_samples=int(2.5 * NUM_SAMPLES))
    (folder / "README.md").write_text("about the noise")


def load(root, **settings):
    cache_dir = root.parent / "cache"
    settings = {"num_samples": NUM_SAMPLES, "num_workers": 2} | settings
    return load_speech_commands(root, cache_dir=cache_dir, **settings)


def classes_of(dataset):
    return [dataset.class_names[label] for label in dataset.labels]


def splits_by_name(dataset):
    return dict(zip(dataset.names, dataset.official_splits, strict=True))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def test_archive_layout(root):
    write_words(root, ["yes", "bed"])
    write_background(root)
    write_clip(root / "stray.wav")
    write_clip(root / "yes" / "._00176480_nohash_0.wav")
    (root / "LICENSE").write_text("CC BY 4.0")
    dataset = load(root)
    assert dataset.class_names == ("bed", "yes")
    assert dataset.clips.shape == (12, NUM_SAMPLES)
    assert dataset.clips.dtype == np.int16
    assert dataset.labels.dtype == np.int32
    assert classes_of(dataset) == ["bed"] * 6 + ["yes"] * 6
    assert set(dataset.groups) == set(SPEAKERS)
    assert dataset.names[0] == "bed/00176480_nohash_0.wav"
    assert dataset.groups[0] == "00176480"
    assert dataset.sample_rate_hz == 16000
    assert dataset.skipped == ()
    expected = to_pcm16(write_clip(root.parent / "same.wav"))
    np.testing.assert_array_equal(dataset.clips, np.tile(expected, (12, 1)))


def test_twelve_class_test_set_layout(root):
    write_words(root, ["yes", "no"], speakers=TEST)
    names = ("backward_0c40e715_nohash_0.wav.wav", "bed_0ea0e2f4_nohash_1.wav.wav")
    for name in names:
        write_clip(root / "_unknown_" / name)
    for number in range(40):
        write_clip(root / "_silence_" / f"{number}.wav")
    dataset = load(root)
    assert dataset.class_names == ("_silence_", "_unknown_", "no", "yes")
    groups = dict(zip(dataset.names, dataset.groups, strict=True))
    assert groups["_unknown_/backward_0c40e715_nohash_0.wav.wav"] == "0c40e715"
    assert groups["_silence_/37.wav"] == "silence/37"
    # All speakers hash to the test, whatever the silent clips would do.
    assert dataset.official_splits is None
    assert dataset.noise is None


def write_in_formats(root):
    names = []
    for word in ("yes", "no"):
        for speaker, suffix in zip(
            SPEAKERS, ("flac", "OGG", "mp3", "WAV", "wav.wav", "Flac"), strict=True
        ):
            names.append(f"{word}/{speaker}_nohash_0.{suffix}")
            (root / word).mkdir(exist_ok=True)
            soundfile.write(
                root / names[-1],
                0.5 * np.sin(np.arange(NUM_SAMPLES) * 0.1),
                16000,
                format=suffix.rpartition(".")[2].upper(),
            )
    return names


def test_every_format_loads_like_wav(root):
    names = write_in_formats(root)
    (root / "_background_noise_").mkdir()
    noise = np.full(3 * NUM_SAMPLES, 0.5)
    soundfile.write(root / "_background_noise_" / "hum.flac", noise, 16000)
    (root / "yes" / "notes.txt").write_text("no recording")
    soundfile.write(root / "yes" / "ann.flac", noise, 16000)
    dataset = load(root)
    assert sorted(dataset.names) == sorted([*names, "yes/ann.flac"])
    assert dataset.skipped == ()
    groups = dict(zip(dataset.names, dataset.groups, strict=True))
    assert {groups[name] for name in names} == set(SPEAKERS)
    assert groups["yes/ann.flac"] == "ann"
    np.testing.assert_array_equal(dataset.noise, np.full((3, NUM_SAMPLES), 16384))
    assert splits_by_name(dataset)[f"no/{TEST[1]}_nohash_0.WAV"] == "test"


def test_lists_name_every_format_and_clips_converted_since(root):
    names = write_in_formats(root)
    (root / "testing_list.txt").write_text("\n".join(names[:2]))
    (root / "validation_list.txt").write_text(f"yes/{TEST[0]}_nohash_0.wav\n")
    splits = splits_by_name(load(root))
    assert [splits[name] for name in names] == [
        *("test", "test", "validation", *["train"] * 9)
    ]


def test_names_that_are_not_utf8(root):
    speakers = ["\udce9", *SPEAKERS]
    write_words(root, ["yes", "caf\udce9"], speakers=speakers)
    (root / "_background_noise_").mkdir()
    write_clip(root / "_background_noise_" / "\udcff.wav", num_samples=NUM_SAMPLES + 9)
    (root / "yes" / "\udce8_nohash_0.wav").touch()
    listed = b"yes/\xe9_nohash_0.wav\n"
    (root / "testing_list.txt").write_bytes(listed)
    first = load(root)
    # A class is named in JSON and on pages, which hold Unicode alone.
    assert "caf\ufffd" in first.class_names
    assert first.skipped == ("yes/\udce8_nohash_0.wav: is empty (0 bytes)",)
    again = load(root)
    for field in ("names", "groups", "official_splits"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert again.class_names == first.class_names
    assert again.skipped == first.skipped
    assert splits_by_name(again)[os.fsdecode(listed.strip())] == "test"
    silent = load(root, class_set="paper32")
    assert sum("\udcff.wav:" in name for name in silent.names) == 7
    digest = int(hashlib.sha1(b"\xe9").hexdigest(), 16) % 2**27 * 100 / 2**27
    expected = "validation" if digest < 50 else "training"
    assert which_set("\udce9_nohash_0.wav", 50, 0) == expected


def test_names_without_speaker(root):
    for word in ("yes", "no"):
        write_clip(root / word / "ann.WAV.wav")
        write_clip(root / word / "bob_nohash_3.wav")
    dataset = load(root)
    assert dataset.groups.tolist() == ["ann", "bob", "ann", "bob"]
    assert dataset.official_splits is None


def test_clips_are_cut_padded_mixed_and_resampled(root):
    short = write_clip(root / "yes" / "00000001_nohash_0.wav", num_samples=300)
    long = write_clip(root / "yes" / "00000002_nohash_0.wav", num_samples=500)
    stereo = np.array([[0.5, 0.25]] * NUM_SAMPLES)
    soundfile.write(root / "yes" / "00000003_nohash_0.wav", stereo, 16000, "PCM_24")
    for number, rate_hz in ((4, 8000), (5, 96000)):
        sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)
        write_wav(
            root / "yes" / f"0000000{number}_nohash_0.wav", sine, sample_rate_hz=rate_hz
        )
    loud = np.full(NUM_SAMPLES, 2.0)
    soundfile.write(root / "yes" / "00000006_nohash_0.wav", loud, 16000, "FLOAT")
    clips = load(root).clips
    np.testing.assert_array_equal(clips[0], to_pcm16(np.pad(short, (0, 100))))
    np.testing.assert_array_equal(clips[1], to_pcm16(long[:NUM_SAMPLES]))
    np.testing.assert_array_equal(clips[2], np.full(NUM_SAMPLES, 0.375 * 32768))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(NUM_SAMPLES) / 16000)
    np.testing.assert_allclose(clips[3][150:], 32768 * expected[150:], atol=300)
    np.testing.assert_allclose(clips[4][150:], 32768 * expected[150:], atol=300)
    np.testing.assert_array_equal(clips[5], np.full(NUM_SAMPLES, 32767))


@pytest.mark.parametrize("speaker", [*SPEAKERS, "099d52ad", "105a0eea"])
def test_which_set_of_speakers_named_in_the_official_lists(speaker):
    expected = "training"
    if speaker in (*VALIDATION, "099d52ad"):
        expected = "validation"
    if speaker in (*TEST, "105a0eea"):
        expected = "testing"
    assert which_set(f"{speaker}_nohash_0.wav", 10, 10) == expected
    assert which_set(f"a/b_nohash_c/{speaker}_nohash_7.wav.wav", 10, 10) == expected


def test_which_set_in_integers():
    counts = Counter()
    for number in range(3000):
        speaker = f"{number * 7919:08x}"
        # The last 27 bits of the hash, compared without rounding.
        place = int(hashlib.sha1(speaker.encode()).hexdigest()[-7:], 16) % 2**27
        expected = "training"
        if place * 100 < 25 * (2**27 - 1):
            expected = "testing"
        if place * 100 < 15 * (2**27 - 1):
            expected = "validation"
        assert which_set(f"{speaker}_nohash_1.wav", 15, 10) == expected
        counts[expected] += 1
    assert abs(counts["validation"] - 450) < 80
    assert abs(counts["testing"] - 300) < 70


def test_splits_by_hash_without_lists(root):
    write_words(root, ["yes", "bed"])
    dataset = load(root)
    expected = {s: "validation" for s in VALIDATION} | {s: "test" for s in TEST}
    for group, split in zip(dataset.groups, dataset.official_splits, strict=True):
        assert split == expected.get(group, "train")


def test_splits_by_lists_against_the_hash(root):
    write_words(root, ["yes", "bed"])
    lines = {
        "testing": [f"{w}/{TRAIN[0]}_nohash_0.wav" for w in ("yes", "bed", "absent")],
        "validation": [f"{w}/{TEST[0]}_nohash_0.wav" for w in ("yes", "bed")],
    }
    for name, entries in lines.items():
        (root / f"{name}_list.txt").write_text("\n".join(entries) + "\n")
    dataset = load(root)
    assert Counter(dataset.official_splits) == {"test": 2, "validation": 2, "train": 8}
    splits = splits_by_name(dataset)
    assert splits[f"bed/{TRAIN[0]}_nohash_0.wav"] == "test"
    assert splits[f"yes/{TEST[0]}_nohash_0.wav"] == "validation"


def test_only_a_list_for_the_test(root):
    speakers = [hashlib.sha1(b"%d" % number).hexdigest()[:8] for number in range(40)]
    write_words(root, ["yes"], speakers=speakers)
    write_background(root)
    listed = [f"yes/{speaker}_nohash_0.wav" for speaker in speakers[:10]]
    (root / "testing_list.txt").write_text("\r\n".join(listed))
    dataset = load(root, class_set="paper32")
    assert set(dataset.official_splits) == {"train", "test"}
    splits = split_clips(dataset)
    assert set(listed) <= set(dataset.names[splits.test])
    groups = [set(dataset.groups[indices]) for indices in splits]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_list_that_fits_nothing_gives_way_to_the_hash(root):
    write_words(root, ["yes"])
    (root / "testing_list.txt").write_text("other/00176480_nohash_0.wav\n")
    splits = splits_by_name(load(root))
    assert splits[f"yes/{TEST[0]}_nohash_0.wav"] == "test"
    assert splits[f"yes/{TRAIN[0]}_nohash_0.wav"] == "train"


def test_noise_is_cut_into_consecutive_pieces(root):
    write_words(root, ["yes"])
    write_background(root, num_clips=6)
    first = write_clip(root.parent / "same.wav", num_samples=6 * NUM_SAMPLES)
    noise = load(root).noise
    assert noise.shape == (6 + 2, NUM_SAMPLES)
    assert noise.dtype == np.int16
    np.testing.assert_array_equal(noise[:6].ravel(), to_pcm16(first))


def test_class_sets_are_those_of_the_paper_and_of_kaggle():
    paper32 = speech_commands.PAPER32
    assert len(set(paper32)) == 32
    assert paper32[:4] == ("_silence_", "_unknown_", "sheila", "nine")
    assert paper32[-3:] == ("two", "left", "no")
    kaggle12 = speech_commands.KAGGLE12
    assert len(set(kaggle12)) == 12
    assert set(kaggle12) < set(paper32)
    assert kaggle12[-2:] == ("_silence_", "_unknown_")


def test_paper32(root):
    write_words(root, ["yes", "sheila", "backward"])
    write_clip(root / "_unknown_" / f"bed_{TRAIN[0]}_nohash_0.wav.wav")
    write_clip(root / "_unknown_" / f"visual_{TRAIN[0]}_nohash_0.wav.wav")
    write_background(root)
    dataset = load(root, class_set="paper32")
    assert dataset.class_names == speech_commands.PAPER32
    counts = Counter(classes_of(dataset))
    # A word has (6 + 6 + 1) / 3 clips on average.
    assert counts == {"yes": 6, "sheila": 6, "bed": 1, "_unknown_": 7, "_silence_": 4}


def test_kaggle12(root):
    write_words(root, ["yes", "sheila"])
    write_background(root)
    dataset = load(root, class_set="kaggle12")
    assert dataset.class_names == speech_commands.KAGGLE12
    assert Counter(classes_of(dataset)) == {"yes": 6, "_unknown_": 6, "_silence_": 6}


def test_own_silence_is_kept_and_none_cut(root):
    write_words(root, ["yes"])
    write_background(root)
    write_clip(root / "_silence_" / "12.wav")
    dataset = load(root, class_set="kaggle12")
    assert dataset.groups[np.array(classes_of(dataset)) == "_silence_"] == [
        "silence/12"
    ]


def test_silence_is_cut_from_the_background_without_overlap_of_groups(root):
    speakers = [f"{number:08x}" for number in range(40)]
    write_words(root, ["yes"], speakers=speakers)
    write_background(root)
    dataset = load(root, class_set="paper32")
    silent = np.array(classes_of(dataset)) == "_silence_"
    assert silent.sum() == 40
    assert len(set(dataset.names[silent])) == 40
    taken = {}
    fields = (dataset.names, dataset.groups, dataset.clips)
    clips = zip(*(field[silent] for field in fields), strict=True)
    for name, group, clip in clips:
        path, start = name.rsplit(":", 1)
        recording, _ = soundfile.read(root / path, dtype="int16")
        span = range(int(start), int(start) + NUM_SAMPLES)
        np.testing.assert_array_equal(clip, recording[span.start : span.stop])
        for sample in (span.start, span.stop - 1):
            assert taken.setdefault((path, sample), group) == group
        taken |= {(path, sample): group for sample in span}
    assert len(set(dataset.groups[silent])) == 3 + 1
    shutil.rmtree(root.parent / "cache")
    again = load(root, class_set="paper32")
    np.testing.assert_array_equal(dataset.names, again.names)


def test_no_more_silence_than_there_are_places(root):
    write_words(root, ["yes"])
    folder = root / "_background_noise_"
    write_clip(folder / "pink_noise.wav", num_samples=NUM_SAMPLES + 1)
    dataset = load(root, class_set="paper32")
    names = dataset.names[np.array(classes_of(dataset)) == "_silence_"]
    path = "_background_noise_/pink_noise.wav"
    assert names.tolist() == [f"{path}:0", f"{path}:1"]


def write_bad_files(root):
    folder = root / "yes"
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not a recording\n")
    soundfile.write(folder / "nan.wav", np.full(9, np.nan), 16000, subtype="FLOAT")
    soundfile.write(folder / "zero.wav", np.zeros(0), 16000)
    write_clip(folder / "header.wav")
    (folder / "header.wav").write_bytes((folder / "header.wav").read_bytes()[:30])
    (folder / "link.wav").symlink_to(root / "missing.wav")
    write_clip(root / "_background_noise_" / "short.wav", num_samples=10)
    return {
        "_background_noise_/short.wav": "is shorter than",
        "yes/empty.wav": "is empty (0 bytes)",
        "yes/header.wav": "cannot be read as audio",
        "yes/link.wav": "does not exist",
        "yes/nan.wav": "has samples that are NaN",
        "yes/text.wav": "cannot be read as audio",
        "yes/zero.wav": "holds no samples",
    }


def test_bad_recordings_are_left_out_and_named(root):
    write_words(root, ["yes", "bed"])
    expected = write_bad_files(root)
    (root / "no").mkdir()
    (root / "no" / "00176480_nohash_0.wav").touch()
    expected["no/00176480_nohash_0.wav"] = "is empty (0 bytes)"
    dataset = load(root)
    assert dataset.class_names == ("bed", "yes")
    assert len(dataset.clips) == 12
    assert dataset.noise is None
    reasons = dict(line.split(": ", 1) for line in dataset.skipped)
    assert sorted(reasons) == sorted(expected)
    for name, reason in expected.items():
        assert reasons[name].startswith(reason)


def test_strict_raises_for_the_first_bad_recording(root):
    write_words(root, ["yes"])
    (root / "yes" / "bad.wav").touch()
    message = f"^{root}/yes/bad.wav: is empty \\(0 bytes\\)$"
    with pytest.raises(AudioFileError, match=message):
        load(root, strict=True)
    assert not list((root.parent / "cache").iterdir())
    # Also where the cache was made without.
    assert len(load(root).skipped) == 1
    with pytest.raises(AudioFileError, match=message):
        load(root, strict=True)


def test_strict_raises_for_background_noise(root):
    write_words(root, ["yes"])
    write_clip(root / "_background_noise_" / "short.wav", num_samples=10)
    with pytest.raises(AudioFileError, match=r"short\.wav: is shorter"):
        load(root, strict=True)


def test_nothing_usable(root):
    (root / "yes").mkdir()
    (root / "yes" / "bad.wav").touch()
    with pytest.raises(
        ValueError, match=r"data_dir: .*_nohash_.*yes/bad\.wav: is empty"
    ):
        load(root)


def test_no_recordings(root):
    write_background(root)
    write_clip(root / "deep" / "yes" / "00176480_nohash_0.wav")
    with pytest.raises(ValueError, match="data_dir: expected recordings named <word>/"):
        load(root)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_data_dir_must_be_a_folder(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"data_dir: expected a folder, got .*{name}"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "settings", [{"class_set": "all"}, {"num_samples": 0}, {"sample_rate_hz": -1}]
)
def test_wrong_settings_are_named(root, settings):
    write_words(root, ["yes"])
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: expected"):
        load(root, **settings)


def test_decodes_once_and_again_when_something_changes(root):
    write_words(root, ["yes", "bed"])
    steps = []

    def load_and_count(**settings):
        steps.clear()
        dataset = load(root, progress=lambda *step: steps.append(step), **settings)
        return dataset.fingerprint, len(steps)

    first, count = load_and_count()
    assert count == 1
    assert steps == [("decoding", 12, 12)]
    assert load_and_count() == (first, 0)
    seen = {first}
    for settings in ({"num_samples": 500}, {"sample_rate_hz": 8000}):
        seen.add(load_and_count(**settings)[0])
    seen.add(load_and_count(class_set="paper32")[0])
    (root / "testing_list.txt").write_text("yes/00176480_nohash_0.wav\n")
    latest = load_and_count()[0]
    seen.add(latest)
    os.utime(root / "yes" / "00176480_nohash_0.wav", ns=(1, 1))
    assert load_and_count() == (latest, 1), "the same clips, decoded anew"
    (root / "yes" / "00176480_nohash_0.wav").unlink()
    seen.add(load_and_count()[0])
    assert len(seen) == 6
    (root / "README.md").write_text("of no matter")
    assert load_and_count()[1] == 0


def test_interrupted_decoding_starts_over(root):
    write_words(root, ["yes"])

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(root, progress=interrupt)
    assert not list((root.parent / "cache").iterdir())
    assert len(load(root).clips) == 6
