"""Files that are whole or not there, and locks."""

import json

import numpy as np
import pytest

from uap_jax import files
from uap_jax.errors import UsageError
from uap_jax.text import format_seconds


def test_json_has_no_nan(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": float("nan"), "b": [1.5, float("inf")], "c": 1})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None], "c": 1}
    assert files.read_json(tmp_path / "none.json") is None
    for text in ("[1]", "{", "\x00"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"a\.json"):
            files.read_json(path)


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_torn_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    files.write_lines(path, [{"pass": 1}])
    files.append_line(path, {"pass": 2, "asr": float("nan")})
    with path.open("a") as file:
        file.write('{"pass": 3, "as')
    # The next process begins where the torn line ends.
    assert files.read_lines(path) == [{"pass": 1}, {"pass": 2, "asr": None}]
    assert files.read_lines(tmp_path / "none") == []


def test_array_round_trip(tmp_path):
    array = np.arange(5, dtype=np.float32)
    files.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_a_held_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    with (
        files.locked(folder, wait=False),
        pytest.raises(UsageError, match="another process"),
        files.locked(folder, wait=False),
    ):
        pass
    with files.locked(folder, wait=False):
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.23, "1.2 s"), (42.4, "42 s"), (187, "3:07 min"), (19_200, "5:20 h")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
