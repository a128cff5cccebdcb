"""What does the work of a sweep. An executor takes pieces of work and yields what
became of each, in any order; results are in files.
"""

import contextlib
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from uap_jax import files
from uap_jax.console import Console
from uap_jax.errors import UsageError
from uap_jax.sweeps import groups
from uap_jax.sweeps.plan import Trial, settings_of
from uap_jax.sweeps.shared import ERROR, LOG, Context, Shared, open_log
from uap_jax.sweeps.trials import Job, Transfer, read_result


class Outcome(NamedTuple):
    """What became of a piece of work."""

    job: Job
    error: str | None  # None: it is done
    seconds: float


# Called with a piece of work when it begins.
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
    """Does the work in this process, one piece after the other.

    What another process is at comes last, and is waited for. With `at_once`, as of
    `groups.grouped`, the attacks of alike trials are made together before the first.
    """
    shared = Shared(context)
    queue = [(group, False) for group in groups.grouped(jobs, at_once=at_once)]
    for group, wait in queue:
        seconds = groups.attack_together(group, context, shared, console, at_once)
        for job in group:
            on_start(job)
            outcome = attempt(job, context, shared, console, wait=wait)
            if outcome is None:
                queue.append(([job], True))
            else:
                more = seconds.get(job.id, 0.0)
                yield outcome._replace(seconds=outcome.seconds + more)


def attempt(
    job: Job, context: Context, shared: Shared, console: Console, *, wait: bool
) -> Outcome | None:
    """As `run_job`, but returns what became of it; None if another process is at it."""
    started = time.perf_counter()
    try:
        run_job(job, context, shared, console, wait=wait)
    except files.InUseError:
        return None
    except Exception as error:
        line = explain(job, error, context)
        return Outcome(job, line, time.perf_counter() - started)
    return Outcome(job, None, time.perf_counter() - started)


def run_job(
    job: Job, context: Context, shared: Shared, console: Console, *, wait: bool
) -> None:
    """Does one piece of work, or goes on with it; what it says goes to its log.

    Args:
        job: The piece.
        context: Of the sweep.
        shared: Of this process.
        console: Shows how far it is.
        wait: Whether to wait for another process that is at it.

    Raises:
        InUseError: Another process is at it, and `wait` is False.
        Exception: Whatever went wrong.
    """
    folder = job.folder(context.workdir)
    with files.locked(folder, wait=wait):
        if read_result(job, context.workdir) is not None:
            return
        log = open_log(folder, console)
        if isinstance(job, Trial):
            _run_trial(job, folder, context, shared, log)
        else:
            _run_transfer(job, folder, context, shared, log)


def _run_trial(
    trial: Trial, folder: Path, context: Context, shared: Shared, console: Console
) -> None:
    from uap_jax.runs import pipeline

    shared.clock.seconds = shared.compile_seconds.pop(trial.id, 0.0)
    pipeline.carry_out(
        shared.begin(trial, folder, console),
        strict=context.strict,
        clock=shared.clock,
        gain=shared.gain,
    )


def _run_transfer(
    transfer: Transfer, folder: Path, context: Context, shared: Shared, console: Console
) -> None:
    import jax

    from uap_jax import checkpoints
    from uap_jax.errors import user_mistakes
    from uap_jax.evaluation.transfer import evaluate_transfer
    from uap_jax.runs import environment, judge, victim

    environment.cache_compilations(context.cache_dir / "compiled")
    settings = settings_of(transfer.victim.request, on_accelerator=False)
    dataset, splits = shared.corpora.load(settings, console)
    classifier, facts = shared.prepare_victim(
        settings, dataset, splits, cache_dir=context.cache_dir, console=console
    )
    made = transfer.source.folder(context.workdir) / "checkpoints" / "perturbation"
    with user_mistakes():
        judged = evaluate_transfer(
            classifier.logits,
            classifier.variables,
            dataset,
            judge.choose_test_clips(settings, dataset, splits).test,
            checkpoints.load_perturbation(made),
            scaling=settings.scaling,
            gain=shared.gain(settings, dataset, splits),
            target=victim.class_index(dataset, transfer.source.config["target"]),
            key=jax.random.fold_in(jax.random.key(settings.seed), 1),
            progress=console.progress,
        )
    result = {
        "source": transfer.source.id,
        "source_model": transfer.source.config["model"],
        "model": settings.model,
        "victim": facts,
        **judged,
    }
    files.write_json(folder / "result.json", result)


def explain(job: Job, error: Exception, context: Context) -> str:
    """Returns what went wrong, in one line; the whole of it goes to the log."""
    line = " ".join(str(error).split())[:300]
    if not isinstance(error, UsageError) or not line:
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    with contextlib.suppress(OSError):
        folder = job.folder(context.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a") as file:
            file.write("".join(traceback.format_exception(error)))
        files.write_bytes(folder / ERROR, line.encode())
    return line
