"""Carries out jobs, a group at a time; results are in files."""

import contextlib
import dataclasses
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from uap_jax import checkpoints, files
from uap_jax.console import Console
from uap_jax.errors import user_mistakes
from uap_jax.evaluation.transfer import evaluate_transfer
from uap_jax.files import fingerprint, flatten
from uap_jax.runs import store, victim
from uap_jax.runs.channels.settings import placed_perturbation
from uap_jax.runs.channels.table import asks_for_table
from uap_jax.runs.corpus import choose_test_clips, class_index, load_corpus, sound_gain
from uap_jax.runs.resolve import resolve
from uap_jax.runs.run import LOG, run
from uap_jax.sweeps.corpora import Context
from uap_jax.sweeps.trials import Job, Transfer, Trial, read_result

# The last fault of a job, in one line; absent where there is none.
ERROR = "error.txt"
# Results come when all attacks of a group are done, and its folders are locked so long.
MAX_GROUP = 32


class Outcome(NamedTuple):
    """The end of a job; `error` is None if it is finished."""

    job: Job
    error: str | None
    seconds: float


# Called with a job when it begins.
StartFn = Callable[[Job], None]
Executor = Callable[
    [Sequence[Job], Context, Console, StartFn], Generator[Outcome, None, None]
]


def run_local(
    jobs: Sequence[Job],
    context: Context,
    console: Console,
    on_start: StartFn,
    *,
    at_once: int | None = 1,
) -> Generator[Outcome, None, None]:
    """Carries out jobs in this process, group by group; `at_once` as in `grouped`.

    Jobs in use by another process come last, and are waited for.
    """
    if at_once is None and (jax.default_backend() == "cpu" or jax.device_count() > 1):
        at_once = 1
    queue = deque((group, False) for group in grouped(jobs, at_once=at_once))
    while queue:
        group, wait = queue.popleft()
        for job in group:
            on_start(job)
        outcomes = run_group(group, context, console, at_once=at_once, wait=wait)
        for job, outcome in zip(group, outcomes, strict=True):
            if outcome is None:
                queue.append(([job], True))
            else:
                yield outcome


def grouped(jobs: Sequence[Job], *, at_once: int | None) -> list[list[Job]]:
    """Returns jobs in groups that can run in one program, in the order of first jobs.

    `at_once` is the number of attacks in one program; with 1 every job is a group. None
    is what fits the memory.
    """
    if at_once == 1:
        return [[job] for job in jobs]
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        key = _program_of(job) if isinstance(job, Trial) else job.id
        alike.setdefault(key, []).append(job)
    return [
        group[first : first + MAX_GROUP]
        for group in alike.values()
        for first in range(0, len(group), MAX_GROUP)
    ]


def run_group(
    group: Sequence[Job],
    context: Context,
    console: Console,
    *,
    at_once: int | None = 1,
    wait: bool = False,
) -> list[Outcome | None]:
    """Carries out or resumes one group of `grouped`.

    `console` shows the progress; other lines go to each job's log. `wait`: whether to
    wait for other processes that use a folder.

    Returns:
        An outcome for each job; None if another process uses its folder.
    """
    started = time.perf_counter()
    folders = [job.folder(context.workdir) for job in group]
    logs = [open_log(job, context, console) for job in group]
    # Here, since sizes follow the machine that does the work.
    resolved = [
        resolve(job.config) for job in group if isinstance(job, Trial) and job.config
    ]
    # Of many runs only those that ask for a table of channels have one.
    configs = [
        dataclasses.replace(config, channel_table=bool(asks_for_table(config)))
        for config in resolved
    ]
    results: list[Any]
    if configs:
        if len(configs) > 1:
            console.say(f"{len(configs)} attacks together")
        results = run(
            configs,
            folders,
            cache_dir=context.cache_dir,
            consoles=logs,
            strict=context.strict,
            width=at_once,
            wait=wait,
        )
    else:
        results = [
            _evaluate_transfer(job, folder, context, log, wait)
            for job, folder, log in zip(group, folders, logs, strict=True)
            if isinstance(job, Transfer)
        ]
    seconds = (time.perf_counter() - started) / len(group)
    outcomes: list[Outcome | None] = []
    for job, result, log in zip(group, results, logs, strict=True):
        if isinstance(result, files.InUseError):
            outcomes.append(None)
            continue
        failed = isinstance(result, Exception)
        error = explain(job, result, context, log) if failed else None
        outcomes.append(Outcome(job, error, seconds))
    return outcomes


def open_log(job: Job, context: Context, outer: Console) -> Console:
    """Returns a console whose lines go to the log of a job that begins."""
    folder = job.folder(context.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    if read_result(job, context.workdir) is None:
        # An incomplete one, of a machine that stopped while it wrote, counts as none.
        (folder / "result.json").unlink(missing_ok=True)
    log = Console(outer)
    log.log_to(folder / LOG)
    log.log(f"process {os.getpid()} on {platform.node()}")
    return log


def explain(job: Job, error: Exception, context: Context, log: Console) -> str:
    """Writes a fault to a job's log and error.txt; returns it in one line."""
    line = log.fault(error)
    with contextlib.suppress(OSError):  # A full disk may be the fault itself.
        files.write_bytes(job.folder(context.workdir) / ERROR, line.encode())
    return line


def _program_of(trial: Trial) -> str:
    """Returns a hash of what the trials of a group have in common."""
    flat = flatten(trial.settings)
    same = {
        # Only floats are arguments of a compiled attack.
        key: "number"
        if key.startswith("attack.") and isinstance(value, float)
        else value
        for key, value in flat.items()
        if key not in ("target", "preset", "variant")
    }
    return fingerprint(same, flat["target"] is None)


def _evaluate_transfer(
    transfer: Transfer, folder: Path, context: Context, log: Console, wait: bool
) -> Exception | None:
    """Evaluates a perturbation on another model; writes result.json."""
    source = transfer.source
    options: dict[str, Any] = {"cache_dir": context.cache_dir, "console": log}
    try:
        with files.locked(folder, wait=wait), user_mistakes():
            if read_result(transfer, context.workdir) is not None:
                return None
            assert transfer.victim.config is not None
            config = resolve(transfer.victim.config)
            corpus = load_corpus(config, strict=context.strict, **options)
            prepared = victim.prepare(config, corpus, **options)
            stored = checkpoints.load_perturbation(
                source.folder(context.workdir) / store.PERTURBATION
            )
            # A sound shorter than a clip lies in it as it did in the attack.
            assert source.config is not None
            in_clip = placed_perturbation(stored, resolve(source.config))
            evaluated = evaluate_transfer(
                prepared.classifier.logits,
                prepared.classifier.variables,
                corpus.dataset,
                choose_test_clips(config, corpus),
                in_clip,
                scaling=config.scaling,
                gain=sound_gain(config, corpus),
                target=class_index(
                    corpus.dataset.class_names, source.settings["target"]
                ),
                key=jax.random.fold_in(jax.random.key(config.seed), 1),
                progress=log.progress,
            )
            files.write_json(
                folder / "result.json",
                {
                    "source": source.id,
                    "source_model": source.settings["model"],
                    "model": config.model,
                    "victim": prepared.facts,
                    **evaluated,
                },
            )
    except Exception as error:
        return error
    return None
