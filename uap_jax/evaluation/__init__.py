"""Success of a perturbation on clips that the attack has not used."""

from uap_jax.evaluation.intervals import wilson_interval
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
    "evaluate_perturbation",
    "mcnemar_exact",
    "select",
    "summarize",
    "two_proportion_z",
    "waveform_gain",
    "wilson_interval",
]
