"""A stored perturbation judged again: on any model and any corpus."""

import time
from pathlib import Path
from typing import Any

import jax

from uap_jax import checkpoints, files
from uap_jax.attacks import Perturbation
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.runs import beginning, environment, judge, victim
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console
from uap_jax.runs.outcome import say_test
from uap_jax.runs.stored import (
    PERTURBATION,
    StoredRun,
    read_run,
    read_sound,
    settings_of,
)
from uap_jax.text import format_seconds


def evaluate(
    folder: Path,
    *,
    model: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    group_pattern: str | None = None,
    seed: int | None = None,
    workdir: Path | None = None,
    cache_dir: Path,
    strict: bool = False,
) -> int:
    """Judges a perturbation on test clips; returns the exit code.

    The model is trained first if it is not in the cache. With nothing but the folder
    given, what is written as "test" and "control" is what the run found.

    Args:
        folder: See `stored.read_run`.
        model, dataset, data_dir, split, group_pattern, seed: See `stored.settings_of`.
            The seed is of the model's training, of noise and of shifts, as for a run.
        workdir: Where evaluation.json goes; None: evaluations/<model> in the run's
            work directory, where <model> names a training.
        cache_dir: Where clips, models and compiled programs are kept.
        strict: Whether one bad recording is an error.

    Raises:
        UsageError: What was asked for can not be done.
        OSError: A folder can not be written.
    """
    console = Console()
    started = time.perf_counter()
    run = read_run(folder)
    settings = settings_of(
        run,
        model=model,
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        group_pattern=group_pattern,
        seed=seed,
    )
    with user_mistakes():
        perturbation = checkpoints.load_perturbation(run.workdir / PERTURBATION)
    _check_fit(perturbation, settings)
    environment.cache_compilations(cache_dir / "compiled")
    clips, splits = beginning.load_corpus(settings, cache_dir, strict, console)
    target = victim.class_index(
        clips, settings.target, flag="--perturbation: its target"
    )
    with user_mistakes():
        classifier, facts = victim.prepare(
            settings, clips, splits, cache_dir=cache_dir, console=console
        )
    # As a run does, where the other key is the attack's.
    _, key = jax.random.split(jax.random.key(settings.seed))
    splits = judge.choose_test_clips(settings, clips, splits)
    _, summary = judge.evaluate(
        settings,
        classifier,
        clips,
        splits,
        perturbation,
        read_sound(run),
        gain=judge.gain(settings, clips, splits),
        target=target,
        key=key,
        console=console,
    )
    workdir = workdir or run.workdir / "evaluations" / facts["name"]
    workdir.mkdir(parents=True, exist_ok=True)
    evaluation = {
        "perturbation": str(run.workdir),
        "model": settings.model,
        "dataset": clips.name,
        "data_dir": settings.data_dir,
        "split": settings.split,
        "group_pattern": settings.group_pattern,
        "scaling": settings.scaling,
        "target": settings.target,
        "seed": settings.seed,
        **summary,
        "victim": facts,
        "seconds": time.perf_counter() - started,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
    files.write_json(workdir / "evaluation.json", evaluation)
    _say(files.finite(evaluation), run, workdir, console)
    return 0


def _check_fit(perturbation: Perturbation, settings: RunConfig) -> None:
    """Refuses a perturbation that the model's clips have no place for."""
    expected = (settings.num_samples, settings.sample_rate_hz)
    found = (len(perturbation.value), perturbation.sample_rate_hz)
    if found != expected:
        raise UsageError(
            f"--perturbation: expected {expected[0]} samples at {expected[1]} Hz, as "
            f"{settings.model} takes, got {found[0]} at {found[1]} Hz"
        )


def _say(
    evaluation: dict[str, Any], run: StoredRun, workdir: Path, console: Console
) -> None:
    """Says what was found, in the words of a run."""
    console.say(
        f"clean accuracy {evaluation['clean_accuracy']:.3f}; the run's own test ASR "
        f"{run.result['test']['asr']:.3f}"
    )
    say_test(evaluation, console)
    console.say(f"time: {format_seconds(evaluation['seconds'])}")
    console.say(f"{workdir / 'evaluation.json'}")
