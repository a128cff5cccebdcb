"""Cache folders: built once, whole or not at all, and built again when damaged."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from uap_jax import files
from uap_jax.audio.files import AudioFileError, write_wav
from uap_jax.data import cache
from uap_jax.data.dataset import Dataset


def make_dataset(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "name": "tiny",
        "clips": rng.integers(-999, 999, (3, 20)).astype(np.int16),
        "labels": np.array([0, 1, 1], np.int32),
        "class_names": ("no", "yes"),
        "groups": np.array(["a", "b", "\u00e4"]),
        "names": np.array(["no/1.wav", "yes/1.wav", "yes/2.wav"]),
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


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UAP_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.default_cache_dir() == tmp_path / ".cache" / "uap_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.default_cache_dir() == tmp_path / "xdg" / "uap_jax"
    monkeypatch.setenv("UAP_JAX_CACHE", str(tmp_path / "own"))
    assert files.default_cache_dir() == tmp_path / "own"


def test_content_fingerprint():
    clips = np.arange(12, dtype=np.int16).reshape(3, 4)
    names = np.array(["a", "b\udcff"])
    found = files.content_fingerprint(clips, names, None)
    assert found == files.content_fingerprint(clips.copy(), names.copy(), None)
    changed = clips.copy()
    changed[2, 3] += 1
    others = [
        (changed, names, None),
        (clips.reshape(4, 3), names, None),
        (clips.astype(np.int32), names, None),
        (clips, names[::-1], None),
        (clips, names, np.zeros(0)),
        (clips, names),
    ]
    keys = {files.content_fingerprint(*arrays) for arrays in others}
    assert len({found, *keys}) == 1 + len(others)


def test_fingerprint_depends_on_every_part():
    value = files.fingerprint("a", 1, [("b", 2)], {"c": 3, "d": 4})
    assert len(value) == 16
    assert int(value, 16) >= 0
    assert value == files.fingerprint("a", 1, [("b", 2)], {"d": 4, "c": 3})
    assert value != files.fingerprint("a", 1, [("b", 3)], {"c": 3, "d": 4})
    assert files.fingerprint("ab", "c") != files.fingerprint("a", "bc")


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
    assert cache.list_files(root)[0] == ("1", 3, 7)
    listing = {path: size for path, size, _ in cache.list_files(root)}
    assert listing == {"1": 3, "a/2": 3, "a/b/4": 3, "linked/6": 1, "nowhere.wav": 0}
    shallow = [path for path, *_ in cache.list_files(root, max_depth=1)]
    assert shallow == ["1", "nowhere.wav"]


@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_decode_clips_keeps_the_order(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(cache, "_BLOCK_FILES", 4)
    paths = [tmp_path / f"{index}.wav" for index in range(10)]
    for index, path in enumerate(paths):
        write_wav(path, np.full(30, index / 32768), sample_rate_hz=16000)
    paths[6].write_bytes(b"")
    steps = []
    rows = list(
        cache.decode_clips(
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


@pytest.mark.parametrize("num_rows", [1, 9, 12345])
def test_write_rows_makes_a_file_that_numpy_loads(tmp_path, num_rows):
    rows = np.arange(num_rows * 5).reshape(num_rows, 5).astype(np.int16)
    mapped = cache.write_rows(tmp_path / "a.npy", iter(rows), num_samples=5)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, rows)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)


def test_write_rows_refuses(tmp_path):
    with pytest.raises(ValueError, match="got none"):
        cache.write_rows(tmp_path / "a.npy", [], num_samples=5)
    with pytest.raises(ValueError, match=r"expected \[5\] int16, got \(5,\) float64"):
        cache.write_rows(tmp_path / "a.npy", [np.zeros(5)], num_samples=5)
    with pytest.raises(ValueError, match=r"expected \[5\] int16, got \(4,\) int16"):
        cache.write_rows(tmp_path / "a.npy", [np.zeros(4, np.int16)], num_samples=5)


@pytest.mark.parametrize("changes", [{}, {"noise": None, "official_splits": None}])
def test_second_load_equals_the_build(tmp_path, changes):
    folder = tmp_path / "new" / "cache"
    dataset = make_dataset(**changes)
    assert_equal(dataset, cache.load_or_build(folder, lambda _: dataset))
    loaded = cache.load_or_build(folder, fail_to_build)
    assert_equal(dataset, loaded)
    assert isinstance(loaded.clips, np.memmap)
    assert not loaded.clips.flags.writeable
    assert [path.name for path in folder.parent.iterdir()] == ["cache"]


def test_cache_of_before_groups_could_overlap_is_still_good(tmp_path):
    folder = tmp_path / "corpus"
    first = cache.load_or_build(folder, lambda _: make_dataset())
    path = folder / "dataset.json"
    record = json.loads(path.read_text())
    del record["groups_overlap"]
    path.write_text(json.dumps(record))
    assert_equal(first, cache.load_or_build(folder, fail_to_build))


def test_build_may_fill_a_file_in_the_folder(tmp_path):
    expected = make_dataset()

    def build(folder):
        clips = cache.write_rows(folder / "clips.npy", expected.clips, num_samples=20)
        return make_dataset(clips=clips)

    loaded = cache.load_or_build(tmp_path / "cache", build)
    assert_equal(expected, loaded)


def remove_clips(folder):
    (folder / "clips.npy").unlink()


def remove_noise(folder):
    (folder / "noise.npy").unlink()


def remove_record(folder):
    (folder / "dataset.json").unlink()


def cut_clips(folder):
    with open(folder / "clips.npy", "r+b") as file:
        file.truncate(200)


def empty_clips(folder):
    (folder / "clips.npy").write_bytes(b"")


def swap_clips(folder):
    np.save(folder / "clips.npy", np.zeros((3, 19), np.int16))


def cut_record(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text()[:100])


def drop_a_label(folder):
    path = folder / "dataset.json"
    record = json.loads(path.read_text())
    record["labels"].pop()
    path.write_text(json.dumps(record))


def replace_by_bytes(folder):
    (folder / "dataset.json").write_bytes(b'{"\xff')


def rename_a_field(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace('"groups"', '"speakers"'))


def add_a_field(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace("{", '{"new": 1, ', 1))


@pytest.mark.parametrize(
    "damage",
    [
        remove_clips,
        remove_noise,
        remove_record,
        cut_clips,
        empty_clips,
        swap_clips,
        cut_record,
        drop_a_label,
        rename_a_field,
        add_a_field,
        replace_by_bytes,
    ],
)
def test_damaged_cache_is_built_again(tmp_path, damage):
    folder = tmp_path / "cache"
    cache.load_or_build(folder, lambda _: make_dataset())
    damage(folder)
    dataset = make_dataset(name="again")
    assert_equal(dataset, cache.load_or_build(folder, lambda _: dataset))
    assert_equal(dataset, cache.load_or_build(folder, fail_to_build))
    assert list(tmp_path.iterdir()) == [folder]


def test_cache_that_cannot_be_read_is_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    cache.load_or_build(folder, lambda _: make_dataset())

    def fail(_):
        raise PermissionError(errno.EACCES, "Permission denied", "clips.npy")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_map_array", fail)
        with pytest.raises(PermissionError):
            cache.load_or_build(folder, fail_to_build)
    assert_equal(make_dataset(), cache.load_or_build(folder, fail_to_build))


def test_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        cache.load_or_build(tmp_path / "cache", fail_to_build)
    assert (tmp_path / "cache").read_text() == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_named():
    def write():
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"123")

    def write_array():
        np.arange(99999).tofile("/dev/full")

    with pytest.raises(OSError, match="requested and") as plain:
        write_array()
    assert plain.value.errno is None
    for fail in (write, write_array):
        with (
            pytest.raises(OSError, match="No space left on device") as caught,
            cache.name_full_disk(Path("clips.npy")),
        ):
            fail()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == "clips.npy"
    with (
        pytest.raises(OSError, match="other") as caught,
        cache.name_full_disk("clips.npy"),
    ):
        raise OSError("other")
    assert caught.value.filename is None


def test_full_disk_while_an_array_is_saved(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("60 requested and 0 written")

    monkeypatch.setattr(cache.np, "save", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        cache.load_or_build(tmp_path / "cache", lambda _: make_dataset())
    assert caught.value.errno == errno.ENOSPC
    assert Path(caught.value.filename).name == "clips.npy"
    assert not list(tmp_path.iterdir())


def test_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "clips.npy").write_bytes(b"123")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cache.load_or_build(tmp_path / "cache", build)
    assert not list(tmp_path.iterdir())


def test_failed_rename_is_reported(tmp_path, monkeypatch):
    rename = os.rename

    def fail(source, destination):
        if Path(destination).name == "cache":
            raise OSError(28, "No space left on device")
        rename(source, destination)

    monkeypatch.setattr(cache.os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        cache.load_or_build(tmp_path / "cache", lambda _: make_dataset())
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        cache.load_or_build(tmp_path / "file" / "sub" / "cache", fail_to_build)


@pytest.mark.parametrize("damaged", [False, True])
def test_one_of_many_builds_at_once(tmp_path, damaged):
    folder = tmp_path / "c"
    if damaged:
        cache.load_or_build(folder, lambda _: make_dataset())
        cut_clips(folder)
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
    assert list(tmp_path.iterdir()) == [folder]


def test_first_of_two_builds_counts_where_there_are_no_locks(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    folder = tmp_path / "cache"
    first, second = make_dataset(name="first"), make_dataset(name="second")

    def build(_):
        assert cache.load_or_build(folder, lambda _: first).name == "first"
        return second

    assert_equal(first, cache.load_or_build(folder, build))
    assert list(tmp_path.iterdir()) == [folder]


KILLED_BUILD = """
import sys, time
from pathlib import Path
from uap_jax import files
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
    assert list(tmp_path.iterdir()) == [folder]
    assert_equal(make_dataset(), cache.load_or_build(folder, fail_to_build))
