"""Folders and tables of custom recordings: layouts, splits, bad entries, summary."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sounds import EXPECTED, NUM_SAMPLES, decoding, encode, write_classes
from sounds import write_table as write_csv
from sounds import write_tone as write

from uap_jax.audio import files
from uap_jax.audio.files import AudioFileError
from uap_jax.data import corpora
from uap_jax.data.dataset import leaked_share, split_clips
from uap_jax.data.decoding import Decoding
from uap_jax.data.esc import load_esc
from uap_jax.data.folder import describe_folder, load_folder


def write_table(path, rows, *, columns=("path", "label", "group", "split")):
    write_csv(path, columns[: len(rows[0])], rows)


def load(data_dir, *, group_pattern=None, **settings):
    settings = decoding(data_dir, **settings)
    return load_folder(data_dir, settings, group_pattern=group_pattern)


def describe(data_dir, **settings):
    return describe_folder(data_dir, num_samples=NUM_SAMPLES, **settings)


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    return path


def reasons(dataset):
    return dict(line.split(": ", 1) for line in dataset.skipped)


def test_folders_are_classes(root):
    write(root / "dog" / "b.wav")
    write(root / "dog" / "deep" / "er" / "still" / "a.flac", rate_hz=44100)
    write(root / "Cat" / "x.ogg", rate_hz=8000, length_s=0.1)
    write(root / "Cat" / "y.MP3", rate_hz=32000)
    write(root / "10" / "1.aiff")
    write(root / "9" / "1.caf")
    write(root / "dog" / "c.w64")
    dataset = load(root, strict=True)
    assert dataset.name == "folder"
    assert dataset.class_names == ("9", "10", "Cat", "dog")
    assert dataset.names.tolist() == [
        *("10/1.aiff", "9/1.caf", "Cat/x.ogg", "Cat/y.MP3"),
        *("dog/b.wav", "dog/c.w64", "dog/deep/er/still/a.flac"),
    ]
    assert dataset.labels.tolist() == [1, 0, 2, 2, 3, 3, 3]
    assert dataset.groups.tolist() == dataset.names.tolist()
    for name, clip in zip(dataset.names, dataset.clips, strict=True):
        if not name.endswith((".MP3", ".ogg")):
            error = np.abs(clip[100:300] - EXPECTED[100:300]).max()
            assert error < 600, name


@pytest.mark.skipif(
    "UAP_JAX_ESC10_DIR" not in os.environ, reason="needs the recordings of ESC-10"
)
def test_real_esc10(tmp_path):
    root = Path(os.environ["UAP_JAX_ESC10_DIR"])
    settings = Decoding(tmp_path, num_samples=50_999, strict=True)
    expected = load_esc(root, settings, subset="esc10")
    dataset = load_folder(root, settings, group_pattern=r"\d-(\d+)-")
    for field in ("clips", "labels", "names", "groups"):
        np.testing.assert_array_equal(
            getattr(dataset, field), getattr(expected, field), strict=True
        )
    assert leaked_share(dataset, split_clips(dataset)) == 0.0


def test_splits_are_by_group_and_of_every_class(root):
    write_classes(root, a=40, b=20, c=3, d=2, e=1)
    dataset = load(root)
    counts = Counter(
        zip(dataset.labels.tolist(), dataset.official_splits.tolist(), strict=True)
    )
    assert counts == {
        **{(0, "train"): 32, (0, "validation"): 4, (0, "test"): 4},
        **{(1, "train"): 16, (1, "validation"): 2, (1, "test"): 2},
        **{(2, "train"): 1, (2, "validation"): 1, (2, "test"): 1},
        **{(3, "train"): 2, (4, "train"): 1},
    }
    splits = split_clips(dataset)
    assert [len(split) for split in splits] == [52, 7, 7]
    # Whatever else is there, and in whatever order it is found.
    write_classes(root, f=5)
    after = load(root).official_splits
    np.testing.assert_array_equal(after[: len(dataset.labels)], dataset.official_splits)


def test_group_pattern_keeps_groups_together(root):
    for word in ("yes", "no"):
        for speaker in range(10):
            for take in range(3):
                write(root / word / f"s{speaker}_{take}.wav")
    write(root / "no" / "someone.wav")
    dataset = load(root, group_pattern=r"/s(\d)_")
    assert dataset.groups[30] == "no/someone.wav"
    assert set(np.delete(dataset.groups, 30)) == set("0123456789")
    splits = split_clips(dataset)
    assert leaked_share(dataset, splits) == 0.0
    assert len(splits.test) == 6
    other = load(root)
    assert other.fingerprint != dataset.fingerprint
    assert len(set(other.groups)) == 61


def test_table(root):
    rows = []
    for index in range(12):
        name = f"sounds/{index:02d}.wav"
        write(root / name)
        split = ("train", "Validation", "test")[index % 3]
        rows.append((name, ("dog", "cat")[index // 6], f"g{index}", split))
    write(root.parent / "elsewhere.wav")
    rows.append(("../elsewhere.wav", "cat", "", "train"))
    rows.append((str(root.parent / "elsewhere.wav"), "cat", "", "train"))
    write(root / "not" / "listed.wav")
    write_table(root / "labels.csv", rows)
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.names.tolist() == [row[0] for row in rows[:13]]
    assert dataset.labels.tolist() == [1] * 6 + [0] * 7
    assert dataset.groups.tolist() == [f"g{n}" for n in range(12)] + [rows[12][0]]
    splits = split_clips(dataset)
    assert splits.validation.tolist() == [1, 4, 7, 10]
    assert splits.test.tolist() == [2, 5, 8, 11]
    assert dataset.skipped == (
        f"{rows[13][0]}: is listed twice, the first time as ../elsewhere.wav",
    )
    named = root / "other.CSV"
    os.rename(root / "labels.csv", named)
    np.testing.assert_array_equal(
        load_folder(named, decoding(root)).clips, dataset.clips
    )


def test_table_without_validation_or_group(root):
    write_classes(root, a=30, b=30)
    rows = [
        (f"{name}/{index:03d}.wav", name, "test" if index < 6 else "train")
        for name in "ab"
        for index in range(30)
    ]
    write_table(root / "labels.csv", rows, columns=("path", "label", "split"))
    dataset = load(root)
    splits = split_clips(dataset)
    assert len(splits.test) == 12
    assert 0 < len(splits.validation) < 12
    write_table(root / "labels.csv", [row[:2] for row in rows])
    assert len(split_clips(load(root)).test) == 6


def test_bad_rows_are_named_and_left_out(root):
    write_classes(root, a=5, b=3)
    (root / "a" / "000.wav").write_text("no recording")
    rows = [
        *((f"a/{index:03d}.wav", "a") for index in range(4)),
        *((f"b/{index:03d}.wav", "b") for index in range(3)),
        ("a/gone.wav", "a"),
        ("a", "a"),
        ("a/004.wav", "  "),
        ("", "b"),
        ("./a/001.wav", "a"),
        ("b/002.wav", "a"),
        ("b/000.wav", "b", "surplus"),
        ("nul\0.wav", "b"),
    ]
    write_csv(root / "labels.csv", ("Path", " LABEL"), rows)
    dataset = load(root)
    assert dataset.names.tolist() == [
        *("a/001.wav", "a/002.wav", "a/003.wav", "b/000.wav", "b/001.wav")
    ]
    twice = "is listed twice, with different labels, groups or splits"
    expected = {
        "a/000.wav": "cannot be read as audio",
        "a/gone.wav": "does not exist",
        "a": "is no file",
        "a/004.wav": "has no label (labels.csv:11)",
        "labels.csv:12": "has no path (labels.csv:12)",
        "./a/001.wav": "is listed twice, the first time as a/001.wav",
        "b/002.wav": twice,
        "b/000.wav": "has more values than there are columns (labels.csv:15)",
        "nul\0.wav": "cannot be read (embedded null byte)",
    }
    assert len(dataset.skipped) == len(expected) + 1
    found = reasons(dataset)
    assert found.keys() == expected.keys()
    for path, reason in expected.items():
        assert found[path].startswith(reason), path
    assert describe(root)[-1].startswith("skipped 10, such as a/004.wav: has no label")
    for _ in range(2):
        with pytest.raises(AudioFileError, match=r"a/004\.wav: has no label"):
            load(root, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none named path, label"),
        ("file,label\na/0.wav,a\n", "got none named path$"),
        ("path;label\n", "got none named path, label; .* commas, not by ';'$"),
        ("path\tlabel\n", r"none named path, label; .* commas, not by '\\t'$"),
        ("path,label\n", "found none that can be used in .*csv; skipped 0$"),
        ("path,label\nx.wav,a\n", "skipped 1, such as x.wav: does not exist$"),
        ("path,label\na/000.wav,dog/cat\n", "names of classes .* got 'dog/cat'"),
        ('path,label\na/000.wav,"a\nb"\n', r"names of classes .* got 'a\\nb'"),
        ("path,label\na/000.wav," + 200000 * "a", "got in line 1: field larger"),
    ],
)
def test_damaged_tables_are_refused(root, text, message):
    write_classes(root, a=3, b=3)
    (root / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=f"^data_dir: expected .*{message}"):
        load(root)


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize(
    ("closed_by", "line"),
    [(None, 61), ("quoted value", 60), ("quote at the end", 60), ("surplus value", 60)],
)
def test_stray_quote_is_named(root, column, closed_by, line):
    write_classes(root, a=30, b=30)
    rows = [
        [f"{name}/{index:03d}.wav", name, f"s{index}", f"note {index}"]
        for index in range(30)
        for name in "ab"
    ]
    rows[17][column] = f'"{rows[17][column]}'
    if closed_by == "quoted value":
        rows[58][1] = '"b"'
    elif closed_by:
        rows[58][-1] += '",more' if closed_by == "surplus value" else '"'
    text = "\n".join(map(",".join, [("path", "label", "group", "note"), *rows]))
    (root / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=f"in line {line}: .* open in line 19$"):
        load(root)


def test_quoted_values(root):
    write_classes(root, a=3, b=3)
    note = 'a "loud", high\nsound'
    rows = [
        (f"{name}/{index:03d}.wav", name, note) for name in "ab" for index in range(3)
    ]
    write_csv(root / "labels.csv", ("path", "label", "note"), rows)
    assert load(root, strict=True).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_table_in_utf16_gets_a_hint(root):
    write_classes(root, a=3, b=3)
    for encoding in ("utf-16", "utf-16-be"):
        (root / "labels.csv").write_text("path,label\na/000.wav,a\n", encoding)
        with pytest.raises(ValueError, match="label; it looks like UTF-16, save it as"):
            load(root)


def test_table_in_other_encodings(root):
    name = "f\u00fcr.wav".encode("latin-1")
    for index, path in enumerate((os.fsdecode(name), "b.wav", "c.wav", "d.wav")):
        (root / path).write_bytes(encode(".wav", frequency_hz=100 + index))
    text = b"\xef\xbb\xbfpath,label\r\n" + name + b",a\r\nb.wav,a\r\nc.wav,a\r\n"
    (root / "labels.csv").write_bytes(text + b"d.wav,gr\xfcn\r\n")
    dataset = load(root, strict=True)
    assert os.fsencode(str(dataset.names[0])) == name
    assert dataset.class_names == ("a", "gr\ufffdn")
    assert all(line.isprintable() for line in describe(root))


def test_wrong_splits(root):
    write_classes(root, a=4, b=3)
    splits = ("train", "validation", "test")
    rows = [(f"{n}/{i:03d}.wav", n, f"g{i}", splits[i]) for n in "ab" for i in range(3)]
    write_table(root / "labels.csv", [*rows, ("a/003.wav", "a", "", "dev")])
    (line,) = load(root).skipped
    assert line.startswith("a/003.wav: has the split 'dev', none of train, validation")
    write_table(root / "labels.csv", [*rows, ("a/003.wav", "a", "g0", "test")])
    with pytest.raises(ValueError, match=r"^data_dir: .* got g0 in train and test$"):
        load(root)


def test_cache_follows_the_table(root):
    write_classes(root, a=4, b=4)
    rows = [(f"{name}/{index:03d}.wav", name) for name in "ab" for index in range(4)]
    write_table(root / "labels.csv", rows)
    first = load(root)
    os.utime(root / "labels.csv", ns=(1, 1))
    assert load(root, progress=pytest.fail).fingerprint == first.fingerprint
    write_table(root / "labels.csv", [(rows[0][0], "b"), *rows[1:]])
    assert load(root).labels.tolist() == [1, 0, 0, 0, 1, 1, 1, 1]


def test_what_is_no_recording(root):
    write_classes(root, a=3, b=3)
    write(root / ".hidden" / "x.wav")
    write(root / "a" / "._001.wav")
    write(root / "top.wav")
    for name in (".DS_Store", "a/.DS_Store", "a/notes.txt", "a/Thumbs.db", "a/LICENSE"):
        (root / name).write_bytes(b"\0")
    (root / "docs").mkdir()
    (root / "docs" / "read.me").write_text("no class")
    (root / "b" / "song.m4a").write_bytes(b"nothing that can be decoded")
    (root / "b" / "empty.wav").write_bytes(b"")
    os.mkfifo(root / "b" / "pipe.wav")
    dataset = load(root)
    assert dataset.class_names == ("a", "b")
    assert len(dataset.clips) == 6
    found = reasons(dataset)
    assert found["top.wav"] == "is in no folder of a class"
    assert found["b/pipe.wav"] == "is no file"
    assert found["b/empty.wav"] == "is empty (0 bytes)"
    assert found["b/song.m4a"].startswith("cannot be read as audio")
    assert len(found) == 4
    lines = describe(root)
    assert lines[-2] == (
        "ignored, not audio: without suffix (1), .db (1), .txt (1), .me (1)"
    )
    with pytest.raises(AudioFileError, match=r"top\.wav: is in no folder"):
        load(root, strict=True)


def test_links(root):
    write_classes(root, a=3, b=3)
    write(root.parent / "store" / "linked.wav")
    (root / "a" / "loop").symlink_to(root)
    (root / "b" / "self.wav").symlink_to("self.wav")
    (root / "b" / "gone.wav").symlink_to("nowhere.wav")
    (root / "a" / "again.wav").symlink_to("000.wav")
    (root / "b" / "both.wav").symlink_to(root / "a" / "001.wav")
    (root / "b" / "outside").symlink_to(root.parent / "store")
    dataset = load(root)
    assert dataset.names.tolist() == [
        *("a/000.wav", "a/002.wav"),
        *("b/000.wav", "b/001.wav", "b/002.wav", "b/outside/linked.wav"),
    ]
    found = reasons(dataset)
    assert found["b/gone.wav"] == "does not exist"
    assert found["b/self.wav"].startswith("cannot be read (Too many levels")
    assert "as a/000.wav" in found["a/again.wav"]
    assert "different labels" in found["a/001.wav"]
    assert "different labels" in found["b/both.wav"]
    assert len(found) == 5


def test_names_in_any_script(root):
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    persian = "\u0645\u06cc\u200c\u0631\u0648\u062f"
    for name in (decomposed, "\u72ac", persian):
        for index in range(3):
            write(root / name / f"\u97f3 {index}.wav")
    dataset = load(root, strict=True)
    assert dataset.class_names == ("caf\u00e9", persian, "\u72ac")
    assert dataset.names[0] == f"{decomposed}/\u97f3 0.wav"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "found none that can be used in .*; skipped 0$"),
        (("x.wav", "y.wav"), "skipped 2, such as x.wav: is in no folder of a class$"),
        (("a/x.txt",), "skipped 0$"),
        (("train/a/x.wav", "Test/a/y.wav"), r"got splits: Test, train; give one"),
        (("a/x.wav", "a/y.wav", "b/x.wav"), "at least 3 groups, .* got at most 2$"),
    ],
)
def test_other_layouts_are_refused(root, files, message):
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(".wav"))
    for function in (load, describe):
        with pytest.raises(ValueError, match=f"^data_dir: expected .*{message}"):
            function(root)


def test_usual_length_is_the_median(tmp_path):
    for number, length_s in enumerate((0.1, 0.2, 0.204, 0.3, 3.0)):
        name = "low" if number % 2 else "high"
        write(tmp_path / name / f"{number}.wav", length_s=length_s)
    (tmp_path / "low" / "damaged.wav").write_bytes(b"RIFF")
    assert corpora.usual_recording_s("folder", str(tmp_path)) == 0.2
    assert corpora.usual_recording_s("esc10", str(tmp_path)) == 5.0
    assert corpora.usual_recording_s("synthetic_speech", None) == 1.0


def test_recording_too_long_is_not_decoded(root, monkeypatch):
    write_classes(root, a=3, b=3)
    write(root / "a" / "long.wav", length_s=0.2)
    monkeypatch.setattr(files, "_MAX_MIXED", 2000)
    (line,) = load(root).skipped
    assert line == "a/long.wav: is too long by its header; cut it up"


def test_summary(root):
    write_classes(root, a=4, b=3, c=1)
    write(root / "a" / "short.flac", rate_hz=8000, length_s=0.0125)
    (root / "b" / "bad.wav").write_text("no recording")
    steps = []
    lines = describe(root, progress=lambda *step: steps.append(step))
    assert lines[:-1] == [
        "9 recordings in 3 classes, 0.4 s at 16000 Hz (8), 8000 Hz (1)",
        "classes: a (5), b (3), c (1)",
        "groups: 9; 9 recordings are groups of one",
        "fewer than 3 groups, for the training only: c",
        "clips of 0.025 s keep 52% of the sound; shorter and padded: 1",
    ]
    assert lines[-1].startswith("skipped 1, such as b/bad.wav: cannot be read as audio")
    assert steps[-1] == ("reading headers", 10, 10)
    rows = [("a/000.wav", "a", "x", "me"), ("b/000.wav", "b", "y", "me")]
    rows += [("a/001.wav", "a", "z", "me"), ("a/002.wav", "a", "", "me")]
    write_table(root / "labels.csv", rows, columns=("path", "label", "group", "by"))
    lines = describe(root)
    assert "groups: 4; 1 recordings are groups of one" in lines
    assert lines[-1] == "ignored columns: by"


@pytest.mark.parametrize(
    "settings",
    [
        {"group_pattern": "("},
        {"group_pattern": "no group"},
        {"group_pattern": "(a)(b)"},
    ],
)
def test_wrong_settings_are_named(root, settings):
    write_classes(root, a=3, b=3)
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected"):
        load(root, **settings)


def test_data_dir_must_be_there(root):
    (root / "notes.txt").write_text("no table")
    for path in (root / "none", root / "none.csv", root / "notes.txt"):
        with pytest.raises(ValueError, match=r"^data_dir: expected a folder, got"):
            load(path)
