"""One run from the corpus to the report; what `run` starts."""

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uap_jax import attacks, files
from uap_jax.attacks import types
from uap_jax.files import default_cache_dir
from uap_jax.reporting import ReportData, write_report
from uap_jax.runs import config, custom_models, environment, judge
from uap_jax.runs.attack import run_attack
from uap_jax.runs.beginning import Start, begin, begin_attack
from uap_jax.runs.console import Console
from uap_jax.runs.front import judge_front
from uap_jax.runs.outcome import report_result
from uap_jax.runs.submission import write_submissions


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for; None where nothing was said. See `config.RunConfig`."""

    method: str
    model: str
    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    group_pattern: str | None = None
    scaling: str | None = None
    target: str | None = None
    num_attack_clips: int | None = None
    num_test_clips: int | None = None
    attack_class: str | None = None
    seed: int = 0
    preset: str = "default"
    overrides: tuple[str, ...] = ()


def run(
    request: Request,
    *,
    workdir: Path | None = None,
    cache_dir: Path | None = None,
    strict: bool = False,
) -> int:
    """Carries out a run, or goes on with it; returns the exit code.

    Raises:
        UsageError: What was asked for can not be done.
        OSError: A folder can not be written.
    """
    console = Console()
    clock = environment.CompileClock()
    settings = config.resolve(
        **dataclasses.asdict(request), on_accelerator=jax.default_backend() != "cpu"
    )
    workdir = workdir or Path("runs") / settings.run_name
    cache_dir = cache_dir or default_cache_dir()
    with files.locked(workdir, wait=False):
        finished = files.read_json(workdir / "result.json")
        stored = files.read_json(workdir / "config.json")
        # Settings bind from the first work on; a mistyped class is no work.
        if stored is not None and (finished or (workdir / "checkpoints").exists()):
            settings = config.continue_with(settings, stored, request.overrides)
        if finished is not None:
            console.say("this run is finished; delete its folder to run it again")
            return report_result(finished, workdir, console)
        start = begin(
            settings,
            command="python -m uap_jax.experiments.run " + shlex.join(sys.argv[1:]),
            workdir=workdir,
            cache_dir=cache_dir,
            strict=strict,
            console=console,
        )
        is_own = settings.own_model is not None
        naming = custom_models.naming_faults(settings.model)
        with naming if is_own else contextlib.nullcontext():
            result = carry_out(start, strict=strict, clock=clock)
        return report_result(result, workdir, console)


def carry_out(
    start: Start,
    *,
    strict: bool,
    clock: environment.CompileClock,
    gain: Callable[..., float] = judge.gain,
) -> dict[str, Any]:
    """Carries out a run that is not finished, or goes on with it.

    Args:
        start: From `begin`.
        strict: Whether one bad recording is an error.
        clock: Adds up the time of compiling.
        gain: As `judge.gain`.

    Returns:
        The content of result.json.
    """
    settings, workdir, console = start.settings, start.workdir, start.console
    dataset, splits, target = start.dataset, start.splits, start.target
    classifier = start.classifier
    x, labels = judge.attack_clips(settings, dataset, splits)
    begin_attack(start, num_clips=len(labels))
    found = run_attack(
        settings,
        classifier,
        x,
        labels,
        target=target,
        key=start.keys[0],
        workdir=workdir,
        console=console,
    )
    del x
    started = time.perf_counter()
    perturbation = judge.with_source(found, settings, dataset)
    sound = judge.store_perturbation(perturbation, workdir)
    splits = judge.choose_test_clips(settings, dataset, splits)
    evaluation, summary = judge.evaluate(
        settings,
        classifier,
        dataset,
        splits,
        perturbation,
        sound,
        gain=gain(settings, dataset, splits),
        target=target,
        key=start.keys[1],
        console=console,
    )
    unlabelled = write_submissions(
        settings,
        classifier,
        dataset,
        perturbation,
        workdir,
        target=target,
        strict=strict,
        console=console,
    )
    judge.write_outcomes(evaluation, splits, workdir, target=target)
    front = judge_front(
        found.front,
        perturbation,
        workdir,
        judge=lambda point, its_sound: judge.evaluate(
            settings,
            classifier,
            dataset,
            splits,
            point,
            its_sound,
            gain=gain(settings, dataset, splits),
            target=target,
            key=start.keys[1],
            console=console,
        )[1],
    )
    examples = judge.write_examples(
        dataset,
        splits,
        evaluation,
        perturbation,
        workdir / "examples",
        scaling=settings.scaling,
        target=target,
    )
    passes = files.read_lines(workdir / "metrics.jsonl")
    bank = {}
    if settings.own_model is None:
        bank = judge.learned_bank(
            classifier.variables, sample_rate_hz=settings.sample_rate_hz
        )
    result = {
        "method": settings.method,
        "model": settings.model,
        "dataset": dataset.name,
        "scaling": settings.scaling,
        "target": settings.target,
        "attack_class": settings.attack_class,
        "seed": settings.seed,
        "clean_accuracy": summary["clean_accuracy"],
        "converged": bool(found.converged),
        "stop_reason": types.STOP_REASONS[int(found.stop_reason)],
        "num_passes": int(found.num_passes),
        "train": {"asr": float(found.train_asr), "num_clips": len(labels)},
        "test": summary["test"],
        "control": summary["control"],
        **({"front": front} if front else {}),
        **({"unlabelled": unlabelled} if unlabelled else {}),
        "victim": start.facts,
        "seconds": {
            "train_model": start.train_seconds,
            "attack": sum(entry["seconds"] or 0.0 for entry in passes),
            "evaluate": time.perf_counter() - started,
            "compile": clock.seconds,
        },
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
    result = files.finite(result)
    write_report(
        workdir / "report.html",
        ReportData(
            config=files.read_json(workdir / "config.json") or {},
            result=result,
            passes=passes,
            perturbation=np.asarray(attacks.perturbation_waveform(perturbation)),
            sample_rate_hz=dataset.sample_rate_hz,
            examples=examples,
            per_class=judge.per_class(evaluation, dataset.class_names, target=target),
            **bank,
        ),
    )
    # Last: it says that the run is finished.
    files.write_json(workdir / "result.json", result)
    return result
