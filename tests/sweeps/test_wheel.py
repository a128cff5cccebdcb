"""The installed package is complete: manifests, published numbers, victims, pages."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from launching import command
from sweeps import finish, plan_built_in

from uap_jax.sweeps import manifest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_sweep_and_report_from_a_wheel(tmp_path):
    source, package, empty = (
        tmp_path / name for name in ("source", "package", "empty")
    )
    empty.mkdir()
    # A copy, since building writes beside the sources.
    names = ("pyproject.toml", "README.md", "LICENSE", "uap_jax")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *names], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *(f"--wheel-dir={tmp_path}", str(source)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(package)
    assert len(list((package / "uap_jax/training/victims").glob("*.npz"))) == 5
    workdir = empty / "w"
    for trial in plan_built_in(manifest.locate("table_2"), workdir, scale="smoke"):
        finish(trial, workdir)
    for arguments in (
        ("sweep", "--manifest=table_2", "--scale=smoke", f"--workdir={workdir}"),
        ("report", f"--sweep={workdir}"),
    ):
        done = subprocess.run(
            command(*arguments),
            cwd=empty,
            env=os.environ | {"PYTHONPATH": str(package)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    # The paper's number beside ours.
    assert "0.850" in (workdir / "tables" / "table_2.md").read_text()
    assert "0.850" in (workdir / "report.html").read_text()
