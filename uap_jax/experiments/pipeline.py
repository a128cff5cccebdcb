"""One run from the corpus to the report; what `run` starts."""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uap_jax import attacks
from uap_jax.attacks import types
from uap_jax.data import corpora
from uap_jax.data.cache import default_cache_dir
from uap_jax.data.dataset import Dataset, Splits, leaked_share, split_clips
from uap_jax.data.folder import describe_folder
from uap_jax.data.tfsr import describe_tfsr
from uap_jax.experiments import (
    artifacts,
    config,
    environment,
    judge,
    own_models,
    victim,
)
from uap_jax.experiments.attack import run_attack
from uap_jax.experiments.console import Console, UsageError, user_mistakes
from uap_jax.experiments.front import judge_front
from uap_jax.experiments.outcome import report_result
from uap_jax.experiments.submission import write_submissions
from uap_jax.reporting import ReportData, write_report


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
    with artifacts.locked(workdir, wait=False):
        finished = artifacts.read_json(workdir / "result.json")
        stored = artifacts.read_json(workdir / "config.json")
        # Settings bind from the first work on; a mistyped class is no work.
        if stored is not None and (finished or (workdir / "checkpoints").exists()):
            settings = config.continue_with(settings, stored, request.overrides)
        if finished is not None:
            console.say("this run is finished; delete its folder to run it again")
            return report_result(finished, workdir, console)
        result = carry_out(
            settings,
            command="python -m uap_jax.experiments.run " + shlex.join(sys.argv[1:]),
            workdir=workdir,
            cache_dir=cache_dir,
            strict=strict,
            console=console,
            clock=clock,
        )
        return report_result(result, workdir, console)


def carry_out(
    settings: config.RunConfig,
    *,
    command: str,
    workdir: Path,
    cache_dir: Path,
    strict: bool,
    console: Console,
    clock: environment.CompileClock,
    load: Callable[..., tuple[Dataset, Splits]] | None = None,
    prepare: Callable[..., Any] = victim.prepare,
    gain: Callable[..., float] = judge.gain,
) -> dict[str, Any]:
    """Carries out a run that is not finished, or goes on with it.

    Args:
        settings: Of the run; those of an earlier start, see `config.continue_with`.
        command: Goes into config.json.
        workdir: Held by the caller, see `artifacts.locked`.
        cache_dir: Where clips, models and compiled programs are kept.
        strict: Whether one bad recording is an error.
        console: Told how it goes.
        clock: Adds up the time of compiling.
        load: As `load_corpus`, which is the default; for who keeps what is loaded.
        prepare: As `victim.prepare`.
        gain: As `judge.gain`.

    Returns:
        The content of result.json.
    """
    described = config.as_json(settings) | {"command": command}
    artifacts.write_json(workdir / "config.json", described)
    environment.cache_compilations(cache_dir / "compiled")
    dataset, splits = (load or load_corpus)(settings, cache_dir, strict, console)
    target = victim.class_index(dataset, settings.target)
    victim.class_index(dataset, settings.attack_class, flag="--attack_class")
    return _attack_and_judge(
        settings,
        dataset,
        splits,
        target,
        workdir,
        cache_dir,
        console,
        clock,
        prepare,
        gain,
        strict,
    )


def load_corpus(
    settings: config.RunConfig, cache_dir: Path, strict: bool, console: Console
) -> tuple[Dataset, Splits]:
    """Returns the clips, prepared if they are not in the cache, and their splits."""
    if settings.data_dir is None:
        console.say(
            f"no --data_dir: using the built-in corpus {settings.dataset}, "
            "not real recordings"
        )
    # A worker that renders or decodes can fail as a whole.
    with user_mistakes(ImportError, RuntimeError):
        for line in _describe(settings, console):
            console.say(line)
        dataset = corpora.load(
            settings.dataset,
            data_dir=Path(settings.data_dir) if settings.data_dir else None,
            cache_dir=cache_dir / "corpora",
            sample_rate_hz=settings.sample_rate_hz,
            num_samples=settings.num_samples,
            split=settings.split,
            group_pattern=settings.group_pattern,
            strict=strict,
            progress=console.progress,
        )
        splits = split_clips(dataset)
    dataset = own_models.with_classes(dataset, settings.own_model)
    for line in dataset.skipped[:10]:
        console.say(f"skipped {line}")
    if len(dataset.skipped) > 10:
        console.say(f"skipped {len(dataset.skipped)} recordings in all")
    speakers = [len(np.unique(dataset.groups[split])) for split in splits]
    parts = ", ".join(
        f"{name} {len(split)} of {count} groups"
        for name, split, count in zip(splits._fields, splits, speakers, strict=True)
    )
    console.say(f"{dataset.name}: {len(dataset.class_names)} classes; clips: {parts}")
    leaked = leaked_share(dataset, splits)
    if leaked:
        console.say(
            f"{leaked:.0%} of the test clips share a source recording with training "
            "clips: accuracies and success rates are flattered"
        )
    return dataset, splits


def _describe(settings: config.RunConfig, console: Console) -> list[str]:
    """Returns what a folder holds that should be known before anything long begins."""
    if settings.dataset == "tfsr" and settings.data_dir is not None:
        return [describe_tfsr(settings.data_dir)]
    if settings.dataset != "folder" or settings.data_dir is None:
        return []
    return describe_folder(
        settings.data_dir,
        sample_rate_hz=settings.sample_rate_hz,
        num_samples=settings.num_samples,
        group_pattern=settings.group_pattern,
        progress=console.progress,
    )


def _attack_and_judge(
    settings: config.RunConfig,
    dataset: Dataset,
    splits: Splits,
    target: int | None,
    workdir: Path,
    cache_dir: Path,
    console: Console,
    clock: environment.CompileClock,
    prepare: Callable[..., Any],
    gain: Callable[..., float],
    strict: bool,
) -> dict[str, Any]:
    started = time.perf_counter()
    with user_mistakes():
        spec, trained, facts = prepare(
            settings, dataset, splits, cache_dir=cache_dir, console=console
        )
    if settings.own_model is not None:
        own_models.check_gradient(spec, trained.variables)
    train_seconds = time.perf_counter() - started
    attack_key, judge_key = jax.random.split(jax.random.key(settings.seed))
    x, labels = judge.attack_clips(settings, dataset, splits)
    goal = f'"{settings.target}"' if settings.target else "any wrong class"
    of = f' of "{settings.attack_class}"' if settings.attack_class else ""
    console.say(f"{settings.method} attack on {len(labels)} clips{of}, towards {goal}")
    _check_same_problem(
        workdir, {"corpus": dataset.fingerprint, "model": facts["name"]}
    )
    found = run_attack(
        settings,
        spec,
        trained.variables,
        x,
        labels,
        target=target,
        key=attack_key,
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
        spec,
        trained.variables,
        dataset,
        splits,
        perturbation,
        sound,
        gain=gain(settings, dataset, splits),
        target=target,
        key=judge_key,
        console=console,
    )
    unlabelled = write_submissions(
        settings,
        spec,
        trained.variables,
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
            spec,
            trained.variables,
            dataset,
            splits,
            point,
            its_sound,
            gain=gain(settings, dataset, splits),
            target=target,
            key=judge_key,
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
    passes = artifacts.read_lines(workdir / "metrics.jsonl")
    has_bank = settings.own_model is None
    bank = judge.learned_bank(spec, trained.variables) if has_bank else {}
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
        "victim": facts,
        "seconds": {
            "train_model": train_seconds,
            "attack": sum(entry["seconds"] or 0.0 for entry in passes),
            "evaluate": time.perf_counter() - started,
            "compile": clock.seconds,
        },
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
    result = artifacts.finite(result)
    write_report(
        workdir / "report.html",
        ReportData(
            config=artifacts.read_json(workdir / "config.json") or {},
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
    artifacts.write_json(workdir / "result.json", result)
    return result


def _check_same_problem(workdir: Path, problem: dict[str, str]) -> None:
    """Keeps a checkpoint from going on with other clips or another model."""
    path = workdir / "checkpoints" / "problem.json"
    stored = artifacts.read_json(path)
    if stored is not None and stored != problem:
        raise UsageError(
            f"{workdir}: holds an attack on other clips or another model "
            f"({stored}, now {problem}); delete it or name another --workdir"
        )
    path.parent.mkdir(exist_ok=True)
    artifacts.write_json(path, problem)
