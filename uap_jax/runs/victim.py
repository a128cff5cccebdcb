"""The classifier under attack: given, found trained in the cache, or trained first."""

import contextlib
import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from uap_jax import files, models
from uap_jax.audio.box import to_box
from uap_jax.bridges.checks import check_outputs
from uap_jax.data.dataset import Dataset, Splits, to_waveform
from uap_jax.errors import UsageError
from uap_jax.files import fingerprint
from uap_jax.runs import custom_models
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console
from uap_jax.text import format_seconds
from uap_jax.training.loop import evaluate_accuracy, train

# Raised when the same settings give other weights.
_VERSION = 1

# Clips whose logits are looked at.
NUM_CHECKED = 32


def prepare(
    config: RunConfig,
    dataset: Dataset,
    splits: Splits,
    *,
    cache_dir: Path,
    console: Console,
) -> tuple[models.Classifier, dict[str, Any]]:
    """Returns the trained classifier and facts about its training.

    Raises:
        ValueError: Model and corpus do not fit, or a model gives no logits.
        UsageError: A custom model cannot be loaded.
        FloatingPointError: The loss of the training became non-finite.
    """
    if config.own_model is not None:
        return _given(config, dataset, splits, console)
    architecture = models.create(
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
    with _held(folder, console):
        facts = files.read_json(folder / "model.json")
        if facts is None:
            console.say(
                f"training {config.model} on {len(splits.train)} clips "
                f"({dataset.name}, {config.scaling}); kept in {folder}"
            )
        log = _EpochLog(folder / "epochs.jsonl", console)
        result = train(
            architecture,
            dataset,
            splits,
            scaling=config.scaling,
            recipe=config.training,
            seed=config.seed,
            workdir=folder / "checkpoints",
            on_epoch=log,
        )
        found = {
            "name": name,
            "validation_accuracy": result.validation_accuracy,
            "best_epoch": result.best_epoch,
            "num_epochs": result.num_epochs,
        }
        # The file may be damaged.
        if facts is None or log.num_epochs or facts | found != facts:
            facts = found | {"seconds": log.total_seconds()}
            files.write_json(folder / "model.json", facts)
        else:
            console.say(f"found {config.model} trained in {folder}")
    console.say(
        f"{config.model}: {facts['validation_accuracy']:.3f} of the validation clips "
        f"right after epoch {facts['best_epoch']} of {facts['num_epochs']}"
    )
    return architecture.classifier(result.variables, dataset.class_names), facts


def _given(
    config: RunConfig, dataset: Dataset, splits: Splits, console: Console
) -> tuple[models.Classifier, dict[str, Any]]:
    """Returns a custom classifier after checking its outputs."""
    loaded = custom_models.load(config.model)
    if loaded is None or loaded[1] != config.own_model:
        raise UsageError(f"--model: {config.model} changed since the run started")
    classifier, facts = loaded
    num_classes = facts["num_classes"]
    some = to_waveform(dataset.clips[splits.validation[:NUM_CHECKED]])
    x, _ = to_box(jnp.asarray(some), scaling=config.scaling)
    check_outputs(
        np.asarray(classifier.logits(classifier.variables, x)),
        name=config.model,
        shape=(len(some), num_classes),
    )
    accuracy = evaluate_accuracy(
        classifier.logits,
        classifier.variables,
        dataset,
        splits.validation,
        scaling=config.scaling,
    )
    console.say(
        f"{config.model} is given trained: {num_classes} classes, clips of "
        f"{classifier.num_samples} samples at {classifier.sample_rate_hz} Hz; "
        f"{accuracy:.3f} of the validation clips right"
    )
    if accuracy * num_classes < 1.5:
        console.say(
            "that is little better than chance: are the classes in the order "
            f"{', '.join(dataset.class_names)}, and is the input what it takes?"
        )
    return classifier, {
        "name": facts["name"],
        "training": "given",
        "fingerprint": facts["fingerprint"],
        "validation_accuracy": accuracy,
    }


@contextlib.contextmanager
def _held(folder: Path, console: Console) -> Generator[None, None, None]:
    """Holds the folder of a model; of several processes one trains it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder, wait=False))
        except files.InUseError:
            console.say(f"another process trains or reads the model in {folder}: waits")
            stack.enter_context(files.locked(folder, wait=True))
        yield


class _EpochLog:
    """Keeps and shows a line for each epoch."""

    def __init__(self, path: Path, console: Console) -> None:
        self.num_epochs = 0
        self._path = path
        self._console = console

    def __call__(self, entry: Any) -> None:
        self.num_epochs += 1
        files.append_line(self._path, entry)
        left = (entry["num_epochs"] - entry["epoch"]) * entry["seconds"]
        self._console.say(
            f"epoch {entry['epoch']}/{entry['num_epochs']}: loss {entry['loss']:.3f}, "
            f"validation accuracy {entry['validation_accuracy']:.3f}, "
            f"{format_seconds(entry['seconds'])}, {format_seconds(left)} left"
        )

    def total_seconds(self) -> float:
        """Returns the time of all epochs; one that was trained twice counts once."""
        lines = files.read_lines(self._path)
        seconds = {str(entry.get("epoch")): entry.get("seconds") for entry in lines}
        return sum(each for each in seconds.values() if isinstance(each, float | int))


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
