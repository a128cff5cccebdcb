"""Clips that are rendered when first read: only those, once, and after a kill too."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from uap_jax.data.dataset import split_clips
from uap_jax.data.synthetic import rendered
from uap_jax.data.synthetic.rendered import RenderedClips
from uap_jax.data.synthetic.speech import load_synthetic_speech
from uap_jax.data.synthetic.urban import load_synthetic_urban

ROWS = np.arange(40, dtype=np.int16).reshape(10, 4)


def clips_in(folder, calls, **settings) -> RenderedClips:
    def render(indices):
        calls.append(indices.tolist())
        return ((index, ROWS[index]) for index in reversed(indices.tolist()))

    return RenderedClips(folder / "new" / "clips.npy", ROWS.shape, render, **settings)


def fail(indices):
    raise AssertionError(f"rendered {indices}")


def test_reads_like_an_array_and_renders_what_is_read(tmp_path):
    calls, steps = [], []
    clips = clips_in(
        tmp_path, calls, progress=lambda *step: steps.append(step), what="sounds"
    )
    assert len(clips) == 10
    assert not list(tmp_path.iterdir())
    clips.ensure(np.array([7, 2, 7]))
    assert steps == [("sounds", done, 2) for done in range(3)]
    np.testing.assert_array_equal(clips[2], ROWS[2])
    np.testing.assert_array_equal(clips[np.array([3, 2])], ROWS[[3, 2]])
    np.testing.assert_array_equal(clips[1:4], ROWS[1:4])
    np.testing.assert_array_equal(clips[np.arange(10) == 9], ROWS[9:])
    np.testing.assert_array_equal(clips, ROWS)
    assert calls == [[2, 7], [3], [1], [9], [0, 4, 5, 6, 8]]
    again = clips_in(tmp_path, calls)
    np.testing.assert_array_equal(again, ROWS)
    assert len(calls) == 5
    assert not again[:].flags.writeable
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "clips.npy"), ROWS)


@pytest.mark.parametrize("name", ["clips.npy", "clips.rendered"])
@pytest.mark.parametrize("content", [None, b"", b"123"])
def test_damaged_files_are_rendered_again(tmp_path, name, content):
    calls = []
    clips_in(tmp_path, calls).ensure(np.arange(5))
    path = tmp_path / "new" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    np.testing.assert_array_equal(clips_in(tmp_path, calls)[4:6], ROWS[4:6])
    assert calls[1:] == [[4, 5]]


def test_failed_rendering_keeps_what_was_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(rendered, "_SYNC_CLIPS", 4)

    def render(indices):
        yield from ((index, ROWS[index]) for index in indices[:6].tolist())
        raise OSError(28, "No space left on device")

    path = tmp_path / "clips.npy"
    with pytest.raises(OSError, match=r"No space left on device: .*clips.npy"):
        RenderedClips(path, ROWS.shape, render).ensure(np.arange(10))
    stored = RenderedClips(path, ROWS.shape, fail)
    np.testing.assert_array_equal(stored[:4], ROWS[:4])
    with pytest.raises(AssertionError, match="rendered"):
        stored.ensure(np.array([4]))


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from uap_jax.data.synthetic import rendered

rendered._SYNC_CLIPS = 1

def render(indices):
    yield 0, np.arange(4, dtype=np.int16)
    yield 1, np.zeros(4, np.int16)
    print("rendering", flush=True)
    time.sleep(60)

path = Path(sys.argv[1]) / "new" / "clips.npy"
rendered.RenderedClips(path, (10, 4), render).ensure(np.arange(10))
"""


def test_another_process_is_waited_for_and_a_killed_one_resumed(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    calls = []
    clips = clips_in(tmp_path, calls)
    waiting = threading.Thread(target=clips.ensure, args=(np.arange(10),))
    try:
        assert other.stdout.readline() == "rendering\n"
        # Reading what is there needs no lock.
        np.testing.assert_array_equal(clips_in(tmp_path, calls)[0], ROWS[0])
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    waiting.join(20)
    assert calls == [list(range(2, 10))]
    np.testing.assert_array_equal(clips[2:], ROWS[2:])


@pytest.mark.parametrize(
    ("load", "settings"),
    [
        (load_synthetic_speech, {"num_clips_per_class": 3}),
        (load_synthetic_urban, {"num_sources_per_class": 5, "num_clips_per_source": 1}),
    ],
)
def test_a_clip_does_not_depend_on_which_are_rendered_first(tmp_path, load, settings):
    whole = load(cache_dir=tmp_path / "whole", **settings)
    parts = load(cache_dir=tmp_path / "parts", **settings)
    assert parts.fingerprint == whole.fingerprint
    parts.ensure(split_clips(parts).test[::3])
    for index in np.random.default_rng(0).permutation(len(parts.clips))[:20]:
        np.testing.assert_array_equal(parts.clips[index], whole.clips[index])
