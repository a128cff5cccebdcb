"""What launchers say, where output takes little, nothing, or no more."""

import logging
import os
import subprocess
import sys
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
