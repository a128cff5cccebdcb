"""Files written whole or not at all, locks, fingerprints, durations."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from uap_jax import files
from uap_jax.errors import UsageError
from uap_jax.text import format_decibel, format_seconds, printable


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    before = path.read_bytes()
    assert files.read_json(path) == {"a": [1.5, None], "b": {"c": None}}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json"):
        files.write_json(path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    assert files.read_json(path) is None
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.json: damaged, .* delete the file"):
        files.read_json(path)


def test_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    assert files.read_lines(path) == []
    files.write_lines(path, [{"pass": 1}])
    files.append_line(path, {"pass": 2, "asr": float("nan")})
    with path.open("a") as file:
        file.write('{"pass": 3')
    assert files.read_lines(path) == [{"pass": 1}, {"pass": 2, "asr": None}]


@pytest.mark.parametrize("shape", [(3, 4), (0, 2), (5,)])
def test_arrays(tmp_path, shape):
    array = np.ones(shape, np.float32).T
    files.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array, strict=True)
    files.write_arrays(tmp_path / "b.npz", a=array, b=np.arange(3))
    with np.load(tmp_path / "b.npz") as stored:
        np.testing.assert_array_equal(stored["a"], array, strict=True)


def test_one_process_holds_a_folder_until_it_is_killed(tmp_path):
    folder = tmp_path / "new" / "run"
    with files.locked(folder, wait=False):
        with (
            pytest.raises(files.InUseError, match="in use by another process"),
            files.locked(folder, wait=False),
        ):
            pass
        with files.locked(folder, wait=False, name=".other"):
            pass
    code = (
        "import pathlib, sys, time; from uap_jax import files\n"
        "with files.locked(pathlib.Path(sys.argv[1]), wait=True):\n"
        "    print(1, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(files.InUseError), files.locked(folder, wait=False):
            pass
        other.send_signal(signal.SIGKILL)
    started = time.monotonic()
    with files.locked(folder, wait=True):
        assert time.monotonic() - started < 10


def test_file_system_without_locks_is_used_and_named_once(
    monkeypatch, tmp_path, caplog
):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    monkeypatch.setattr(files, "_unlocked", set())
    for name in ("first", "second"):
        with files.locked(tmp_path / name, wait=False):
            pass
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("uap_jax", "WARNING")
    expected = f"{tmp_path / 'first'}: no locks on this file system (Function not impl"
    assert record.getMessage().startswith(expected)


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UAP_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.default_cache_dir() == tmp_path / ".cache" / "uap_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.default_cache_dir() == tmp_path / "xdg" / "uap_jax"
    monkeypatch.setenv("UAP_JAX_CACHE", str(tmp_path / "mine"))
    assert files.default_cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("UAP_JAX_CACHE", "~/mine")
    assert files.default_cache_dir() == tmp_path / "mine"
    # A user without a home, who may name other folders.
    for name in ("HOME", "UAP_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert str(files.default_cache_dir()) == "~/.cache/uap_jax"


def test_fingerprints_depend_on_every_part_and_nothing_else():
    # Stored models and corpora are found by it.
    assert files.fingerprint("a", 1, [("b", 2)], {"c": 3}) == "d48e31f0e17bd773"
    value = files.fingerprint("a", 1, [("b", 2)], {"c": 3, "d": 4})
    assert value == files.fingerprint("a", 1, [("b", 2)], {"d": 4, "c": 3})
    assert value != files.fingerprint("a", 1, [("b", 3)], {"c": 3, "d": 4})
    assert files.fingerprint("ab", "c") != files.fingerprint("a", "bc")
    clips = np.arange(12, dtype=np.int16).reshape(3, 4)
    names = np.array(["a", "b\udcff"])
    first = files.content_fingerprint(clips, names, None)
    assert first == files.content_fingerprint(clips.copy(), names.copy(), None)
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
    assert len({first, *keys}) == 1 + len(others)


def test_flatten():
    tree = {"a": {"b": 1, "c": {"d": None}}, "e": [1], "f": {}}
    assert files.flatten(tree) == {"a.b": 1, "a.c.d": None, "e": [1]}


def test_text_on_one_line():
    name = "caf\u00e9 \u72ac\n\x1b[31m\udcff.wav"
    assert printable(name) == "caf\u00e9 \u72ac\\n\\x1b[31m\ufffd.wav"
    lines = [format_seconds(seconds) for seconds in (0.05, 9.94, 42, 187.2, 7500)]
    assert lines == ["0.1 s", "9.9 s", "42 s", "3:07 min", "2:05 h"]
    assert json.dumps(printable(os.fsdecode(b"\xff"))) == '"\\ufffd"'


@pytest.mark.parametrize(
    ("level_db", "said"),
    [(7.06, "7.1 dB"), (-0.04, "0.0 dB"), (-0.06, "-0.1 dB"), (float("nan"), "n/a")],
)
def test_levels_are_said_without_a_negative_zero(level_db, said):
    assert format_decibel(level_db) == said
