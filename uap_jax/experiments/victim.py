"""The classifier under attack: found trained in the cache, or trained first."""

import dataclasses
from pathlib import Path
from typing import Any

from uap_jax import models
from uap_jax.data.cache import fingerprint
from uap_jax.data.dataset import Dataset, Splits
from uap_jax.experiments import artifacts
from uap_jax.experiments.config import RunConfig
from uap_jax.experiments.console import Console, UsageError, format_seconds
from uap_jax.training.loop import TrainResult, train

# Raised when the same settings give other weights.
_VERSION = 1


def prepare(
    config: RunConfig,
    dataset: Dataset,
    splits: Splits,
    *,
    cache_dir: Path,
    console: Console,
) -> tuple[models.ModelSpec, TrainResult, dict[str, Any]]:
    """Returns the model, its trained weights, and facts about the training."""
    spec = models.create(
        config.model,
        num_classes=len(dataset.class_names),
        num_samples=dataset.num_samples,
    )
    identity = fingerprint(
        _VERSION,
        config.model,
        dataset.fingerprint,
        [len(split) for split in splits],
        config.scaling,
        config.seed,
        dataclasses.asdict(config.training),
    )
    name = f"{config.model}-{config.dataset}-{config.scaling}-{identity}"
    folder = cache_dir / "models" / name
    with artifacts.locked(folder, wait=True):
        facts = artifacts.read_json(folder / "model.json")
        if facts is None:
            console.say(
                f"training {config.model} on {len(splits.train)} clips "
                f"({dataset.name}, {config.scaling}); kept in {folder}"
            )
        log = _EpochLog(folder / "epochs.jsonl", console)
        result = train(
            spec,
            dataset,
            splits,
            scaling=config.scaling,
            recipe=config.training,
            seed=config.seed,
            workdir=folder / "checkpoints",
            on_epoch=log,
        )
        if facts is None or log.num_epochs:
            facts = {
                "name": name,
                "validation_accuracy": result.validation_accuracy,
                "best_epoch": result.best_epoch,
                "num_epochs": result.num_epochs,
                "seconds": log.total_seconds(),
            }
            artifacts.write_json(folder / "model.json", facts)
        else:
            console.say(f"found {config.model} trained in {folder}")
    console.say(
        f"{config.model}: {facts['validation_accuracy']:.3f} of the validation clips "
        f"right after epoch {facts['best_epoch']} of {facts['num_epochs']}"
    )
    return spec, result, facts


class _EpochLog:
    """Keeps and shows a line for each epoch."""

    def __init__(self, path: Path, console: Console) -> None:
        self.num_epochs = 0
        self._path = path
        self._console = console

    def __call__(self, entry: Any) -> None:
        self.num_epochs += 1
        artifacts.append_line(self._path, entry)
        left = (entry["num_epochs"] - entry["epoch"]) * entry["seconds"]
        self._console.say(
            f"epoch {entry['epoch']}/{entry['num_epochs']}: loss {entry['loss']:.3f}, "
            f"validation accuracy {entry['validation_accuracy']:.3f}, "
            f"{format_seconds(entry['seconds'])}, {format_seconds(left)} left"
        )

    def total_seconds(self) -> float:
        """Returns the time of all epochs; one that was trained twice counts once."""
        lines = artifacts.read_lines(self._path)
        return sum({entry["epoch"]: entry["seconds"] for entry in lines}.values())


def class_index(
    dataset: Dataset, class_name: str | None, *, flag: str = "--target"
) -> int | None:
    """Returns the index of a class that a flag names, or None for None.

    Raises:
        UsageError: The corpus has no such class.
    """
    if class_name is None:
        return None
    if class_name not in dataset.class_names:
        names = ", ".join(dataset.class_names)
        raise UsageError(f"{flag}: expected one of {names}, got {class_name!r}")
    return dataset.class_names.index(class_name)
