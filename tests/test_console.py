"""What launchers say, where output takes little, nothing, or no more."""

import subprocess
import sys

import pytest

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
