"""Carries out the jobs of an experiment that are not done, and writes its table."""

import contextlib
import functools
import itertools
import shlex
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from uap_jax.console import Console
from uap_jax.evaluation import describe_controls, non_finite_logits
from uap_jax.runs import store
from uap_jax.runs.run import LOG
from uap_jax.sweeps import trials
from uap_jax.sweeps.corpora import Context
from uap_jax.sweeps.execute import Executor
from uap_jax.sweeps.manifest import Manifest
from uap_jax.sweeps.tables import build
from uap_jax.sweeps.trials import Job, Trial, read_result
from uap_jax.text import format_seconds

# Between two writings of the table.
TABLE_EVERY_S = 30.0


def sweep(
    declared: Manifest,
    planned: Sequence[Trial],
    context: Context,
    console: Console,
    execute: Executor,
    *,
    command: str,
) -> list[str]:
    """Carries out what is not finished and writes the table, which shows `command`.

    `execute` is `run_local` or `ray_executor.run_ray`.

    Returns:
        A line for each job that failed.

    Raises:
        UsageError: The table cannot be as it is declared.
    """

    write_table = functools.partial(
        build.write_tables, declared, planned, workdir=context.workdir, command=command
    )
    trials.load_corpora(planned, context, console)
    # A mistake in the table is better known before the work than after it.
    write_table()
    failed = _carry_out(planned, "trials", context, console, execute, write_table)
    if declared.table.kind == "transfer":
        jobs = [
            transfer
            for transfer in trials.transfers(planned)
            if read_result(transfer.source, context.workdir)
        ]
        what = "evaluations on other models"
        failed += _carry_out(jobs, what, context, console, execute, write_table)
    for trial in planned:
        result = read_result(trial, context.workdir)
        if result and (fault := store.fault_of(result)):
            failed.append(_describe_failure(trial, fault, context))
        if result and (line := non_finite_logits(result)):
            console.say(f"{trial.label}: {line}")
    write_table()
    console.say(f"table: {context.workdir / 'tables' / declared.name}.md")
    folder = shlex.quote(str(context.workdir))
    console.say(f"report: python -m uap_jax.experiments.report --sweep={folder}")
    return failed


def _carry_out(
    jobs: Sequence[Job],
    what: str,
    context: Context,
    console: Console,
    execute: Executor,
    write_table: Callable[[], object],
) -> list[str]:
    """Carries out the jobs that are not done; returns a line for each failure."""
    left = {job.id: job for job in trials.pending(jobs, context.workdir)}
    num_done = len(jobs) - len(left)
    console.say(f"{len(jobs)} {what}, {num_done} done, in {context.workdir}")
    if not left:
        console.say("nothing to do")
        return []
    failed = []
    running: set[str] = set()
    spent: dict[str, list[float]] = defaultdict(list)
    written = time.monotonic()

    def on_start(job: Job) -> None:
        running.add(job.id)
        console.say(f"[{num_done + len(running)}/{len(jobs)}] {job.label}")

    # Closed before anything else is said, also on Ctrl-C.
    with contextlib.closing(
        execute(list(left.values()), context, console, on_start)
    ) as outcomes:
        for job, error, seconds in outcomes:
            num_done += 1
            del left[job.id]
            running.discard(job.id)
            which = f"{job.label}: " if running else ""
            if error is not None:
                failed.append(_describe_failure(job, error, context))
                console.say(f"{which}failed: {error}")
            else:
                result = read_result(job, context.workdir) or {}
                # A model is trained once.
                training = result.get("seconds", {}).get("train_model", 0.0)
                spent[_work_of(job)].append(seconds - training)
                console.say(
                    f"{which}done in {format_seconds(seconds)}: test ASR "
                    f"{result['test']['asr']:.3f}, "
                    f"{describe_controls(result['control'])}"
                )
            if left and spent:
                at_once = min(len(running) + 1, len(left))
                remaining = seconds_left(left.values(), spent) / at_once
                console.say(f"about {format_seconds(remaining)} left")
            if time.monotonic() - written > TABLE_EVERY_S:
                write_table()
                written = time.monotonic()
    return failed


def seconds_left(left: Iterable[Job], spent: Mapping[str, Sequence[float]]) -> float:
    """Estimates how long jobs take from the seconds of finished ones like them."""
    overall = statistics.fmean(itertools.chain(*spent.values()))
    return sum(statistics.fmean(spent.get(_work_of(job), [overall])) for job in left)


def _work_of(job: Job) -> str:
    """Returns what the time of a job mostly depends on."""
    if isinstance(job, Trial):
        return f"{job.settings['method']} {job.settings['model']}"
    return f"on {job.victim.settings['model']}"


def _describe_failure(job: Job, error: str, context: Context) -> str:
    return f"{job.label}: {error} (log: {job.folder(context.workdir) / LOG})"
