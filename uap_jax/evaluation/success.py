"""Success rates and levels of a perturbation over a corpus, read block by block."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import LogitsFn, Perturbation, apply_perturbation
from uap_jax.attacks.equations import classify, succeeds
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import Dataset, ProgressFn, to_waveform
from uap_jax.evaluation import detection
from uap_jax.evaluation.controls import same_spectrum, white_noise
from uap_jax.evaluation.intervals import wilson_interval

# Clips that are read, and given their noise, at once.
BLOCK_SIZE = 64
# Clips classified at once: a gigabyte or two with the largest network here.
PART_SIZE = 16
# Tells the key of the phases from those of blocks, which are multiples of BLOCK_SIZE.
_PHASES = 1


class Evaluation(NamedTuple):
    """One value per clip, `[M]`; predictions are int32, levels float32 in dB.

    A prediction is -1 where the logits are not finite. A silent clip, one without
    variation, has NaN levels.
    """

    labels: np.ndarray
    clean: np.ndarray  # predictions on the clean clips
    perturbed: np.ndarray  # on the perturbed ones
    waveform: np.ndarray  # on recordings with the single sound added, as PCM16
    shifted: np.ndarray  # the same, the sound circularly shifted at random
    control: np.ndarray  # with white noise of the perturbation's RMS instead
    same_spectrum: np.ndarray  # with noise of the perturbation's spectrum instead
    snr_db: np.ndarray  # of the perturbed clips, in the box
    snr_ac_db: np.ndarray
    relative_loudness_db: np.ndarray
    control_snr_db: np.ndarray  # of the clips with white noise, in the box
    same_spectrum_snr_db: np.ndarray  # of those with noise of the same spectrum


def evaluate_perturbation(
    logits_fn: LogitsFn,
    variables: Any,
    dataset: Dataset,
    indices: np.ndarray,
    perturbation: Perturbation,
    *,
    scaling: str,
    sound: np.ndarray,
    gain: float,
    key: jax.Array,
    progress: ProgressFn | None = None,
) -> Evaluation:
    """Runs the classifier on clean clips, perturbed ones and those of the controls.

    Only a block of clips is in memory at a time.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        dataset: The corpus.
        indices: `[M]` clips to use.
        perturbation: The perturbation to evaluate.
        scaling: Scaling of waveforms to the box.
        sound: `[N]` the perturbation as a waveform, see `perturbation_waveform`.
        gain: Factor applied to `sound` before it is added to recordings.
        key: Random key for controls and shifts; consumed. The white noise of a clip
            depends on its position in `indices` only.
        progress: Called after each block.
    """
    dataset.ensure(indices)
    blocks = []
    coloured = same_spectrum(perturbation, jax.random.fold_in(key, _PHASES))
    for start in range(0, len(indices), BLOCK_SIZE):
        index = indices[start : start + BLOCK_SIZE]
        clips = np.zeros((BLOCK_SIZE, dataset.num_samples), np.float32)
        clips[: len(index)] = to_waveform(dataset.clips[index])
        versions, *heard_levels = _heard(
            clips,
            perturbation,
            coloured,
            jnp.asarray(gain * sound, jnp.float32),
            jax.random.fold_in(key, start),
            scaling=scaling,
        )
        count = jnp.asarray(len(index), jnp.int32)
        predictions = [
            predict_in_parts(logits_fn, variables, x, count) for x in versions
        ]
        columns = (*predictions, *heard_levels)
        blocks.append([np.asarray(column)[: len(index)] for column in columns])
        if progress is not None:
            progress("evaluating", start + len(index), len(indices))
    columns = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    return Evaluation(np.asarray(dataset.labels[indices]), *columns)


def attack_success_rate(
    predictions: np.ndarray, clean_predictions: np.ndarray, *, target: int | None
) -> float:
    """Returns the share of clips on which the attack succeeds, Eq. 3, in [0, 1].

    Args:
        predictions: `[M]` on the perturbed clips; -1 is never a success.
        clean_predictions: `[M]` on the clean ones.
        target: The class to say; None: any change of the prediction counts.

    Raises:
        ValueError: There are no clips, or the shapes differ.
    """
    if predictions.shape != clean_predictions.shape or not predictions.size:
        raise ValueError(
            "predictions: expected at least one, and the shape of clean_predictions "
            f"{clean_predictions.shape}, got {predictions.shape}"
        )
    return float(np.mean(succeeds(predictions, clean_predictions, target)))


def summarize(
    evaluation: Evaluation, *, target: int | None, detects: str | None = None
) -> dict[str, Any]:
    """Returns the numbers of `result.json`: "clean_accuracy", "test", "control".

    `asr` is Eq. 3 over all clips. `asr_clean_correct` counts only clips that the clean
    model classifies correctly and, targeted, that are not of the target class; None if
    there are none. Levels are means over the clips that are not silent. "control" is
    white noise, and "same_spectrum" in it the second control with the same fields.

    Of a detector, which `detects` something, `asr` counts only the `num_counted` clips
    that are not in the wanted state without the perturbation; None of no clips. It has
    "detection" too, see `detection.detection_rates`.
    """
    labels, clean = evaluation.labels, evaluation.clean
    num_clips = len(labels)
    counts = np.ones(num_clips, bool)
    if detects is not None:
        counts = detection.counted(clean, target)
    num_counted = int(np.sum(counts))

    def rate(predictions: np.ndarray) -> float | None:
        if detects is not None and not num_counted:
            return None
        return attack_success_rate(predictions[counts], clean[counts], target=target)

    def rates(predictions: np.ndarray) -> dict[str, Any]:
        successes = succeeds(predictions, clean, target)[counts]
        return {
            "asr": rate(predictions),
            "asr_ci95": list(wilson_interval(int(np.sum(successes)), num_counted)),
            "accuracy_perturbed": float(np.mean(predictions == labels)),
            "num_non_finite": int(np.sum(predictions < 0)),
        }

    eligible = clean == labels
    if target is not None:
        eligible &= labels != target
    correct = succeeds(evaluation.perturbed, clean, target)[eligible]
    of_detector: dict[str, Any] = {}
    if detects is not None:
        rates_of = detection.detection_rates(evaluation)
        of_detector = {"detection": {"label": detects, **rates_of}}
    return {
        "clean_accuracy": float(np.mean(clean == labels)),
        "test": {
            **rates(evaluation.perturbed),
            "asr_clean_correct": float(np.mean(correct)) if correct.size else None,
            "snr_db": mean_level(evaluation.snr_db),
            "snr_ac_db": mean_level(evaluation.snr_ac_db),
            "relative_loudness_db": mean_level(evaluation.relative_loudness_db),
            "asr_waveform": rate(evaluation.waveform),
            "asr_shifted": rate(evaluation.shifted),
            "num_clips": num_clips,
            **({} if detects is None else {"num_counted": num_counted}),
            "num_silent": int(np.sum(np.isnan(evaluation.snr_ac_db))),
            "num_non_finite_clean": int(np.sum(clean < 0)),
            "num_non_finite_waveform": int(np.sum(evaluation.waveform < 0)),
            "num_non_finite_shifted": int(np.sum(evaluation.shifted < 0)),
        },
        "control": {
            **rates(evaluation.control),
            "snr_db": mean_level(evaluation.control_snr_db),
            "same_spectrum": {
                **rates(evaluation.same_spectrum),
                "snr_db": mean_level(evaluation.same_spectrum_snr_db),
            },
        },
        **of_detector,
    }


@functools.partial(jax.jit, static_argnames="logits_fn")
def predict_in_parts(
    logits_fn: LogitsFn, variables: Any, x: jax.Array, num_clips: jax.Array
) -> jax.Array:
    """Classifies a block of clips `PART_SIZE` at a time.

    Called outside of other programs, so that a network is compiled once for all
    evaluations of a run.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        x: `[B, N]` clips in the box; B is a multiple of `PART_SIZE`.
        num_clips: `[]` int32, how many of them count. Parts after them take no time.

    Returns:
        `[B]` int32 as of `classify`; 0 in parts after those that count.
    """
    parts = x.reshape(-1, PART_SIZE, x.shape[1])

    def predict(index_and_part: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, part = index_and_part
        return jax.lax.cond(
            index * PART_SIZE < num_clips,
            lambda part: classify(logits_fn(variables, part)),
            lambda part: jnp.zeros(part.shape[0], jnp.int32),
            part,
        )

    return jax.lax.map(predict, (jnp.arange(len(parts)), parts)).reshape(-1)


def select(evaluation: Evaluation, chosen: np.ndarray) -> Evaluation:
    """Returns the evaluation of some clips; `chosen` is an index or a mask `[M]`."""
    return Evaluation(*(column[chosen] for column in evaluation))


def waveform_gain(dataset: Dataset, indices: np.ndarray, *, scaling: str) -> float:
    """Returns the one gain at which the single sound is added to recordings.

    Half the median scale of the clips to the box: a clip of that scale then gets just
    what the attack added to it. It is 1 for "fixed". Clips without variation, which
    have no scale, do not count.
    """
    if scaling == "fixed":
        return 1.0
    dataset.ensure(indices)
    scales = []
    for start in range(0, len(indices), BLOCK_SIZE):
        clips = dataset.clips[indices[start : start + BLOCK_SIZE]]
        _, box_scale = to_box(jnp.asarray(to_waveform(clips)), scaling=scaling)
        varies = np.max(clips, axis=1) > np.min(clips, axis=1)
        scales.append(np.asarray(box_scale.scale)[varies])
    scale = np.concatenate(scales)
    return 0.5 * float(np.median(scale)) if scale.size else 1.0


def mean_level(values: np.ndarray) -> float | None:
    """Returns the mean of levels in dB that are not NaN, or None without any."""
    audible = values[~np.isnan(values)]
    return float(np.mean(audible, dtype=np.float64)) if audible.size else None


@functools.partial(jax.jit, static_argnames="scaling")
def _heard(
    waveform: jax.Array,
    perturbation: Perturbation,
    coloured: Perturbation,
    sound: jax.Array,
    key: jax.Array,
    *,
    scaling: str,
) -> tuple[Any, ...]:
    """Versions of clips in the order of `Evaluation`, and its levels."""
    noise_key, shift_key = jax.random.split(key)
    x, _ = to_box(waveform, scaling=scaling)
    silent = jnp.max(waveform, axis=1) == jnp.min(waveform, axis=1)

    def recorded(sounds: jax.Array) -> jax.Array:
        pcm = jnp.clip(jnp.round((waveform + sounds) * 32768), -32768, 32767) / 32768
        return to_box(pcm, scaling=scaling)[0]

    def level(measure: Callable[..., jax.Array], delta: jax.Array) -> jax.Array:
        return jnp.where(silent, jnp.nan, measure(x, delta))

    perturbed = apply_perturbation(perturbation, x)
    noise = white_noise(perturbation, noise_key, num_clips=len(x))
    noisy = jax.vmap(apply_perturbation)(noise, x)
    recoloured = apply_perturbation(coloured, x)
    num_samples = x.shape[1]
    shifts = jax.random.randint(shift_key, x.shape[:1], 0, num_samples)
    at = (jnp.arange(num_samples)[None] + shifts[:, None]) % num_samples
    return (
        (x, perturbed, recorded(sound[None]), recorded(sound[at]), noisy, recoloured),
        level(levels.snr_db, perturbed - x),
        level(levels.snr_ac_db, perturbed - x),
        level(levels.relative_loudness_db, perturbed - x),
        level(levels.snr_db, noisy - x),
        level(levels.snr_db, recoloured - x),
    )
