"""Runs the trials of a manifest, those that are not done, and writes its table.

    python -m uap_jax.experiments.sweep --manifest=smoke

The same command goes on where it was stopped, whatever stopped it.
"""

import contextlib
import functools
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from uap_jax.console import Console, run_app
from uap_jax.errors import UsageError
from uap_jax.files import default_cache_dir
from uap_jax.sweeps import (
    executors,
    manifest,
    plan,
    ray_executor,
    shared,
    tabulate,
    trials,
)
from uap_jax.text import format_seconds

MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "The experiment: a TOML file, or the name of one of the package: "
    f"{', '.join(manifest.names())}.",
)
SCALE = flags.DEFINE_enum(
    "scale",
    "paper",
    manifest.SCALES,
    "The whole experiment, or the same path in minutes: few clips, passes and targets.",
)
DATASET = flags.DEFINE_multi_string(
    "dataset",
    [],
    "The corpus, as of `run`; for an experiment with models of speech and of scenes it "
    "may be given twice. Default: the built-in one that fits the model.",
)
DATA_DIR = flags.DEFINE_multi_string(
    "data_dir", [], "The folder of recordings; one for each corpus that has one."
)
SPLIT = flags.DEFINE_enum(
    "split", None, ("official", "paper"), "Of the corpus, as of `run`."
)
GROUP_PATTERN = flags.DEFINE_string(
    "group_pattern", None, "Of a folder of one's own, as of `run`."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where trials and tables are kept; experiments share trials there. Default: a "
    "folder in runs/ named by scale and corpus.",
)
CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Where clips, trained models and programs are kept, as of `run`."
)
EXECUTOR = flags.DEFINE_enum(
    "executor",
    "local",
    ("local", "ray"),
    "What does the work: this process, or workers on a Ray cluster.",
)
AT_ONCE = flags.DEFINE_integer(
    "at_once",
    None,
    "With --executor=local: how many attacks in one program, of trials that differ in "
    "the target and in numbers of the attack. Default: as many as fit an accelerator's "
    "memory; 1 on a processor, which is as fast so.",
    lower_bound=1,
)
RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "With --executor=ray: a running cluster. Default: one that is started here.",
)
NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "With --executor=ray: how many processes. Default: one for each GPU of the "
    "cluster; where there are none, for two processors.",
    lower_bound=1,
)
MAX_RETRIES = flags.DEFINE_integer(
    "max_retries",
    3,
    "With --executor=ray: how often a trial begins again after its worker has died.",
    lower_bound=0,
)
STRICT = flags.DEFINE_bool("strict", False, "Whether one bad recording is an error.")

# Between two writings of the table.
TABLE_EVERY_S = 30.0


def main() -> int:
    console = Console()
    if not MANIFEST.value:
        raise UsageError("--manifest: expected a file, got none")
    execute = _executor()
    declared = manifest.load(manifest.locate(MANIFEST.value), scale=SCALE.value)
    corpora = plan.pair_corpora(
        DATASET.value,
        DATA_DIR.value,
        split=SPLIT.value,
        group_pattern=GROUP_PATTERN.value,
    )
    context = shared.Context(
        workdir=Path(WORKDIR.value) if WORKDIR.value else _default_workdir(corpora),
        cache_dir=Path(CACHE_DIR.value) if CACHE_DIR.value else default_cache_dir(),
        strict=STRICT.value,
    )
    context.workdir.mkdir(parents=True, exist_ok=True)
    sources = shared.Corpora(context)
    on_ray = EXECUTOR.value == "ray"
    with ray_executor.off_devices() if on_ray else contextlib.nullcontext():
        planned = plan.make_plan(
            declared,
            corpora,
            workdir=context.workdir,
            load=lambda settings: sources.load(settings, console)[0],
        )
        for trial in planned:
            # Here a wrong corpus is one error, not one of each trial.
            if trials.read_result(trial, context.workdir) is None:
                settings = plan.settings_of(trial.request, on_accelerator=False)
                sources.load(settings, console)
    return _sweep(declared, planned, context, console, execute)


def _sweep(
    declared: manifest.Manifest,
    planned: Sequence[plan.Trial],
    context: shared.Context,
    console: Console,
    execute: executors.Executor,
) -> int:
    """Does what is not done and writes the table; returns the exit code."""

    def write_table() -> Path:
        command = "python -m uap_jax.experiments.sweep " + shlex.join(sys.argv[1:])
        return tabulate.write_tables(
            declared, planned, workdir=context.workdir, command=command
        )

    # What is wrong with the table is better known before the work than after it.
    write_table()
    failed = _do(planned, "trials", context, console, execute, write_table)
    if declared.table.kind == "transfer":
        judged = [
            transfer
            for transfer in trials.transfers(planned)
            if trials.read_result(transfer.source, context.workdir)
        ]
        what = "judgements on other models"
        failed += _do(judged, what, context, console, execute, write_table)
    for trial in planned:
        fault = trials.fault_of(trials.read_result(trial, context.workdir) or {})
        if fault:
            failed.append(_describe_failure(trial, fault, context))
    console.say(f"table: {write_table()}")
    folder = shlex.quote(str(context.workdir))
    console.say(f"report: python -m uap_jax.experiments.report --sweep={folder}")
    for line in failed:
        print(f"error: {line}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _do(
    jobs: Sequence[trials.Job],
    what: str,
    context: shared.Context,
    console: Console,
    execute: executors.Executor,
    write_table: Callable[[], Path],
) -> list[str]:
    """Does what is not done of some work; returns what failed, a line each."""
    left = {job.id: job for job in trials.pending(jobs, context.workdir)}
    num_done = len(jobs) - len(left)
    console.say(f"{len(jobs)} {what}, {num_done} done, in {context.workdir}")
    if not left:
        console.say("nothing to do")
        return []
    failed = []
    at_work: set[str] = set()
    spent: dict[str, list[float]] = defaultdict(list)
    written = time.monotonic()

    def on_start(job: trials.Job) -> None:
        at_work.add(job.id)
        console.say(f"[{num_done + len(at_work)}/{len(jobs)}] {job.label}")

    # Closed, also on Ctrl-C, before anything else is said.
    with contextlib.closing(
        execute(list(left.values()), context, console, on_start)
    ) as outcomes:
        for outcome in outcomes:
            num_done += 1
            del left[outcome.job.id]
            at_work.discard(outcome.job.id)
            which = f"{outcome.job.label}: " if at_work else ""
            if outcome.error is not None:
                failed.append(_describe_failure(outcome.job, outcome.error, context))
                console.say(f"{which}failed: {outcome.error}")
            else:
                result = trials.read_result(outcome.job, context.workdir) or {}
                # A model is trained once.
                training = result.get("seconds", {}).get("train_model", 0.0)
                spent[trials.kind_of(outcome.job)].append(outcome.seconds - training)
                console.say(f"{which}{_describe_success(outcome, result)}")
            if left and spent:
                at_once = min(len(at_work) + 1, len(left))
                seconds = trials.seconds_left(left.values(), spent) / at_once
                console.say(f"about {format_seconds(seconds)} left")
            if time.monotonic() - written > TABLE_EVERY_S:
                write_table()
                written = time.monotonic()
    return failed


def _describe_success(outcome: executors.Outcome, result: Mapping[str, Any]) -> str:
    return (
        f"done in {format_seconds(outcome.seconds)}: test ASR "
        f"{result['test']['asr']:.3f}, noise {result['control']['asr']:.3f}"
    )


def _describe_failure(job: trials.Job, error: str, context: shared.Context) -> str:
    return f"{job.label}: {error} (log: {job.folder(context.workdir) / shared.LOG})"


def _executor() -> executors.Executor:
    """Returns what the flags name."""
    if EXECUTOR.value == "local":
        return functools.partial(executors.run_local, at_once=AT_ONCE.value)
    if AT_ONCE.value is not None:
        raise UsageError(
            "--at_once: expected with --executor=local, got --executor=ray, whose "
            "workers attack one by one"
        )
    ray_executor.check_installed()
    return functools.partial(
        ray_executor.run_ray,
        address=RAY_ADDRESS.value,
        num_workers=NUM_WORKERS.value,
        max_retries=MAX_RETRIES.value,
    )


def _default_workdir(corpora: Sequence[plan.CorpusFlags]) -> Path:
    names = [
        corpus.dataset or ("default" if corpus.data_dir else "built_in")
        for corpus in corpora
    ]
    return Path("runs") / "sweeps" / "-".join([SCALE.value, *names])


if __name__ == "__main__":
    run_app(main)
