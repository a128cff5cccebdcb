"""Success of a perturbation on clips that the attack has not used."""

from uap_jax.evaluation.controls import (
    describe_controls,
    does_as_well,
    explain_success,
    same_spectrum,
    white_noise,
)
from uap_jax.evaluation.detection import describe_detection, detection_rates
from uap_jax.evaluation.intervals import wilson_interval
from uap_jax.evaluation.non_finite import left_out_clips, non_finite_logits
from uap_jax.evaluation.significance import mcnemar_exact, two_proportion_z
from uap_jax.evaluation.success import (
    Evaluation,
    attack_success_rate,
    evaluate_perturbation,
    select,
    summarize,
    waveform_gain,
)

__all__ = [
    "Evaluation",
    "attack_success_rate",
    "describe_controls",
    "describe_detection",
    "detection_rates",
    "does_as_well",
    "evaluate_perturbation",
    "explain_success",
    "left_out_clips",
    "mcnemar_exact",
    "non_finite_logits",
    "same_spectrum",
    "select",
    "summarize",
    "two_proportion_z",
    "waveform_gain",
    "white_noise",
    "wilson_interval",
]
