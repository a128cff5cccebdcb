"""Universal adversarial attacks on any logits function."""

from uap_jax.attacks.ddn import DDNConfig, ddn
from uap_jax.attacks.decoupled import DecoupledConfig, decoupled
from uap_jax.attacks.devices import over_devices, replicated
from uap_jax.attacks.equations import apply_perturbation, perturbation_waveform
from uap_jax.attacks.greedy import GreedyConfig, greedy
from uap_jax.attacks.loop import advance, begin, is_running, progress, result, run
from uap_jax.attacks.methods import METHODS
from uap_jax.attacks.penalty import PenaltyConfig, penalty
from uap_jax.attacks.together import (
    advance_together,
    begin_together,
    fitting_width,
    together,
)
from uap_jax.attacks.types import (
    STOP_REASONS,
    AttackResult,
    Front,
    LogitsFn,
    Method,
    PassConfig,
    Perturbation,
)

__all__ = [
    "METHODS",
    "STOP_REASONS",
    "AttackResult",
    "DDNConfig",
    "DecoupledConfig",
    "Front",
    "GreedyConfig",
    "LogitsFn",
    "Method",
    "PassConfig",
    "PenaltyConfig",
    "Perturbation",
    "advance",
    "advance_together",
    "apply_perturbation",
    "begin",
    "begin_together",
    "ddn",
    "decoupled",
    "fitting_width",
    "greedy",
    "is_running",
    "over_devices",
    "penalty",
    "perturbation_waveform",
    "progress",
    "replicated",
    "result",
    "run",
    "together",
]
