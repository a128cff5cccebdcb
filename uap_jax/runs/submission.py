"""What a model hears in clips without labels, clean and perturbed."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import files
from uap_jax.attacks import LogitsFn, Perturbation, apply_perturbation
from uap_jax.audio.box import to_box
from uap_jax.audio.files import AudioFileError
from uap_jax.data import tfsr
from uap_jax.data.cache import decode_clips
from uap_jax.data.dataset import Dataset, to_waveform
from uap_jax.errors import UsageError
from uap_jax.evaluation import attack_success_rate, wilson_interval
from uap_jax.evaluation.success import BLOCK_SIZE, predict_in_parts
from uap_jax.models import Classifier
from uap_jax.runs.config import RunConfig
from uap_jax.runs.console import Console

_MAX_NAMED = 10


def write_submissions(
    config: RunConfig,
    classifier: Classifier,
    dataset: Dataset,
    perturbation: Perturbation,
    workdir: Path,
    *,
    target: int | None,
    strict: bool,
    console: Console,
) -> dict[str, Any] | None:
    """Writes submission_clean.csv and submission_perturbed.csv, if there are clips.

    Clips are decoded, heard and forgotten block by block. One that cannot be used is
    named, stands in the files as silence, and counts in no rate.

    Args:
        config: Of the run.
        classifier: The classifier to fool.
        dataset: The corpus, for its classes.
        perturbation: What is added.
        workdir: Where the files go.
        target: The class to say, or None.
        strict: Whether a clip that cannot be used is an error.
        console: Told how it goes.

    Returns:
        What result.json says of these clips; None if there are none, or if the run is
        to be judged on some clips only.

    Raises:
        UsageError: No clip can be used, or with `strict` one cannot.
    """
    if config.dataset != "tfsr" or config.data_dir is None:
        return None
    paths = tfsr.unlabelled_clips(config.data_dir)
    if not paths:
        return None
    if config.num_test_clips is not None:
        console.say("with --num_test_clips no submission is written")
        return None
    clean, perturbed, skipped = _hear(
        *(classifier.logits, classifier.variables, paths, dataset, perturbation),
        scaling=config.scaling,
        strict=strict,
        console=console,
    )
    for line in skipped[:_MAX_NAMED]:
        console.say(f"cannot be used, submitted as {tfsr.LABEL_OF_NOTHING}: {line}")
    if len(skipped) > _MAX_NAMED:
        console.say(f"{len(skipped)} of the clips without labels cannot be used")
    if len(skipped) == len(paths):
        raise UsageError(
            f"--data_dir: expected recordings in {paths[0].parent}, none of the "
            f"{len(paths)} can be used, such as {skipped[0]}"
        )
    labels = [tfsr.submission_label(name) for name in dataset.class_names]
    # The last, at -1, is that of a clip in which nothing was heard.
    labels.append(tfsr.LABEL_OF_NOTHING)
    for kind, predictions in (("clean", clean), ("perturbed", perturbed)):
        content = tfsr.submission(paths, (labels[index] for index in predictions))
        files.write_bytes(workdir / f"submission_{kind}.csv", content)
    heard = clean >= 0
    num_clips = int(np.sum(heard))
    asr = attack_success_rate(perturbed[heard], clean[heard], target=target)
    interval = wilson_interval(round(asr * num_clips), num_clips)
    console.say(
        f"ASR {asr:.3f} [{interval[0]:.3f}, {interval[1]:.3f}] on {num_clips} clips "
        f"without labels; submission_clean.csv, submission_perturbed.csv in {workdir}"
    )
    return {
        "asr": asr,
        "asr_ci95": list(interval),
        "num_clips": num_clips,
        "num_skipped": len(skipped),
    }


def _hear(
    logits_fn: LogitsFn,
    variables: Any,
    paths: list[Path],
    dataset: Dataset,
    perturbation: Perturbation,
    *,
    scaling: str,
    strict: bool,
    console: Console,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns the classes of the clean and of the perturbed clips, and what is bad.

    The classes are `[M]` int32 each, -1 for a clip that cannot be used.
    """
    found = np.full((2, len(paths)), -1, np.int32)
    skipped: list[str] = []
    clips = np.zeros((BLOCK_SIZE, dataset.num_samples), np.int16)
    places: list[int] = []

    def hear() -> None:
        predictions = _predict(
            logits_fn,
            variables,
            to_waveform(clips),
            perturbation,
            jnp.asarray(len(places), jnp.int32),
            scaling=scaling,
        )
        found[:, places] = np.asarray(predictions)[:, : len(places)]
        places.clear()

    decoded = decode_clips(
        paths,
        sample_rate_hz=dataset.sample_rate_hz,
        num_samples=dataset.num_samples,
        progress=lambda _, done, total: console.progress("submission", done, total),
    )
    for place, row in enumerate(decoded):
        if isinstance(row, AudioFileError):
            if strict:
                raise UsageError(str(row)) from row
            skipped.append(f"{row.path}: {row.reason}")
            continue
        clips[len(places)] = row
        places.append(place)
        if len(places) == BLOCK_SIZE:
            hear()
    if places:
        hear()
    return found[0], found[1], skipped


@functools.partial(jax.jit, static_argnames=("logits_fn", "scaling"))
def _predict(
    logits_fn: LogitsFn,
    variables: Any,
    waveform: jax.Array,
    perturbation: Perturbation,
    num_clips: jax.Array,
    *,
    scaling: str,
) -> jax.Array:
    """Returns the classes `[2, B]` of clean and perturbed clips."""
    x, _ = to_box(waveform, scaling=scaling)
    both = (x, apply_perturbation(perturbation, x))
    return jnp.stack(
        [predict_in_parts(logits_fn, variables, clips, num_clips) for clips in both]
    )
