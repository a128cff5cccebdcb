"""A sweep that is killed at random moments, again and again."""

import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from launching import command
from sweeps import MANIFEST

NUM_KILLS = 10


@pytest.mark.slow
def test_killed_ten_times(corpus, tmp_path, write_manifest):
    path = write_manifest(MANIFEST)

    def sweep(name):
        folder = tmp_path / name
        return command(
            *("sweep", f"--manifest={path}", f"--data_dir={corpus}"),
            *(f"--cache_dir={folder}", f"--workdir={folder}"),
        )

    started = time.monotonic()
    subprocess.run(sweep("whole"), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    rng = random.Random(0)
    num_kills, names = 0, ["killed_0"]
    while num_kills < NUM_KILLS:
        with subprocess.Popen(
            sweep(names[-1]), stdout=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                assert process.wait(timeout=rng.uniform(0, 0.7 * seconds)) == 0
                # Done in spite of all; the other kills are for another one.
                names.append(f"killed_{len(names)}")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                num_kills += 1
    subprocess.run(sweep(names[-1]), check=True, stdout=subprocess.DEVNULL)
    whole = tmp_path / "whole"
    for name in names:
        disturbed = tmp_path / name
        assert (disturbed / "tables" / "quick.csv").read_bytes() == (
            whole / "tables" / "quick.csv"
        ).read_bytes()
        for folder in (whole / "trials").iterdir():
            np.testing.assert_array_equal(
                np.load(disturbed / "trials" / folder.name / "perturbation.npy"),
                np.load(folder / "perturbation.npy"),
            )
