"""Launchers, as users start them."""

import contextlib
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import pytest
from absl import flags
from absl import logging as absl_logging

from uap_jax import console

# A network of few steps, which hears most tones right.
VICTIM = (
    *("--model=spchcmd", "--scaling=peak", "--seed=3", "--num_attack_clips=20"),
    *("--set=training.num_clips_seen=300", "--set=training.batch_size=10"),
    *("--set=training.peak_learning_rate=0.003", "--nochannel_table"),
)
QUICK = (
    *("--method=penalty", *VICTIM, "--target=low"),
    *("--set=max_passes=3", "--set=target_asr=1.0", "--set=learning_rate=0.0005"),
)


class Done(NamedTuple):
    """What is left of a launcher that has ended."""

    returncode: object
    stdout: str
    stderr: str


def command(launcher, *arguments):
    return [sys.executable, "-m", f"uap_jax.experiments.{launcher}", *arguments]


def launch(launcher, *arguments):
    """Runs a launcher in a process of its own."""
    done = subprocess.run(
        command(launcher, *arguments),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def launch_here(launcher, *arguments):
    """Runs a launcher in this process, without the seconds that one takes to start.

    JAX is set up for tests here, so that numbers are not those of other processes.
    """
    out, err = io.StringIO(), io.StringIO()
    verbosity = absl_logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [launcher, *arguments])
        patch.setattr(threading, "excepthook", threading.excepthook)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(console, "_records", console._Records())
        patch.setattr(logging.getLogger(), "handlers", [])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            with pytest.raises(SystemExit) as end:
                runpy.run_module(f"uap_jax.experiments.{launcher}", run_name="__main__")
        finally:
            absl_logging.set_verbosity(verbosity)
            logging.captureWarnings(False)
            # Launchers have flags of the same names.
            for flag in list(flags.FLAGS.flags_by_module_dict()[launcher]):
                delattr(flags.FLAGS, flag.name)
    return Done(end.value.code, out.getvalue(), err.getvalue())


def kill_at(marker, launcher, *arguments, delay_s=0.0):
    """Starts a launcher and kills it when it says a line with the marker."""
    with subprocess.Popen(
        command(launcher, *arguments),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        seen = any(marker in line for line in process.stdout)
        time.sleep(delay_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert seen, f"{launcher} ended without {marker!r}"
