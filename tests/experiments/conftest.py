"""A finished run for what begins with one."""

import subprocess
import sys
from typing import NamedTuple

import pytest
from tones import write_tones


class Finished(NamedTuple):
    workdir: object
    corpus: object
    cache: object


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run of few passes on tones, towards "low"."""
    folder = tmp_path_factory.mktemp("finished")
    finished = Finished(folder / "run", write_tones(folder / "tones"), folder / "cache")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uap_jax.experiments.run", "--method=penalty"),
            *("--model=spchcmd", "--scaling=peak", "--target=low", "--seed=3"),
            *("--num_attack_clips=20", "--set=max_passes=2"),
            *("--set=training.num_clips_seen=300", "--set=training.batch_size=10"),
            *(f"--workdir={finished.workdir}", f"--cache_dir={finished.cache}"),
            f"--data_dir={finished.corpus}",
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return finished
