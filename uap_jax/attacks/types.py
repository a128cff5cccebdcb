"""What attacks take and return. `B` clips, `N` samples, `C` classes, float32."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.audio import box

# A setting that compiled programs take as an argument.
Number = float | jax.Array

# All weights and statistics of a classifier, a pytree; passed through, never changed.
Variables = Any

# logits_fn(variables, x): clips [B, N] in [0, 1] to logits [B, C], in evaluation mode.
LogitsFn = Callable[[Variables, jax.Array], jax.Array]

SPACES = ("signal", "tanh")

# Why an attack stopped: `AttackResult.stop_reason` is an index into this.
STOP_REASONS = (
    "running",
    "converged",
    "max_passes",
    "non_finite_objective",
    "non_finite_gradient",
    "non_finite_logits",
)
(
    RUNNING,
    CONVERGED,
    MAX_PASSES,
    NON_FINITE_OBJECTIVE,
    NON_FINITE_GRADIENT,
    NON_FINITE_LOGITS,
) = range(len(STOP_REASONS))


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One signal for every clip.

    Attributes:
        value: `[N]`; v in the box for space "signal", v' for space "tanh" (Eq. 7).
        space: "signal" or "tanh".
        scaling: The waveform's scaling to the box, or None if not known.
        sample_rate_hz: Samples per second, or None if not known.
        epsilon: The constant of Eq. 7.
    """

    value: jax.Array
    space: str = dataclasses.field(metadata={"static": True})
    scaling: str | None = _static(None)
    sample_rate_hz: int | None = _static(None)
    epsilon: float = _static(box.EPSILON)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        perturbation: The universal perturbation.
        converged: `[]` bool; whether the success rate asked for was reached on the
            attack clips.
        train_asr: `[]` success rate on the attack clips after the last whole pass.
        num_passes: `[]` int32, passes over the attack clips that were completed.
        stop_reason: `[]` int32 index into `STOP_REASONS`.
        history: Arrays `[max_passes]`, one value a pass, NaN past the end.
    """

    perturbation: Perturbation
    converged: jax.Array
    train_asr: jax.Array
    num_passes: jax.Array
    stop_reason: jax.Array
    history: Mapping[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """Settings of the penalty method; the defaults are the paper's.

    Numbers are leaves of a pytree: a new value recompiles nothing and a sweep can
    vmap over them. Sizes and choices are static.

    Attributes:
        batch_size: S, clips per step; at most the number of attack clips is used.
        micro_batch_size: Clips whose gradient is taken at once; None: a share of the
            batch of at most 32.
        max_passes: Passes over the attack clips.
        target_asr: 1 - delta, the success rate at which the attack stops.
        learning_rate: None: 0.0035 targeted, 0.006 untargeted.
        penalty_coefficient: c; None: 0.15 targeted, 0.2 untargeted.
        confidence: kappa; None: 10 targeted, 40 untargeted.
        hinge_reduction: "sum": SPL + c times the sum of the batch's hinges,
            differentiated with respect to v'. "released": the gradient of the
            authors' code, of the hinges alone and with respect to w.
        optimizer: "adam", "adagrad", "sgd", "nesterov", "rmsprop", or the name of any
            optax optimizer that needs a learning rate only.
        l2_radius: v' is projected to the l2 ball of this radius after every step;
            None: not at all.
    """

    batch_size: int = _static(100)
    micro_batch_size: int | None = _static(None)
    max_passes: int = _static(100)
    target_asr: Number = 0.9
    learning_rate: Number | None = None
    penalty_coefficient: Number | None = None
    confidence: Number | None = None
    hinge_reduction: str = _static("sum")
    optimizer: str = _static("adam")
    l2_radius: Number | None = None


def apply_perturbation(perturbation: Perturbation, x: jax.Array) -> jax.Array:
    """Adds a perturbation to clips; the result is always inside the box.

    Args:
        perturbation: With value `[N]`.
        x: `[..., N]` in [0, 1].

    Returns:
        `[..., N]` in [0, 1]: clip(x + v) for space "signal", Eq. 7 for "tanh".

    Raises:
        ValueError: The lengths differ or the space is unknown.
    """
    value = perturbation.value
    if value.shape != x.shape[-1:]:
        raise ValueError(
            f"x: expected clips of {value.shape[0]} samples, as the perturbation has, "
            f"got {x.shape}"
        )
    value = jnp.reshape(value, (1,) * (x.ndim - 1) + value.shape)
    if perturbation.space == "tanh":
        x_tanh = box.to_tanh_space(x, epsilon=perturbation.epsilon)
        return box.from_tanh_space(x_tanh + value)
    if perturbation.space == "signal":
        return jnp.clip(x + value, 0.0, 1.0)
    raise ValueError(f"space: expected one of {SPACES}, got {perturbation.space!r}")


def perturbation_waveform(perturbation: Perturbation) -> jax.Array:
    """The single sound that a perturbation is, `[N]` in [-1, 1].

    tanh(v') for space "tanh" (what Eq. 7 does to a resting clip), 2 v for "signal".
    """
    if perturbation.space == "tanh":
        return jnp.tanh(perturbation.value)
    return jnp.clip(2 * perturbation.value, -1.0, 1.0)


def check_attack_inputs(
    logits_fn: LogitsFn,
    variables: Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    target: int | None,
) -> int:
    """Checks what every attack takes, before anything is compiled.

    Values are checked where they are known, that is outside of jit.

    Returns:
        The number of classes.

    Raises:
        ValueError: Naming the argument, what was expected and what came.
    """
    if x.ndim != 2 or x.dtype != jnp.float32 or 0 in x.shape:
        raise ValueError(f"x: expected float32 [B, N], got {x.dtype} {x.shape}")
    if labels.shape != x.shape[:1] or labels.dtype != jnp.int32:
        raise ValueError(
            f"labels: expected int32 [{x.shape[0]}], got {labels.dtype} {labels.shape}"
        )
    logits = jax.eval_shape(logits_fn, variables, x[:1])
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ValueError(
            f"logits_fn: expected [1, C] with C >= 2 for one clip, got {logits.shape}"
        )
    num_classes = logits.shape[1]
    if target is not None and not 0 <= target < num_classes:
        raise ValueError(f"target: expected 0..{num_classes - 1}, got {target}")
    if not isinstance(x, jax.core.Tracer):
        _check_range("x", x, 0.0, 1.0)
    if not isinstance(labels, jax.core.Tracer):
        _check_range("labels", labels, 0, num_classes - 1)
    return num_classes


def _check_range(name: str, values: jax.Array, low: float, high: float) -> None:
    # Not by min and max: on a CPU XLA's may pass over NaN.
    if not jnp.all((values >= low) & (values <= high)):
        found = np.asarray(values)
        raise ValueError(
            f"{name}: expected values in [{low}, {high}], "
            f"got {np.min(found)}..{np.max(found)}"
        )
