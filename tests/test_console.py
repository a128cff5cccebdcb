"""What launchers say, where output takes little, nothing, or no more."""

import contextlib
import logging
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from uap_jax import console
from uap_jax.audio.files import AudioFileError

# It says more than a pipe holds.
LAUNCHER = """
from uap_jax.console import Console, run_app

def main():
    console = Console()
    for _ in range(3000):
        console.say("the class \\u00f1and\\u00fa " + 50 * "x")
    return 0

run_app(main)
"""


@pytest.mark.parametrize(
    ("redirected", "said", "code"),
    [
        ('PYTHONIOENCODING=ascii "$@" | tail -n 1', r"the class \xf1and\xfa", 0),
        ('PYTHONIOENCODING=utf-8 "$@" | tail -n 1', "the class ñandú", 0),
        ('PYTHONIOENCODING=utf-8 "$@" | head -n 1', "the class ñandú", 141),
        ('"$@" >&-', "", 0),
        ('"$@" >&- 2>&-', "", 0),
    ],
)
def test_ends_well_whatever_output_takes(redirected, said, code):
    script = f"{redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", LAUNCHER],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(said) and done.stdout.count("\n") <= 1


WORKING = """
import time
from uap_jax import terminal
from uap_jax.console import Console, run_app

def main():
    console = Console()
    terminal.PLAIN_EVERY_S = 0.2
    for done in range(10):
        console.progress("rendering", done, 10)
        if done == 5:
            console.say("a line that stays")
        time.sleep(0.1)
    console.progress("rendering", 10, 10)
    console.progress("downloading", 10**6, 10**7, in_bytes=True)
    console.say("the end")
    console.progress("counting", 1, 3)
    return 0

run_app(main)
"""


def output_on_terminal(**settings) -> str:
    end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING], stdout=terminal, stderr=terminal, env=settings
    )
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # Where the other end is closed.
        while piece := os.read(end, 4096):
            output += piece
    os.close(end)
    assert process.wait() == 0
    return output.decode().replace("\r\n", "\n")


ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}


@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_shows_a_bar_that_leaves_nothing(settings):
    output = output_on_terminal(**ENVIRONMENT, TERM="xterm", **settings)
    drawn = re.split("[\r\n]", output)
    assert any(re.fullmatch(r"rendering \|█.* 3/10, 00:0\d left", s) for s in drawn)
    assert any(s.startswith("downloading |") and "1.00M/10.0MB" in s for s in drawn)
    assert max(map(len, drawn)) < 80 and "\x1b" not in output
    # As a terminal leaves it: what follows a return replaces what is before it.
    left = [re.sub(r".*\r(?=.)", "", line).strip() for line in output.split("\n")]
    assert left == ["a line that stays", "the end", ""]


@pytest.mark.parametrize("is_pipe", [True, False])
def test_elsewhere_progress_is_a_plain_line_now_and_then(is_pipe):
    if is_pipe:
        done = subprocess.run(
            [sys.executable, "-c", WORKING],
            capture_output=True,
            encoding="utf-8",
            env=ENVIRONMENT | {"TERM": "xterm"},
            check=True,
        )
        assert done.stderr == ""
        lines = done.stdout.splitlines()
    else:
        lines = output_on_terminal(**ENVIRONMENT, TERM="dumb").splitlines()
    said = [line for line in lines if not line.startswith("rendering ")]
    assert said == ["a line that stays", "the end"]
    assert 2 <= len(lines) - len(said) <= 5
    for line in lines:
        assert line in said or re.fullmatch(r"rendering \d/10, 00:0\d left", line)


def test_names_that_are_not_utf8_are_said_and_logged(tmp_path, capsys):
    outer = console.Console()
    job = console.Console(outer)  # As a trial of a sweep has it.
    job.log_to(tmp_path / "log.txt")
    job.announce("skipped a/\udcff.wav: is empty")
    line = job.fault(AudioFileError(Path("a/\udcff.wav"), "is empty"))
    assert line.endswith("a/\ufffd.wav: is empty")
    assert capsys.readouterr().out == "skipped a/\ufffd.wav: is empty\n"
    logged = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert r"skipped a/\udcff.wav: is empty" in logged


# Numba caches where a package is, if it can write there, or in the user's home.
DRAWING = """
from uap_jax.console import run_app

def main():
    import librosa
    from numba.core import caching
    kept = [c for c in caching.CacheImpl._locator_classes if "InTree" not in str(c)]
    caching.CacheImpl._locator_classes = kept
    from uap_jax.reporting import plots
    assert librosa.filters.mel(sr=16_000, n_fft=512, n_mels=8).shape == (8, 257)
    passes = [{"pass": 1, "asr": 0.1}, {"pass": 2, "asr": 0.2}]
    print(len(plots.pass_curves(passes)))
    return 0

run_app(main)
"""


@pytest.mark.slow
def test_draws_without_a_home_and_with_the_settings_of_a_notebook(tmp_path):
    settings = {
        "HOME": "/proc/none",
        "MPLBACKEND": "of-a-notebook",
        "TMPDIR": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", DRAWING],
        capture_output=True,
        encoding="utf-8",
        env=settings,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_the_package_are_said_and_those_of_libraries_logged(capsys):
    records = console._Records()
    for name in ("uap_jax", "jax"):
        records.handle(
            logging.makeLogRecord({"name": name, "levelno": 30, "msg": name})
        )
    assert capsys.readouterr() == ("", "warning: uap_jax\n")
