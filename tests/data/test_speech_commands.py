"""Speech Commands and the challenge: layouts, classes, speakers, splits, silence."""

import csv
import hashlib
import os
from collections import Counter

import numpy as np
import pytest
import soundfile
from sounds import (
    NUM_SAMPLES,
    SPEAKERS,
    TEST,
    TRAIN,
    VALIDATION,
    decoding,
    write_challenge,
    write_words,
)

from uap_jax.audio.files import write_wav
from uap_jax.data import speech_commands, tfsr
from uap_jax.data.dataset import split_clips
from uap_jax.data.speech_commands import KAGGLE12, load_speech_commands, which_set


def write_noise(path, *, seed=0, num_samples=NUM_SAMPLES):
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples)
    write_wav(path, waveform, sample_rate_hz=16000)


def write_background(root):
    folder = root / "_background_noise_"
    write_noise(folder / "doing_the_dishes.wav", num_samples=6 * NUM_SAMPLES)
    write_noise(folder / "running_tap.wav", seed=1, num_samples=int(2.5 * NUM_SAMPLES))
    (folder / "README.md").write_text("about the noise")


def load(root, *, class_set="auto", **settings):
    return load_speech_commands(root, decoding(root, **settings), class_set=class_set)


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
    write_words(root)
    write_background(root)
    write_noise(root / "stray.wav")
    write_noise(root / "yes" / "._00176480_nohash_0.wav")
    (root / "LICENSE").write_text("CC BY 4.0")
    dataset = load(root)
    assert dataset.class_names == ("bed", "yes")
    assert classes_of(dataset) == ["bed"] * 6 + ["yes"] * 6
    assert set(dataset.groups) == set(SPEAKERS)
    assert dataset.names[0] == "bed/00176480_nohash_0.wav"
    assert dataset.groups[0] == "00176480"
    assert dataset.skipped == ()
    # The background recordings, cut into consecutive pieces.
    first, _ = soundfile.read(
        root / "_background_noise_" / "doing_the_dishes.wav", dtype="int16"
    )
    assert dataset.noise.shape == (6 + 2, NUM_SAMPLES)
    np.testing.assert_array_equal(dataset.noise[:6].ravel(), first)


def test_twelve_class_test_set_layout(root):
    write_words(root, ["yes", "no"], speakers=TEST)
    names = ("backward_0c40e715_nohash_0.wav.wav", "bed_0ea0e2f4_nohash_1.wav.wav")
    for name in names:
        write_noise(root / "_unknown_" / name)
    for number in range(40):
        write_noise(root / "_silence_" / f"{number}.wav")
    dataset = load(root)
    assert dataset.class_names == ("_silence_", "_unknown_", "no", "yes")
    groups = dict(zip(dataset.names, dataset.groups, strict=True))
    assert groups["_unknown_/backward_0c40e715_nohash_0.wav.wav"] == "0c40e715"
    assert groups["_silence_/37.wav"] == "silence/37"
    # All speakers hash to the test, whatever the silent clips would do.
    assert dataset.official_splits is None
    assert dataset.noise is None


def write_in_formats(root):
    suffixes = ("flac", "OGG", "mp3", "WAV", "wav.wav", "Flac")
    names = [
        f"{word}/{speaker}_nohash_0.{suffix}"
        for word in ("yes", "no")
        for speaker, suffix in zip(SPEAKERS, suffixes, strict=True)
    ]
    tone = 0.5 * np.sin(np.arange(NUM_SAMPLES) * 0.1)
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        kind = name.rpartition(".")[2].upper()
        soundfile.write(root / name, tone, 16000, format=kind)
    return names


def test_every_format_loads_like_wav(root):
    names = write_in_formats(root)
    noise = np.full(3 * NUM_SAMPLES, 0.5)
    (root / "_background_noise_").mkdir()
    soundfile.write(root / "_background_noise_" / "hum.flac", noise, 16000)
    (root / "yes" / "notes.txt").write_text("no recording")
    soundfile.write(root / "yes" / "ann.flac", noise, 16000)
    dataset = load(root)
    assert sorted(dataset.names) == sorted([*names, "yes/ann.flac"])
    groups = dict(zip(dataset.names, dataset.groups, strict=True))
    assert {groups[name] for name in names} == set(SPEAKERS)
    assert groups["yes/ann.flac"] == "ann"
    np.testing.assert_array_equal(dataset.noise, np.full((3, NUM_SAMPLES), 16384))
    assert splits_by_name(dataset)[f"no/{TEST[1]}_nohash_0.WAV"] == "test"
    # Lists name every format, and clips converted since.
    (root / "testing_list.txt").write_text("\n".join(names[:2]))
    (root / "validation_list.txt").write_text(f"yes/{TEST[0]}_nohash_0.wav\n")
    splits = splits_by_name(load(root))
    assert [splits[name] for name in names] == [
        *("test", "test", "validation", *["train"] * 9)
    ]


def test_names_that_are_not_utf8(root):
    write_words(root, ["yes", "caf\udce9"], speakers=["\udce9", *SPEAKERS])
    (root / "_background_noise_").mkdir()
    write_noise(root / "_background_noise_" / "\udcff.wav", num_samples=NUM_SAMPLES + 9)
    (root / "yes" / "\udce8_nohash_0.wav").touch()
    listed = b"yes/\xe9_nohash_0.wav\n"
    (root / "testing_list.txt").write_bytes(listed)
    first, again = load(root), load(root)
    # Class names go into JSON and pages, which hold Unicode alone.
    assert "caf\ufffd" in first.class_names == again.class_names
    assert first.skipped == ("yes/\udce8_nohash_0.wav: is empty (0 bytes)",)
    for field in ("names", "groups", "official_splits"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert splits_by_name(again)[os.fsdecode(listed.strip())] == "test"
    silent = load(root, class_set="paper32")
    assert sum("\udcff.wav:" in name for name in silent.names) == 7
    digest = int(hashlib.sha1(b"\xe9").hexdigest(), 16) % 2**27 * 100 / 2**27
    expected = "validation" if digest < 50 else "training"
    assert which_set("\udce9_nohash_0.wav", 50, 0) == expected


def test_names_without_speaker(root):
    for word in ("yes", "no"):
        write_noise(root / word / "ann.WAV.wav")
        write_noise(root / word / "bob_nohash_3.wav")
    dataset = load(root)
    assert dataset.groups.tolist() == ["ann", "bob", "ann", "bob"]
    assert dataset.official_splits is None


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
    write_words(root)
    (root / "validation_list.txt").write_text("\n")  # No clips: no list.
    dataset = load(root)
    expected = {s: "validation" for s in VALIDATION} | {s: "test" for s in TEST}
    for group, split in zip(dataset.groups, dataset.official_splits, strict=True):
        assert split == expected.get(group, "train")


def test_splits_by_lists_against_the_hash(root):
    write_words(root)
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


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"/", b"\\").replace(b"\n", b"\r\n"),
    ],
    ids=["byte order mark", "backslashes"],
)
def test_lists_written_on_windows(root, change):
    write_words(root)
    lines = {"testing": f"bed/{TRAIN[0]}", "validation": f"yes/{TRAIN[1]}"}
    for name, clip in lines.items():
        text = f"{clip}_nohash_0.wav\nyes/{TEST[0]}_nohash_9.wav\n"
        (root / f"{name}_list.txt").write_bytes(change(text.encode()))
    splits = splits_by_name(load(root))
    assert Counter(splits.values()) == {"test": 1, "validation": 1, "train": 10}
    assert splits[f"bed/{TRAIN[0]}_nohash_0.wav"] == "test"
    assert splits[f"yes/{TRAIN[1]}_nohash_0.wav"] == "validation"


@pytest.mark.parametrize("name", ["testing", "validation"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_list_that_matches_nothing_is_an_error(root, name, encoding):
    write_words(root)
    clip = f"bed/{TRAIN[0]}_nohash_0.wav"
    (root / "testing_list.txt").write_text(f"yes/{TEST[0]}_nohash_0.wav\n")
    text = clip if encoding == "utf-16" else f"data/{clip}"
    (root / f"{name}_list.txt").write_text(f"{text}\n", encoding=encoding)
    with pytest.raises(ValueError, match=f"^data_dir: expected clips .*{name}_list"):
        load(root)


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
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_class_sets(root):
    paper32 = speech_commands.PAPER32
    assert len(set(paper32)) == 32
    assert len(set(KAGGLE12)) == 12
    assert set(KAGGLE12) < set(paper32)
    write_words(root, ["yes", "sheila", "backward"])
    write_noise(root / "_unknown_" / f"bed_{TRAIN[0]}_nohash_0.wav.wav")
    write_noise(root / "_unknown_" / f"visual_{TRAIN[0]}_nohash_0.wav.wav")
    write_background(root)
    dataset = load(root, class_set="paper32")
    assert dataset.class_names == paper32
    # A word has (6 + 6 + 1) / 3 clips on average.
    counts = {"yes": 6, "sheila": 6, "bed": 1, "_unknown_": 7, "_silence_": 4}
    assert Counter(classes_of(dataset)) == counts
    dataset = load(root, class_set="kaggle12")
    assert dataset.class_names == KAGGLE12
    counts = {"yes": 6, "_unknown_": 14, "_silence_": 6}
    assert Counter(classes_of(dataset)) == counts
    write_noise(root / "_silence_" / "12.wav")
    dataset = load(root, class_set="kaggle12")
    silent = np.array(classes_of(dataset)) == "_silence_"
    assert dataset.groups[silent] == ["silence/12"]
    with pytest.raises(ValueError, match=r"^class_set: expected one of"):
        load(root, class_set="words")


def test_silence_is_cut_from_the_background_without_overlap_of_groups(root):
    speakers = [f"{number:08x}" for number in range(40)]
    write_words(root, ["yes"], speakers=speakers)
    write_background(root)
    dataset = load(root, class_set="paper32")
    silent = np.array(classes_of(dataset)) == "_silence_"
    assert silent.sum() == len(set(dataset.names[silent])) == 40
    taken = {}
    fields = (dataset.names, dataset.groups, dataset.clips)
    for name, group, clip in zip(*(field[silent] for field in fields), strict=True):
        path, start = name.rsplit(":", 1)
        recording, _ = soundfile.read(root / path, dtype="int16")
        span = range(int(start), int(start) + NUM_SAMPLES)
        np.testing.assert_array_equal(clip, recording[span.start : span.stop])
        for sample in span:
            assert taken.setdefault((path, sample), group) == group
    assert len(set(dataset.groups[silent])) == 3 + 1


def test_no_more_silence_than_there_are_positions(root):
    write_words(root, ["yes"])
    path = "_background_noise_/pink_noise.wav"
    write_noise(root / path, num_samples=NUM_SAMPLES + 1)
    dataset = load(root, class_set="paper32")
    names = dataset.names[np.array(classes_of(dataset)) == "_silence_"]
    assert names.tolist() == [f"{path}:0", f"{path}:1"]


def test_unusable_background(root):
    write_words(root)
    write_background(root)
    write_noise(root / "_background_noise_" / "short.wav", num_samples=9)
    dataset = load(root)
    assert dataset.skipped == (
        "_background_noise_/short.wav: is shorter than 400 samples",
    )
    assert len(dataset.noise) == 6 + 2
    for path in root.glob("[!_]*/*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"expected recordings named .* found none"):
        load(root)


def load_challenge(root, **settings):
    return tfsr.load_tfsr(root, decoding(root, **settings))


def test_labelled_clips_of_the_challenge(root):
    write_challenge(root)
    write_background(root / "train" / "audio")
    write_noise(root / "test" / "audio" / "clip_1.wav")
    dataset = load_challenge(root)
    assert dataset.name == "tfsr"
    assert dataset.class_names == KAGGLE12
    counts = Counter(classes_of(dataset))
    assert counts == {"yes": 6, "_unknown_": 6, "_silence_": 6}
    splits = splits_by_name(dataset)
    for speaker in SPEAKERS:
        by_list = {VALIDATION[0]: "validation", TEST[0]: "test"}
        split = splits[f"yes/{speaker}_nohash_0.wav"]
        assert split == by_list.get(speaker, "train")
    plain = load(root / "train" / "audio", class_set="kaggle12")
    np.testing.assert_array_equal(dataset.clips, plain.clips)
    np.testing.assert_array_equal(dataset.labels, plain.labels)
    # The lists may be beside the words.
    for path in (root / "train").glob("*_list.txt"):
        path.rename(root / "train" / "audio" / path.name)
    assert splits_by_name(load_challenge(root)) == splits
    with pytest.raises(ValueError, match=r"data_dir: expected a folder train/audio"):
        load_challenge(root / "train" / "audio")


def test_submissions(root):
    assert tfsr.unlabelled_clips(root) == []
    assert "no submission is written" in tfsr.describe_tfsr(root)
    folder = root / "test" / "audio"
    for name in ("clip_b.wav", "clip_a.wav", ".clip_c.wav"):
        write_noise(folder / name)
    (folder / "notes.txt").write_text("none")
    assert tfsr.unlabelled_clips(root) == [folder / "clip_a.wav", folder / "clip_b.wav"]
    assert tfsr.describe_tfsr(root) == f"2 clips without labels in {folder}"
    labels = [tfsr.submission_label(name) for name in (*KAGGLE12, "marvin")]
    assert labels == [*KAGGLE12[:10], "silence", "unknown", "unknown"]
    assert tfsr.LABEL_OF_NOTHING in labels
    names = ["clip_1.wav", 'clip, "two".wav', "clip_\udcff.wav"]
    content = tfsr.submission((root / name for name in names), ["yes"] * 3)
    assert content.startswith(b"fname,label\nclip_1.wav,yes\n")
    rows = list(csv.reader(content.decode("utf-8", "surrogateescape").splitlines()))
    assert rows == [["fname", "label"], *([name, "yes"] for name in names)]
