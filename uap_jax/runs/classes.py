"""Classes of a corpus as those of a classifier, and what a detector is to hear."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from uap_jax.audio.box import to_box
from uap_jax.bridges.deployed import DEPLOYED
from uap_jax.data.dataset import Dataset, to_waveform
from uap_jax.errors import UsageError
from uap_jax.evaluation.success import BLOCK_SIZE, predict_in_parts
from uap_jax.models import Classifier
from uap_jax.models.detectors import detected
from uap_jax.runs.config import RunConfig


def class_index(
    class_names: tuple[str, ...], class_name: str | None, *, flag: str = "--target"
) -> int | None:
    """Returns the index of a class that a flag names, or None for None.

    Raises:
        UsageError: There is no such class.
    """
    if class_name is None:
        return None
    if class_name not in class_names:
        raise UsageError(
            f"{flag}: expected one of {', '.join(class_names)}, got {class_name!r}"
        )
    return class_names.index(class_name)


def match_classes(config: RunConfig, dataset: Dataset) -> Dataset:
    """Returns a corpus with the classes of a run's classifier.

    Raises:
        UsageError: See `match`.
    """
    names, indices = match(config, dataset.class_names)
    if indices == list(range(len(names))) and names == dataset.class_names:
        return dataset
    labels = np.asarray(indices, np.int32)[dataset.labels]
    return dataclasses.replace(dataset, labels=labels, class_names=names)


def match(
    config: RunConfig, names: tuple[str, ...]
) -> tuple[tuple[str, ...], list[int]]:
    """Returns a classifier's classes, and which of them each class of the corpus is.

    By name. Of a detector's two classes it is LABEL for the classes that `present`
    names; by default for the class LABEL, or for all but those that the card of a
    deployed one calls absent.

    Args:
        config: Resolved.
        names: Classes of the corpus.

    Raises:
        UsageError: The corpus has classes that the classifier does not know, or, where
            the classifier names none, another number of them; or it is not known which
            of them a detector is to hear.
    """
    own = config.own_model or {"num_classes": None, "class_names": None}
    known, num_classes = own["class_names"], own["num_classes"]
    if label := detected(known):
        return tuple(known), _states(config, names, label)
    if config.present is not None:
        raise UsageError(f"--present: {config.model} is no detector")
    if known is None:
        if num_classes not in (None, len(names)):
            raise UsageError(
                f"--model: expected a corpus of {num_classes} classes, got "
                f"{config.dataset} of {len(names)}: {', '.join(names)}"
            )
        if len(names) < 2:
            raise UsageError(
                f"--data_dir: expected at least 2 classes in {config.data_dir}, got "
                f"only {names[0]!r}"
            )
        known = names
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"--model: expected a corpus of classes among {', '.join(known)}, "
            f"got {config.dataset} with {', '.join(unknown)}"
        )
    return tuple(known), [known.index(name) for name in names]


def _states(config: RunConfig, names: Sequence[str], label: str) -> list[int]:
    """Returns 1 for classes of a corpus that hold what is detected, 0 for others."""
    card = DEPLOYED.get(config.model)
    if config.present is not None:
        present = {name.strip() for name in config.present.split(",")}
        if unknown := present.difference(names):
            raise UsageError(
                f"--present: expected classes among {', '.join(names)}, got "
                f"{', '.join(sorted(unknown))}"
            )
    elif set(names) <= {f"no {label}", label} or label in names:
        present = {label}
    elif card is not None and card.absent:
        present = set(names).difference(card.absent)
    else:
        raise UsageError(
            f"--present: expected the classes that hold {label!r}, some of "
            f"{', '.join(names)}"
        )
    return [int(name in present) for name in names]


def clips_to_change(
    classifier: Classifier,
    dataset: Dataset,
    candidates: np.ndarray,
    target: int,
    *,
    scaling: str,
    count: int,
) -> np.ndarray:
    """Returns the first clips that a detector does not answer as wanted already.

    Args:
        classifier: The detector.
        dataset: The corpus, in its classes.
        candidates: Indices of clips, in the order in which they are tried.
        target: The wanted state.
        scaling: Scaling of waveforms to the box.
        count: The number of clips wanted.

    Returns:
        Their indices, ascending; as many as there are, at most `count`.
    """
    chosen = np.zeros(0, candidates.dtype)
    for start in range(0, len(candidates), BLOCK_SIZE):
        block = candidates[start : start + BLOCK_SIZE]
        dataset.ensure(block)
        waveform = np.zeros((BLOCK_SIZE, dataset.num_samples), np.float32)
        waveform[: len(block)] = to_waveform(dataset.clips[block])
        states = predict_in_parts(
            classifier.logits,
            classifier.variables,
            to_box(jnp.asarray(waveform), scaling=scaling)[0],
            jnp.asarray(len(block), jnp.int32),
        )
        others = np.asarray(states)[: len(block)] == 1 - target
        chosen = np.concatenate([chosen, block[others]])[:count]
        if len(chosen) == count:
            break
    return np.sort(chosen)
