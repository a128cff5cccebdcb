"""What a run has before its attack: clips, a trained model, a folder of its own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uap_jax import files
from uap_jax.data import corpora
from uap_jax.data.dataset import Dataset, Splits, leaked_share, split_clips
from uap_jax.data.folder import describe_folder
from uap_jax.data.tfsr import describe_tfsr
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.models import Classifier
from uap_jax.runs import config, custom_models, environment, victim
from uap_jax.runs.attack import Task
from uap_jax.runs.console import Console


class Start(NamedTuple):
    """What a run has before its attack."""

    settings: config.RunConfig
    workdir: Path
    console: Console
    dataset: Dataset
    splits: Splits
    target: int | None
    classifier: Classifier
    facts: dict[str, Any]  # about the model's training
    train_seconds: float

    @property
    def keys(self) -> tuple[jax.Array, jax.Array]:
        """Random keys of the attack and of its judgement."""
        attack_key, judge_key = jax.random.split(jax.random.key(self.settings.seed))
        return attack_key, judge_key

    @property
    def task(self) -> Task:
        """The attack."""
        key, _ = self.keys
        return Task(self.settings, self.target, key, self.workdir, self.console)


def begin(
    settings: config.RunConfig,
    *,
    command: str,
    workdir: Path,
    cache_dir: Path,
    strict: bool,
    console: Console,
    load: Callable[..., tuple[Dataset, Splits]] | None = None,
    prepare: Callable[..., Any] = victim.prepare,
) -> Start:
    """Loads what the attack of a run needs; trains the model if it is not there.

    Args:
        settings: Of the run; those of an earlier start, see `config.continue_with`.
        command: Goes into config.json.
        workdir: Held by the caller, see `files.locked`.
        cache_dir: Where clips, models and compiled programs are kept.
        strict: Whether one bad recording is an error.
        console: Told how it goes, here and later.
        load: As `load_corpus`, which is the default; for who keeps what is loaded.
        prepare: As `victim.prepare`.
    """
    described = config.as_json(settings) | {"command": command}
    files.write_json(workdir / "config.json", described)
    environment.cache_compilations(cache_dir / "compiled")
    dataset, splits = (load or load_corpus)(settings, cache_dir, strict, console)
    target = victim.class_index(dataset, settings.target)
    victim.class_index(dataset, settings.attack_class, flag="--attack_class")
    started = time.perf_counter()
    with user_mistakes():
        classifier, facts = prepare(
            settings, dataset, splits, cache_dir=cache_dir, console=console
        )
    if settings.own_model is not None:
        custom_models.check_gradient(classifier, settings.model)
    return Start(
        settings,
        workdir,
        console,
        dataset,
        splits,
        target,
        classifier,
        facts,
        time.perf_counter() - started,
    )


def begin_attack(start: Start, *, num_clips: int) -> None:
    """Says what the attack is; keeps it from going on with other clips or weights.

    Args:
        start: From `begin`.
        num_clips: Of `judge.attack_clips`.

    Raises:
        UsageError: Its folder holds another one.
    """
    settings = start.settings
    goal = f'"{settings.target}"' if settings.target else "any wrong class"
    of = f' of "{settings.attack_class}"' if settings.attack_class else ""
    start.console.say(
        f"{settings.method} attack on {num_clips} clips{of}, towards {goal}"
    )
    _check_same_problem(
        start.workdir,
        {"corpus": start.dataset.fingerprint, "model": start.facts["name"]},
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
    own = settings.own_model
    if own is not None:
        dataset = custom_models.match_classes(
            dataset, own["num_classes"], own["class_names"]
        )
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


def _check_same_problem(workdir: Path, problem: dict[str, str]) -> None:
    """Keeps a checkpoint from going on with other clips or another model."""
    path = workdir / "checkpoints" / "problem.json"
    stored = files.read_json(path)
    if stored is not None and stored != problem:
        raise UsageError(
            f"{workdir}: holds an attack on other clips or another model "
            f"({stored}, now {problem}); delete it or name another --workdir"
        )
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, problem)
