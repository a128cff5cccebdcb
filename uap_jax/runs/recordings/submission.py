"""Predictions for a corpus's clips without labels, clean and perturbed."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax import files
from uap_jax.attacks import Perturbation, apply_perturbation
from uap_jax.audio.box import to_box
from uap_jax.audio.files import AudioFileError
from uap_jax.data import tfsr
from uap_jax.data.dataset import to_waveform
from uap_jax.data.decoding import decode_clips
from uap_jax.errors import UsageError
from uap_jax.evaluation import attack_success_rate, wilson_interval
from uap_jax.evaluation.success import BLOCK_SIZE, predict_in_parts
from uap_jax.models.detectors import detected
from uap_jax.runs.evaluate import Evaluator

_MAX_NAMED = 10
_perturbed = jax.jit(apply_perturbation)


def write_submissions(
    evaluator: Evaluator, perturbation: Perturbation, workdir: Path, *, strict: bool
) -> dict[str, Any] | None:
    """Writes submission_clean.csv and submission_perturbed.csv, if there are clips.

    Clips are decoded block by block. One that cannot be used is named, stands in the
    files as silence, and counts in no rate.

    Returns:
        The entry "unlabelled" of result.json; None if there are no such clips, or if
        the run is evaluated on some clips only.

    Raises:
        UsageError: No clip can be used, or with `strict` one cannot.
    """
    config, console = evaluator.config, evaluator.console
    if config.dataset != "tfsr" or config.data_dir is None:
        return None
    paths = tfsr.unlabelled_clips(config.data_dir)
    # A detector has no words to submit.
    if not paths or detected(evaluator.clips.dataset.class_names) is not None:
        return None
    if config.num_test_clips is not None:
        console.say("no submission is written with --num_test_clips")
        return None
    (clean, perturbed), is_usable, skipped = _predict(
        evaluator, paths, perturbation, strict
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
    labels = [
        tfsr.submission_label(name) for name in evaluator.clips.dataset.class_names
    ]
    # The last, at -1, is that of a clip that cannot be used.
    labels.append(tfsr.LABEL_OF_NOTHING)
    for which, predictions in (("clean", clean), ("perturbed", perturbed)):
        content = tfsr.submission(paths, (labels[index] for index in predictions))
        files.write_bytes(workdir / f"submission_{which}.csv", content)
    num_clips = len(paths) - len(skipped)
    asr = attack_success_rate(
        perturbed[is_usable], clean[is_usable], target=evaluator.clips.target
    )
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
        "num_non_finite": int(np.sum((np.minimum(clean, perturbed) < 0)[is_usable])),
    }


def _predict(
    evaluator: Evaluator, paths: list[Path], perturbation: Perturbation, strict: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns classes `[2, M]`, clean and perturbed, which clips are usable, and a line
    for each that is not; -1 for those, and where logits are not finite.
    """
    classifier, dataset = evaluator.victim.classifier, evaluator.clips.dataset
    console = evaluator.console
    classes = np.full((2, len(paths)), -1, np.int32)
    is_usable = np.ones(len(paths), np.bool_)
    skipped: list[str] = []
    clips = np.zeros((BLOCK_SIZE, dataset.num_samples), np.int16)
    rows: list[int] = []

    def predict() -> None:
        count = jnp.asarray(len(rows), jnp.int32)
        x, _ = to_box(jnp.asarray(to_waveform(clips)), scaling=evaluator.config.scaling)
        for row, heard in enumerate((x, _perturbed(perturbation, x))):
            predictions = predict_in_parts(
                classifier.logits, classifier.variables, heard, count
            )
            classes[row, rows] = np.asarray(predictions)[: len(rows)]
        rows.clear()

    decoded = decode_clips(
        paths,
        sample_rate_hz=dataset.sample_rate_hz,
        num_samples=dataset.num_samples,
        progress=lambda _, done, total: console.progress("submission", done, total),
    )
    for index, clip in enumerate(decoded):
        if isinstance(clip, AudioFileError):
            if strict:
                raise UsageError(str(clip)) from clip
            skipped.append(f"{clip.path}: {clip.reason}")
            is_usable[index] = False
            continue
        clips[len(rows)] = clip
        rows.append(index)
        if len(rows) == BLOCK_SIZE:
            predict()
    if rows:
        predict()
    return classes, is_usable, skipped
