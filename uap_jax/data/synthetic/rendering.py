"""Renders the clips of a plan, in this process or in several."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uap_jax.data.cache import name_full_disk
from uap_jax.data.dataset import ProgressFn
from uap_jax.data.synthetic import espeak as _espeak
from uap_jax.data.synthetic.recording import (
    NUM_SAMPLES,
    SAMPLE_RATE_HZ,
    Conditions,
    record_silence,
    record_word,
)

_LONGEST_WORD_S = 0.92
_MAX_WORKERS = 8


class Speaker(NamedTuple):
    """A voice of espeak-ng and how it speaks."""

    accent: str
    variant: str
    rate_wpm: float
    pitch: float
    pitch_range: float


class Utterance(NamedTuple):
    """One word, which becomes one clip."""

    row: int  # among the clips
    seed_key: tuple[int, ...]
    word: str


class Job(NamedTuple):
    """What one freshly loaded synthesizer says, in this order."""

    split: str
    speaker: Speaker | None  # None is silence
    utterances: list[Utterance]


class Task(NamedTuple):
    """Everything that the clips depend on."""

    jobs: list[Job]
    babble: dict[str, np.ndarray]
    conditions: Conditions
    seed: int


def render(
    task: Task,
    *,
    num_clips: int,
    num_workers: int,
    scratch_dir: Path | None,
    progress: ProgressFn | None,
) -> np.ndarray:
    """Returns the clips of all jobs, `[num_clips, N]` int16, whoever renders them.

    Raises:
        RuntimeError: A voice said nothing, or a worker failed.
        OSError: The clips of the workers cannot be written.
    """

    def report(done: int) -> None:
        if progress is not None:
            progress("synthetic speech", done, num_clips)

    report(0)
    done = 0
    if num_workers == 1:
        clips = np.empty((num_clips, NUM_SAMPLES), np.int16)
        for job in task.jobs:
            clips[[utterance.row for utterance in job.utterances]] = _render_job(
                job, task
            )
            done += len(job.utterances)
            report(done)
        return clips
    with tempfile.TemporaryDirectory(prefix="workers-", dir=scratch_dir) as name:
        folder = Path(name)
        with name_full_disk(folder / "task.pickle"):
            (folder / "task.pickle").write_bytes(pickle.dumps(task))
        (folder / "clips.raw").touch()
        for num_more in _run_workers(folder, num_workers):
            done += num_more
            report(done)
        clips = np.fromfile(folder / "clips.raw", np.int16)
    return clips.reshape(num_clips, NUM_SAMPLES)


def _run_workers(folder: Path, num_workers: int) -> Iterator[int]:
    """Runs the jobs in processes; yields the number of clips of each job done.

    multiprocessing would import the caller's main module again in each of them, JAX
    included, and fail in a script without a main guard.
    """
    code = "from uap_jax.data.synthetic.rendering import work; work()"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    read_end, write_end = os.pipe()
    processes = []
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(read_end))
        with open(write_end, "wb") as output:
            for index in range(num_workers):
                errors = stack.enter_context(open(folder / f"errors_{index}", "wb"))
                arguments = [folder, str(index), str(num_workers)]
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", code, *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=errors,
                        env=environment,
                    )
                )
                stack.callback(processes[-1].wait)
                stack.callback(processes[-1].kill)
        for line in lines:
            report = json.loads(line)
            if isinstance(report, list):
                raise OSError(*report)
            yield report
        for index, process in enumerate(processes):
            if process.wait():
                text = (folder / f"errors_{index}").read_text(errors="replace")
                reason = text.strip().rpartition("\n")[2]
                raise RuntimeError(f"synthetic speech: a worker failed: {reason}")


def work() -> None:
    """What a worker process does: every so many-th job, one line out for each.

    A line is the number of clips, or what to raise as an OSError: on a full disk the
    file of the worker's errors would stay empty.
    """
    folder, index, num_workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        _work(folder, index, num_workers)
    except OSError as error:
        if error.errno is not None:
            file_name = os.fsdecode(error.filename or folder / "clips.raw")
            sys.stdout.write(
                json.dumps([error.errno, error.strerror, file_name]) + "\n"
            )
            sys.stdout.flush()
        raise


def _work(folder: Path, index: int, num_workers: int) -> None:
    task: Task = pickle.loads((folder / "task.pickle").read_bytes())
    path = folder / "clips.raw"
    # Written, not mapped: on a full disk a write raises and a mapped page kills.
    with name_full_disk(path), open(path, "r+b") as file:
        for job in task.jobs[index::num_workers]:
            for utterance, clip in zip(
                job.utterances, _render_job(job, task), strict=True
            ):
                file.seek(utterance.row * clip.nbytes)
                file.write(clip.tobytes())
            file.flush()
            sys.stdout.write(f"{len(job.utterances)}\n")
            sys.stdout.flush()


def _render_job(job: Job, task: Task) -> list[np.ndarray]:
    """Returns the clips of a job, each `[N]` int16."""
    babble = task.babble[job.split]
    rngs = [np.random.default_rng(utterance.seed_key) for utterance in job.utterances]
    if job.speaker is None:
        return [record_silence(rng, babble, task.conditions) for rng in rngs]
    clips = []
    with _espeak.fresh_synthesizer() as speak:
        for utterance, rng in zip(job.utterances, rngs, strict=True):
            word = _espeak.say_word(
                speak,
                utterance.word,
                accent=job.speaker.accent,
                variant=job.speaker.variant,
                rate_wpm=job.speaker.rate_wpm
                * rng.uniform(*task.conditions.rate_change),
                pitch=job.speaker.pitch + rng.uniform(*task.conditions.pitch_change),
                pitch_range=job.speaker.pitch_range,
                longest_s=_LONGEST_WORD_S,
                sample_rate_hz=SAMPLE_RATE_HZ,
            )
            clips.append(record_word(word[:NUM_SAMPLES], rng, babble, task.conditions))
    return clips


def default_num_workers() -> int:
    """Returns the number of workers to take by default."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)
    return min(os.cpu_count() or 1, _MAX_WORKERS)
