"""A perturbation evaluated on another model than it was made for."""

from typing import Any

import jax
import numpy as np

from uap_jax.attacks import LogitsFn, Perturbation, perturbation_waveform
from uap_jax.data.dataset import Dataset, ProgressFn
from uap_jax.evaluation.success import evaluate_perturbation, summarize
from uap_jax.models.detectors import detected


def evaluate_transfer(
    logits_fn: LogitsFn,
    variables: Any,
    dataset: Dataset,
    indices: np.ndarray,
    perturbation: Perturbation,
    *,
    scaling: str,
    gain: float,
    target: int | None,
    key: jax.Array,
    progress: ProgressFn | None = None,
) -> dict[str, Any]:
    """Evaluates a perturbation on another model, Table 4.

    Args:
        logits_fn: The other model.
        variables: Its weights.
        dataset: The corpus, in clips of the perturbation's length.
        indices: `[M]` clips to use.
        perturbation: The perturbation to evaluate.
        scaling: Scaling of waveforms to the box, the same for both models.
        gain: Factor applied to the single sound, see `waveform_gain`.
        target: The class that it was made to say, or None.
        key: Random key for controls and shifts; consumed.
        progress: Called after each block.

    Returns:
        "clean_accuracy", "test" and "control" as of `summarize`, and "chance": the
        share of clips of the target class, which is the targeted rate where the
        perturbation has no effect; None if untargeted.

    Raises:
        ValueError: Perturbation and clips do not fit.
    """
    if perturbation.value.shape != (dataset.num_samples,):
        raise ValueError(
            f"perturbation: expected [{dataset.num_samples}] as the model's clips, got "
            f"{perturbation.value.shape}"
        )
    if perturbation.scaling not in (None, scaling):
        raise ValueError(
            f"scaling: expected {perturbation.scaling!r} as the perturbation was made "
            f"with, got {scaling!r}"
        )
    evaluation = evaluate_perturbation(
        logits_fn,
        variables,
        dataset,
        indices,
        perturbation,
        scaling=scaling,
        sound=np.asarray(perturbation_waveform(perturbation)),
        gain=gain,
        key=key,
        progress=progress,
    )
    chance = None if target is None else float(np.mean(evaluation.labels == target))
    detects = detected(dataset.class_names)
    summary = summarize(evaluation, target=target, detects=detects)
    return {**summary, "chance": chance}
