"""Strict JAX settings for every test, short compilations, and what launchers share."""

import importlib.metadata
import os
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from launching import QUICK, launch
from tones import write_tones

from uap_jax import files

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)

# Most of the suite's time is compiling, which XLA's older code generator, without
# optimizing, does in some 40 % of the time. Launchers in their own processes train
# networks, where a little optimizing pays. Only for this version, as an unknown flag
# ends the process; `XLA_FLAGS= pytest` runs the suite as users run JAX.
OLDER_GENERATOR = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level"
OF_LAUNCHERS = f"{OLDER_GENERATOR}=1"
if (
    importlib.metadata.version("jaxlib").startswith("0.10.")
    and os.environ.get("XLA_FLAGS", OF_LAUNCHERS) == OF_LAUNCHERS
):
    os.environ["XLA_FLAGS"] = f"{OLDER_GENERATOR}=0"
    # Flags are read once, with the first program.
    jax.jit(lambda: 0)()
    os.environ["XLA_FLAGS"] = OF_LAUNCHERS


def pytest_collection_modifyitems(items):
    """Puts the longest tests first, so that processes end at about the same time."""
    items.sort(key=lambda item: item.path.parent.name not in ("runs", "sweeps"))


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


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
