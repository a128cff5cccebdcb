"""Damaged tables of recordings and lists of clips."""

import functools
import os

import pytest
from fuzz_guard import LIBRARY_ERRORS, Outcomes, snapshot
from fuzz_recordings import RATE_HZ, good
from fuzz_texts import tables

from uap_jax.data import corpora
from uap_jax.data.dataset import split_clips
from uap_jax.data.folder import describe_folder

NUM_SAMPLES = 200
COUNTS = (5, pytest.param(100, marks=pytest.mark.slow))

FOLDER_ROWS = [
    (
        f"{name}/{index}.wav",
        name,
        f"g{index}",
        ("train", "validation", "test")[index % 3],
    )
    for name in "ab"
    for index in range(6)
]
ESC_ROWS = [
    (f"{index}.wav", 1 + index % 3, index % 2, "ab"[index % 2], "True", index)
    for index in range(12)
]
URBAN_ROWS = [(f"{index}.wav", index, 1, index % 10) for index in range(4)]
URBAN_ROWS += [(f"{index}.wav", index, 2 + index % 2, 1) for index in range(4, 8)]

# By corpus: its table, that table's columns and rows, where recordings are.
CORPORA = {
    "folder": ("labels.csv", ("path", "label", "group", "split"), FOLDER_ROWS, "{0}"),
    "esc50": (
        "meta/esc50.csv",
        ("filename", "fold", "target", "category", "esc10", "src_file"),
        ESC_ROWS,
        "audio/{0}",
    ),
    "urbansound8k": (
        "metadata/UrbanSound8K.csv",
        ("slice_file_name", "fsID", "fold", "classID"),
        URBAN_ROWS,
        "audio/fold{2}/{0}",
    ),
}


@pytest.fixture(params=COUNTS)
def count(request):
    return request.param


def load(name, root, cache):
    dataset = corpora.load(
        name,
        data_dir=root,
        cache_dir=cache,
        sample_rate_hz=RATE_HZ,
        num_samples=NUM_SAMPLES,
    )
    split_clips(dataset)
    if name == "folder":
        describe_folder(root, num_samples=NUM_SAMPLES)


@pytest.mark.parametrize("name", CORPORA)
def test_table_is_read_or_refused(name, count, tmp_path):
    table, columns, rows, place = CORPORA[name]
    root = tmp_path / "corpus"
    for index, row in enumerate(rows):
        path = root / place.format(*row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good(index % 3, num_samples=300))
    (root / table).parent.mkdir(exist_ok=True)
    (root / "a").mkdir(exist_ok=True)
    os.symlink("self.wav", root / "a" / "self.wav")
    before = snapshot(root)
    outcomes = Outcomes()
    for kind, content in tables(columns, rows, count):
        (root / table).write_bytes(content)
        call = functools.partial(load, name, root, tmp_path / "cache")
        naming = ("data_dir: ", str(root), name)
        outcomes.add(kind, call, allowed=LIBRARY_ERRORS, naming=naming)
        assert (root / table).read_bytes() == content
        (root / table).unlink()
        assert snapshot(root) == before, kind
    outcomes.check(f"tables of {name}")


def test_lists_of_clips(count, tmp_path):
    root = tmp_path / "corpus"
    names = [
        f"{w}/0000000{s}_nohash_{t}.wav" for w in "ab" for s in "0123" for t in "01"
    ]
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(good(index % 3, num_samples=300))
    outcomes = Outcomes()
    for kind, content in tables(("path",), [(name,) for name in names[::3]], count):
        (root / "testing_list.txt").write_bytes(content)
        (root / "validation_list.txt").write_bytes(names[1].encode())
        call = functools.partial(load, "speech_commands", root, tmp_path / "cache")
        outcomes.add(
            kind,
            call,
            allowed=LIBRARY_ERRORS,
            naming=("speech_commands", "testing_list"),
        )
    outcomes.check("lists of clips")
