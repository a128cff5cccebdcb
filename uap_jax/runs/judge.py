"""From a perturbation to its files, its numbers on test clips, and its report."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import attacks, checkpoints, files
from uap_jax.audio.box import from_box, to_box
from uap_jax.audio.files import read_audio, write_wav
from uap_jax.data.dataset import Dataset, Splits, to_waveform
from uap_jax.errors import UsageError
from uap_jax.evaluation import (
    Evaluation,
    evaluate_perturbation,
    select,
    summarize,
    waveform_gain,
)
from uap_jax.models import Classifier
from uap_jax.reporting import Example
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console

NUM_EXAMPLES = 3


def store_perturbation(perturbation: attacks.Perturbation, workdir: Path) -> np.ndarray:
    """Writes perturbation.npy, perturbation.wav and the Orbax form.

    Returns:
        `[N]` the single sound as it reads back from its file.
    """
    checkpoints.save_perturbation(
        workdir / "checkpoints" / "perturbation", perturbation
    )
    files.write_array(workdir / "perturbation.npy", np.asarray(perturbation.value))
    rate = perturbation.sample_rate_hz
    if rate is None:
        raise ValueError("perturbation: expected one with a sample rate, got None")
    sound = np.asarray(attacks.perturbation_waveform(perturbation))
    write_wav(workdir / "perturbation.wav", sound, sample_rate_hz=rate)
    return read_audio(workdir / "perturbation.wav", sample_rate_hz=rate)


def evaluate(
    config: RunConfig,
    classifier: Classifier,
    dataset: Dataset,
    splits: Splits,
    perturbation: attacks.Perturbation,
    sound: np.ndarray,
    *,
    gain: float,
    target: int | None,
    key: jax.Array,
    console: Console,
) -> tuple[Evaluation, dict[str, Any]]:
    """Returns the values of every test clip, and their summary for result.json."""
    evaluation = evaluate_perturbation(
        classifier.logits,
        classifier.variables,
        dataset,
        splits.test,
        perturbation,
        scaling=config.scaling,
        sound=sound,
        gain=gain,
        key=key,
        progress=console.progress,
    )
    summary = summarize(evaluation, target=target)
    summary["test"]["waveform_gain"] = gain
    return evaluation, summary


def gain(config: RunConfig, dataset: Dataset, splits: Splits) -> float:
    """Returns the `waveform_gain` of a run, for which all training clips are read."""
    return waveform_gain(dataset, splits.train, scaling=config.scaling)


def choose_test_clips(config: RunConfig, dataset: Dataset, splits: Splits) -> Splits:
    """Returns the splits with as many test clips as a run wants, in their order.

    Each class has its share of them, but for rounding.
    """
    wanted = config.num_test_clips
    if wanted is None or wanted >= len(splits.test):
        return splits
    rng = np.random.default_rng([config.seed, 2])
    shuffled = rng.permutation(splits.test)
    labels = dataset.labels[shuffled]
    # The clips of a class spread evenly over [0, 1]: every part of it has their share.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = labels == label
        place[own] = (np.arange(np.sum(own)) + rng.random()) / np.sum(own)
    chosen = shuffled[np.argsort(place)[:wanted]]
    return splits._replace(test=np.sort(chosen))


def per_class(
    evaluation: Evaluation, class_names: tuple[str, ...], *, target: int | None
) -> list[dict[str, Any]]:
    """Returns a row of numbers for each class that has test clips."""
    rows = []
    for index, name in enumerate(class_names):
        chosen = evaluation.labels == index
        if not np.any(chosen):
            continue
        summary = summarize(select(evaluation, chosen), target=target)
        rows.append(
            {
                "class_name": name,
                "num_clips": summary["test"]["num_clips"],
                "clean_accuracy": summary["clean_accuracy"],
                "asr": summary["test"]["asr"],
                "accuracy_perturbed": summary["test"]["accuracy_perturbed"],
                "control_asr": summary["control"]["asr"],
            }
        )
    return rows


def write_outcomes(
    evaluation: Evaluation, splits: Splits, workdir: Path, *, target: int | None
) -> None:
    """Writes test_clips.npz: which clips, by their index, the perturbation fooled.

    What compares two perturbations on the same clips needs it clip by clip.
    """
    changed = evaluation.perturbed != evaluation.clean
    success = changed if target is None else evaluation.perturbed == target
    files.write_arrays(
        workdir / "test_clips.npz",
        index=np.asarray(splits.test, np.int64),
        success=success,
    )


def learned_bank(variables: Any, *, sample_rate_hz: int) -> dict[str, np.ndarray]:
    """Returns the fields of `ReportData` on a sinc layer, none if there is none."""
    if "sinc" not in variables["params"]:
        return {}
    from uap_jax.models import sinc

    edges = np.asarray(sinc.band_edges_hz(variables, sample_rate_hz=sample_rate_hz))
    initial = sinc.initial_band_edges_hz(len(edges), sample_rate_hz=sample_rate_hz)
    return {"bank_edges_hz": edges, "initial_bank_edges_hz": np.asarray(initial)}


def write_examples(
    dataset: Dataset,
    splits: Splits,
    evaluation: Evaluation,
    perturbation: attacks.Perturbation,
    folder: Path,
    *,
    scaling: str,
    target: int | None,
) -> list[Example]:
    """Writes clean and perturbed WAVs of some test clips, at their own level.

    The clips are the first audible ones of classes spread over the list, whatever the
    attack does to them. What is said of each is in examples.json.
    """
    folder.mkdir(exist_ok=True)
    examples: list[Example] = []
    described = []
    for place in _choose_examples(evaluation, target):
        clip = int(splits.test[place])
        clean = to_waveform(dataset.clips[clip])
        x, box_scale = to_box(jnp.asarray(clean), scaling=scaling)
        perturbed = from_box(attacks.apply_perturbation(perturbation, x), box_scale)
        example = Example(
            name=str(dataset.names[clip]),
            true_class=dataset.class_names[evaluation.labels[place]],
            clean_prediction=dataset.class_names[evaluation.clean[place]],
            perturbed_prediction=dataset.class_names[evaluation.perturbed[place]],
            clean=clean,
            perturbed=np.clip(np.asarray(perturbed, np.float32), -1.0, 1.0),
            snr_db=float(evaluation.snr_db[place]),
            snr_ac_db=float(evaluation.snr_ac_db[place]),
            relative_loudness_db=float(evaluation.relative_loudness_db[place]),
        )
        entry = dict(vars(example))
        for kind in ("clean", "perturbed"):
            name = f"{len(examples) + 1}_{example.true_class}_{kind}.wav"
            write_wav(folder / name, entry[kind], sample_rate_hz=dataset.sample_rate_hz)
            entry[kind] = name
        examples.append(example)
        described.append(entry)
    files.write_json(folder / "examples.json", {"examples": described})
    return examples


def attack_clips(
    config: RunConfig, dataset: Dataset, splits: Splits
) -> tuple[jax.Array, jax.Array]:
    """Returns clips of the training split in the box, chosen at random, and labels.

    Raises:
        UsageError: The training split has no clip of the class asked for.
    """
    rng = np.random.default_rng([config.seed, 1])
    candidates = splits.train
    if config.attack_class is not None:
        label = dataset.class_names.index(config.attack_class)
        candidates = candidates[dataset.labels[candidates] == label]
        if not len(candidates):
            raise UsageError(
                f"--attack_class: expected a class with training clips, "
                f"got {config.attack_class!r}"
            )
    num_clips = min(config.num_attack_clips, len(candidates))
    chosen = np.sort(rng.choice(candidates, num_clips, replace=False))
    x, _ = to_box(
        jnp.asarray(to_waveform(dataset.clips[chosen])), scaling=config.scaling
    )
    return x, jnp.asarray(dataset.labels[chosen], jnp.int32)


def with_source(
    result: attacks.AttackResult, config: RunConfig, dataset: Dataset
) -> attacks.Perturbation:
    """Returns the perturbation with what an attack on arrays cannot know."""
    return dataclasses.replace(
        result.perturbation,
        scaling=config.scaling,
        sample_rate_hz=dataset.sample_rate_hz,
    )


def _choose_examples(evaluation: Evaluation, target: int | None) -> list[int]:
    audible = ~np.isnan(evaluation.snr_ac_db)
    present = [c for c in np.unique(evaluation.labels[audible]) if c != target]
    count = min(NUM_EXAMPLES, len(present))
    spread = [present[(2 * i + 1) * len(present) // (2 * count)] for i in range(count)]
    return [int(np.flatnonzero(audible & (evaluation.labels == c))[0]) for c in spread]
