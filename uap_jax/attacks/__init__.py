"""Universal adversarial attacks on any logits function."""

from uap_jax.attacks.penalty import (
    PenaltyProblem,
    PenaltyState,
    penalty,
    penalty_init,
    penalty_result,
    penalty_segment,
    resolve_penalty_config,
)
from uap_jax.attacks.types import (
    STOP_REASONS,
    AttackResult,
    LogitsFn,
    PenaltyConfig,
    Perturbation,
    Variables,
    apply_perturbation,
    perturbation_waveform,
)

__all__ = [
    "STOP_REASONS",
    "AttackResult",
    "LogitsFn",
    "PenaltyConfig",
    "PenaltyProblem",
    "PenaltyState",
    "Perturbation",
    "Variables",
    "apply_perturbation",
    "penalty",
    "penalty_init",
    "penalty_result",
    "penalty_segment",
    "perturbation_waveform",
    "resolve_penalty_config",
]
