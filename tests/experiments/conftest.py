"""What tests of launchers share, also those in other processes: made once a session."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from launching import QUICK, launch
from tones import write_tones

from uap_jax import files


class Finished(NamedTuple):
    """A run that nothing disturbed."""

    workdir: Path
    corpus: Path
    cache: Path
    stdout: str


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of all processes of this session."""
    folder = tmp_path_factory.getbasetemp()
    # That of a process of pytest-xdist is in that of the session.
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shared"


@pytest.fixture(scope="session")
def corpus(shared):
    """Tones as words; for reading only, as all that is shared."""
    with files.locked(shared / "corpus", wait=True):
        folder = shared / "corpus" / "tones"
        if not folder.exists():
            write_tones(folder.with_name("half")).rename(folder)
    return folder


@pytest.fixture(scope="session")
def cache(shared):
    """The prepared corpus, the trained model and programs; launchers lock them."""
    return shared / "cache"


@pytest.fixture(scope="session")
def finished_run(shared, corpus, cache):
    """A run of few passes on tones, towards "low"."""
    workdir, said = shared / "finished" / "run", shared / "finished" / "said.txt"
    with files.locked(said.parent, wait=True):
        if not said.exists():
            folders = (f"--data_dir={corpus}", f"--cache_dir={cache}")
            done = launch("run", *QUICK, *folders, f"--workdir={workdir}")
            assert (done.returncode, done.stderr) == (0, "")
            said.write_text(done.stdout)
    return Finished(workdir, corpus, cache, said.read_text())


@pytest.fixture
def write_manifest(tmp_path):
    """Writes a manifest, under another name if it is given one."""

    def write(text, name="quick"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace('name = "quick"', f'name = "{name}"'))
        return path

    return write
