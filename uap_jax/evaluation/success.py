"""Success rates and levels of a perturbation over a corpus, read block by block."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import LogitsFn, Perturbation, apply_perturbation
from uap_jax.audio import levels
from uap_jax.audio.box import to_box
from uap_jax.data.dataset import Dataset, ProgressFn, to_waveform
from uap_jax.evaluation.intervals import wilson_interval

# Clips that are read, and given their noise, at once.
BLOCK_SIZE = 64
# Clips that the classifier is given at once: a gigabyte or two with the largest here.
PART_SIZE = 16


class Evaluation(NamedTuple):
    """One value a clip, `[M]`; predictions are int32, levels float32 in dB.

    A silent clip, one without variation, has NaN levels.
    """

    labels: np.ndarray
    clean: np.ndarray  # predictions on the clean clips
    perturbed: np.ndarray  # on the perturbed ones
    waveform: np.ndarray  # on recordings with the single sound added, as PCM16
    shifted: np.ndarray  # the same, the sound circularly shifted at random
    control: np.ndarray  # with Gaussian noise of the perturbation's RMS instead
    snr_db: np.ndarray  # of the perturbed clips, in the box
    snr_ac_db: np.ndarray
    relative_loudness_db: np.ndarray
    control_snr_db: np.ndarray  # of the clips with noise, in the box


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
    """Runs the classifier on clean, perturbed and noisy clips.

    Only a block of clips is in memory at a time.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        dataset: The corpus.
        indices: `[M]` clips to use.
        perturbation: What is judged.
        scaling: Of waveforms to the box.
        sound: `[N]` the perturbation as a waveform, see `perturbation_waveform`.
        gain: Applied to `sound` before it is added to recordings.
        key: Random key for noise and shifts; consumed. A clip's noise depends on its
            place in `indices` only.
        progress: Told of each block.

    Returns:
        A value a clip.
    """
    blocks = []
    for start in range(0, len(indices), BLOCK_SIZE):
        index = indices[start : start + BLOCK_SIZE]
        clips = np.zeros((BLOCK_SIZE, dataset.num_samples), np.float32)
        clips[: len(index)] = to_waveform(dataset.clips[index])
        columns = _evaluate_block(
            logits_fn,
            variables,
            clips,
            perturbation,
            jnp.asarray(gain * sound, jnp.float32),
            jax.random.fold_in(key, start),
            jnp.asarray(len(index), jnp.int32),
            scaling=scaling,
        )
        blocks.append([np.asarray(column)[: len(index)] for column in columns])
        if progress is not None:
            progress("evaluating", start + len(index), len(indices))
    columns = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    return Evaluation(np.asarray(dataset.labels[indices]), *columns)


def attack_success_rate(
    predictions: np.ndarray, clean_predictions: np.ndarray, *, target: int | None
) -> float:
    """Share of clips on which the attack succeeds, Eq. 3.

    Args:
        predictions: `[M]` on the perturbed clips.
        clean_predictions: `[M]` on the clean ones.
        target: The wanted class; None: any change of the prediction counts.

    Returns:
        In [0, 1].

    Raises:
        ValueError: There are no clips, or not as many of one as of the other.
    """
    if predictions.shape != clean_predictions.shape or not predictions.size:
        raise ValueError(
            "predictions: expected one for each of at least one clip, got "
            f"{predictions.shape} and clean {clean_predictions.shape}"
        )
    return float(np.mean(_succeeds(predictions, clean_predictions, target)))


def summarize(evaluation: Evaluation, *, target: int | None) -> dict[str, Any]:
    """Returns the numbers of `result.json`: "clean_accuracy", "test", "control".

    `asr` is Eq. 3 over all clips. `asr_clean_correct` counts the clips that the
    clean model gets right and, targeted, that are not of the target class; None if
    there are none. Levels are means over the clips that are not silent.
    """
    labels, clean = evaluation.labels, evaluation.clean
    num_clips = len(labels)

    def rate(predictions: np.ndarray) -> float:
        return attack_success_rate(predictions, clean, target=target)

    def interval(predictions: np.ndarray) -> list[float]:
        successes = _succeeds(predictions, clean, target)
        return list(wilson_interval(int(np.sum(successes)), num_clips))

    eligible = clean == labels
    if target is not None:
        eligible &= labels != target
    silent = np.isnan(evaluation.snr_ac_db)
    return {
        "clean_accuracy": float(np.mean(clean == labels)),
        "test": {
            "asr": rate(evaluation.perturbed),
            "asr_ci95": interval(evaluation.perturbed),
            "asr_clean_correct": rate_or_none(
                _succeeds(evaluation.perturbed, clean, target)[eligible]
            ),
            "accuracy_perturbed": float(np.mean(evaluation.perturbed == labels)),
            "snr_db": _mean_level(evaluation.snr_db),
            "snr_ac_db": _mean_level(evaluation.snr_ac_db),
            "relative_loudness_db": _mean_level(evaluation.relative_loudness_db),
            "asr_waveform": rate(evaluation.waveform),
            "asr_shifted": rate(evaluation.shifted),
            "num_clips": num_clips,
            "num_silent": int(np.sum(silent)),
        },
        "control": {
            "asr": rate(evaluation.control),
            "asr_ci95": interval(evaluation.control),
            "accuracy_perturbed": float(np.mean(evaluation.control == labels)),
            "snr_db": _mean_level(evaluation.control_snr_db),
        },
    }


def predict_in_parts(
    logits_fn: LogitsFn, variables: Any, x: jax.Array, num_clips: jax.Array
) -> jax.Array:
    """Classifies a block of clips `PART_SIZE` at a time.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        x: `[B, N]` clips in the box; B is a multiple of `PART_SIZE`.
        num_clips: `[]` int32, how many of them count. Parts after them take no time.

    Returns:
        The classes `[B]` int32, 0 in parts after those that count.
    """
    parts = x.reshape(-1, PART_SIZE, x.shape[1])

    def classes(part: jax.Array) -> jax.Array:
        return _classes(logits_fn, variables, part)

    def skip(part: jax.Array) -> jax.Array:
        return jnp.zeros(part.shape[0], jnp.int32)

    def predict(index_and_part: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, part = index_and_part
        return jax.lax.cond(index * PART_SIZE < num_clips, classes, skip, part)

    return jax.lax.map(predict, (jnp.arange(len(parts)), parts)).reshape(-1)


@functools.partial(jax.jit, static_argnames=("logits_fn",))
def _classes(logits_fn: LogitsFn, variables: Any, x: jax.Array) -> jax.Array:
    """Classifies clips; compiled, so that an evaluation traces the network once."""
    return jnp.argmax(logits_fn(variables, x), axis=1).astype(jnp.int32)


def rate_or_none(successes: np.ndarray) -> float | None:
    """Returns the share of true values, or None if there are no values."""
    return float(np.mean(successes)) if successes.size else None


def select(evaluation: Evaluation, chosen: np.ndarray) -> Evaluation:
    """Returns the evaluation of some of the clips; `chosen` indexes or masks them."""
    return Evaluation(*(column[chosen] for column in evaluation))


def waveform_gain(dataset: Dataset, indices: np.ndarray, *, scaling: str) -> float:
    """The one gain at which the single sound is added to recordings.

    Half the median scale of the clips to the box: a clip of that scale then gets just
    what the attack added to it. It is 1 for "fixed". Clips without variation, which
    have no scale of their own, do not count.
    """
    scales = []
    for start in range(0, len(indices), BLOCK_SIZE):
        clips = dataset.clips[indices[start : start + BLOCK_SIZE]]
        waveform = jnp.asarray(to_waveform(clips))
        _, box_scale = to_box(waveform, scaling=scaling)
        varies = np.max(clips, axis=1) > np.min(clips, axis=1)
        scales.append(np.asarray(box_scale.scale)[varies])
    scale = np.concatenate(scales)
    return 0.5 * float(np.median(scale)) if scale.size else 1.0


def _succeeds(
    predictions: np.ndarray, clean_predictions: np.ndarray, target: int | None
) -> np.ndarray:
    return predictions != clean_predictions if target is None else predictions == target


def _mean_level(values: np.ndarray) -> float | None:
    audible = values[~np.isnan(values)]
    return float(np.mean(audible, dtype=np.float64)) if audible.size else None


@functools.partial(jax.jit, static_argnames=("logits_fn", "scaling"))
def _evaluate_block(
    logits_fn: LogitsFn,
    variables: Any,
    waveform: jax.Array,
    perturbation: Perturbation,
    sound: jax.Array,
    key: jax.Array,
    num_clips: jax.Array,
    *,
    scaling: str,
) -> tuple[jax.Array, ...]:
    noise_key, shift_key = jax.random.split(key)
    x, _ = to_box(waveform, scaling=scaling)
    silent = jnp.max(waveform, axis=1) == jnp.min(waveform, axis=1)

    def predict(x: jax.Array) -> jax.Array:
        return predict_in_parts(logits_fn, variables, x, num_clips)

    def hear(recording: jax.Array) -> jax.Array:
        x, _ = to_box(_as_pcm16(recording), scaling=scaling)
        return predict(x)

    def level(measure: Callable[..., jax.Array], delta: jax.Array) -> jax.Array:
        return jnp.where(silent, jnp.nan, measure(x, delta))

    perturbed = apply_perturbation(perturbation, x)
    rms = levels.rms(perturbation.value)
    noise = rms * jax.random.normal(noise_key, x.shape, x.dtype)
    noisy = _apply_each(perturbation, x, noise)
    num_samples = x.shape[1]
    shifts = jax.random.randint(shift_key, x.shape[:1], 0, num_samples)
    at = (jnp.arange(num_samples)[None] + shifts[:, None]) % num_samples
    return (
        predict(x),
        predict(perturbed),
        hear(waveform + sound[None]),
        hear(waveform + sound[at]),
        predict(noisy),
        level(levels.snr_db, perturbed - x),
        level(levels.snr_ac_db, perturbed - x),
        level(levels.relative_loudness_db, perturbed - x),
        level(levels.snr_db, noisy - x),
    )


def _apply_each(
    perturbation: Perturbation, x: jax.Array, values: jax.Array
) -> jax.Array:
    """As `apply_perturbation`, with a value `[N]` of its own for each clip."""

    def apply_one(x: jax.Array, value: jax.Array) -> jax.Array:
        own = jax.tree.map(lambda _: value, perturbation)
        return apply_perturbation(own, x)

    return jax.vmap(apply_one)(x, values)


def _as_pcm16(recording: jax.Array) -> jax.Array:
    """What a recording is after it was saved as 16-bit PCM and read again."""
    return jnp.clip(jnp.round(recording * 32768), -32768, 32767) / 32768
