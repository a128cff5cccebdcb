"""Cache folders: built once, whole or not at all, and built again when damaged."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from uap_jax.audio.files import AudioFileError, write_wav
from uap_jax.data import cache, decoding, listing
from uap_jax.data.dataset import Dataset


def make_dataset(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "name": "tiny",
        "clips": rng.integers(-999, 999, (3, 20)).astype(np.int16),
        "labels": np.array([0, 1, 1], np.int32),
        "class_names": ("no", "yes"),
        "groups": np.array(["a", "b", "\u00e4"]),
        "names": np.array(["no/1.wav", "yes/1.wav", "yes/\udcff.wav"]),
        "sample_rate_hz": 16000,
        "fingerprint": "0123",
        "official_splits": np.array(["train", "validation", "test"]),
        "noise": rng.standard_normal((2, 20)).astype(np.float32),
        "skipped": ("yes/3.wav: is empty (0 bytes)",),
    }
    return Dataset(**(fields | changes))


def assert_equal(first, second):
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            np.testing.assert_array_equal(value, other)
        else:
            assert value == other


def fail_to_build(folder):
    raise AssertionError("built a cache that was there")


def visible_in(folder):
    return [path.name for path in folder.glob("[!.]*")]


def test_list_files_follows_links_and_skips_hidden(tmp_path):
    root = tmp_path / "root"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "nowhere.wav").symlink_to(tmp_path / "missing")
    for name in ("root/1", "root/a/2", "root/a/.3", "root/a/b/4", "root/a/b/c/5"):
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "elsewhere" / "6").write_bytes(b"1")
    os.utime(root / "1", ns=(5, 7))
    listed = listing.list_files(root, max_depth=3)
    assert listed[0] == ("1", 3, 7)
    sizes = {path: size for path, size, _ in listed}
    assert sizes == {"1": 3, "a/2": 3, "a/b/4": 3, "linked/6": 1, "nowhere.wav": 0}
    shallow = [path for path, *_ in listing.list_files(root, max_depth=1)]
    assert shallow == ["1", "nowhere.wav"]


@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_decode_clips_keeps_the_order(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(decoding, "_BLOCK_FILES", 4)
    paths = [tmp_path / f"{index}.wav" for index in range(10)]
    for index, path in enumerate(paths):
        write_wav(path, np.full(30, index / 32768), sample_rate_hz=16000)
    paths[6].write_bytes(b"")
    steps = []
    rows = list(
        decoding.decode_clips(
            paths,
            sample_rate_hz=16000,
            num_samples=20,
            num_workers=num_workers,
            progress=lambda *step: steps.append(step),
        )
    )
    assert isinstance(rows.pop(6), AudioFileError)
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert all(row.shape == (20,) and row.dtype == np.int16 for row in rows)
    assert steps == [("decoding", done, 10) for done in (4, 8, 10)]


@pytest.mark.parametrize("num_rows", [1, 12345])
def test_write_rows_makes_a_file_that_numpy_loads(tmp_path, num_rows):
    rows = np.arange(num_rows * 5).reshape(num_rows, 5).astype(np.int16)
    mapped = cache.write_rows(tmp_path / "a.npy", iter(rows), num_samples=5)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, rows)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)
    with pytest.raises(ValueError, match=r"expected \[5\] int16, got \(5,\) float64"):
        cache.write_rows(tmp_path / "a.npy", [np.zeros(5)], num_samples=5)


@pytest.mark.parametrize("changes", [{}, {"noise": None, "official_splits": None}])
def test_second_load_equals_the_build(tmp_path, changes):
    folder = tmp_path / "new" / "cache"
    dataset = make_dataset(**changes)
    assert_equal(dataset, cache.load_or_build(folder, lambda _: dataset))
    loaded = cache.load_or_build(folder, fail_to_build)
    assert_equal(dataset, loaded)
    assert isinstance(loaded.clips, np.memmap)
    assert not loaded.clips.flags.writeable
    assert visible_in(folder.parent) == ["cache"]
    # Before groups could overlap, caches did not say so.
    record = json.loads((folder / "dataset.json").read_text())
    del record["groups_overlap"]
    (folder / "dataset.json").write_text(json.dumps(record))
    assert_equal(dataset, cache.load_or_build(folder, fail_to_build))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("clips.npy", lambda content: None),
        ("clips.npy", lambda content: content[:200]),
        ("clips.npy", lambda content: b""),
        ("clips.npy", lambda content: content.replace(b"(3, 20)", b"(3, 19)")),
        ("noise.npy", lambda content: None),
        ("dataset.json", lambda content: None),
        ("dataset.json", lambda content: content[:100]),
        ("dataset.json", lambda content: b'{"\xff'),
        ("dataset.json", lambda content: content.replace(b"[0, 1, 1]", b"[0, 1]")),
        ("dataset.json", lambda content: content.replace(b'"groups"', b'"speakers"')),
    ],
)
def test_damaged_cache_is_built_again(tmp_path, name, damage):
    folder = tmp_path / "cache"
    cache.load_or_build(folder, lambda _: make_dataset())
    content = damage((folder / name).read_bytes())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    dataset = make_dataset(name="again")
    assert_equal(dataset, cache.load_or_build(folder, lambda _: dataset))
    assert_equal(dataset, cache.load_or_build(folder, fail_to_build))
    assert visible_in(tmp_path) == ["cache"]


def test_what_cannot_be_read_or_written_is_left_alone(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    for folder in (tmp_path / "cache", tmp_path / "cache" / "sub" / "cache"):
        with pytest.raises(NotADirectoryError):
            cache.load_or_build(folder, fail_to_build)
    assert (tmp_path / "cache").read_text() == "in the way"


def test_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "clips.npy").write_bytes(b"123")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cache.load_or_build(tmp_path / "cache", build)
    assert [path.name for path in tmp_path.iterdir()] == [".cache.lock"]


@pytest.mark.parametrize("damaged", [False, True])
def test_one_of_many_builds_at_once(tmp_path, damaged):
    folder = tmp_path / "cache"
    if damaged:
        cache.load_or_build(folder, lambda _: make_dataset())
        (folder / "clips.npy").write_bytes(b"")
    barrier = threading.Barrier(4)
    builds, results = [], []

    def build(_):
        builds.append(1)
        time.sleep(0.1)
        return make_dataset()

    def run():
        barrier.wait()
        results.append(cache.load_or_build(folder, build))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert len(results) == 4
    for result in results:
        assert_equal(make_dataset(), result)
    assert visible_in(tmp_path) == ["cache"]


KILLED_BUILD = """
import sys, time
from pathlib import Path
from uap_jax.data import cache

def build(folder):
    (folder / "clips.npy").write_bytes(b"half a file")
    print("building", flush=True)
    time.sleep(60)

cache.load_or_build(Path(sys.argv[1]), build)
"""


def test_living_build_is_waited_for_and_a_killed_one_cleaned_up(tmp_path):
    folder = tmp_path / "cache"
    other = subprocess.Popen(
        [sys.executable, "-c", KILLED_BUILD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    builds = []

    def build(_):
        builds.append(other.poll())
        return make_dataset()

    waiting = threading.Thread(target=cache.load_or_build, args=(folder, build))
    try:
        assert other.stdout.readline() == "building\n"
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert not builds
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    waiting.join(20)
    assert len(builds) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache.lock", "cache"]
    assert_equal(make_dataset(), cache.load_or_build(Path(folder), fail_to_build))
