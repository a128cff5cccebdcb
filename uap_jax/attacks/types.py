"""What attacks take and return. `B` clips, `N` samples, `C` classes, float32."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

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
    "stalled",
)
(
    RUNNING,
    CONVERGED,
    MAX_PASSES,
    NON_FINITE_OBJECTIVE,
    NON_FINITE_GRADIENT,
    NON_FINITE_LOGITS,
    STALLED,
) = range(len(STOP_REASONS))

# What became of each clip: `DDNResult.status` is an index into this.
DDN_STATUSES = (
    "found",
    "already_adversarial",
    "not_found",
    "budget_too_small",
    "non_finite_logits",
)
(
    DDN_FOUND,
    DDN_ALREADY_ADVERSARIAL,
    DDN_NOT_FOUND,
    DDN_BUDGET_TOO_SMALL,
    DDN_NON_FINITE_LOGITS,
) = range(len(DDN_STATUSES))


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
class Front:
    """The quietest perturbation found for each success rate, highest rate first.

    Attributes:
        asr_levels: `[L]` success rates asked for, on the attack clips.
        values: `[L, N]`, as `Perturbation.value`; zero where none was found.
        norm: `[L]`, l2 norms of the values; infinite where none was found.
        train_asr: `[L]` success rates on the attack clips; 0 where none was found.
    """

    asr_levels: jax.Array
    values: jax.Array
    norm: jax.Array
    train_asr: jax.Array


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
        front: The quietest perturbation for each of several success rates, of a
            method that looks for them; else None.
    """

    perturbation: Perturbation
    converged: jax.Array
    train_asr: jax.Array
    num_passes: jax.Array
    stop_reason: jax.Array
    history: Mapping[str, jax.Array]
    front: Front | None = None


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
        min_passes: Passes before which `target_asr` does not stop the attack; None:
            it stops after the first that reaches it.
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
    min_passes: int | None = _static(None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDNResult:
    """The smallest perturbation that DDN found for each clip.

    Attributes:
        delta: `[B, N]`; x + delta lies in [0, 1]. Zero where nothing was found.
        l2: `[B]`, ||delta||_2; says something only where `success`.
        success: `[B]` bool; whether x + delta was seen to be adversarial.
        status: `[B]` int32 index into `DDN_STATUSES`. "budget_too_small": nothing was
            found up to a norm of `reach_l2`, which the box would have let grow; more
            steps or a larger first norm may find something. "not_found": nothing was
            found up to the largest norm in the box.
        reach_l2: `[B]`, the largest norm that the steps can try:
            init_norm (1 + gamma)^(num_steps - 1), or what the box holds if that is
            less. What the box cuts off a step is not made up for.
    """

    delta: jax.Array
    l2: jax.Array
    success: jax.Array
    status: jax.Array
    reach_l2: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDNConfig:
    """Settings of DDN; the defaults are the paper's and the authors'.

    Attributes:
        num_steps: K, evaluations of the classifier; the first is of the clip itself.
        init_norm: epsilon_0; the first step aims at this norm times 1 + gamma.
        gamma: The norm shrinks by this share after a success, else it grows.
        quantization_levels: delta is rounded to this many levels in [0, 1] after each
            step (the authors: 65536); None: not at all.
        micro_batch_size: Clips that are attacked at once; None: at most 32.
    """

    num_steps: int = _static(50)
    init_norm: Number = 0.2
    gamma: Number = 0.05
    quantization_levels: int | None = _static(None)
    micro_batch_size: int | None = _static(None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GreedyConfig:
    """Settings of the greedy attack; the defaults are the paper's.

    Attributes:
        norm: p of the ball that v is kept in, "linf" or "l2".
        radius: xi; None: 0.12 targeted, 0.2 untargeted for "linf". The paper gives
            none for "l2".
        max_passes: Passes over the attack clips.
        target_asr: 1 - delta, the success rate at which the attack stops.
        shuffle: Whether each pass visits the clips in a new random order, or all in
            the order given, as the authors do.
        batch_size: Clips whose DDN starts from the same v. 1 is the paper's method.
            More is another one, faster where clips are cheaper together: their deltas
            are aggregated and the sum is projected once.
        aggregation: "sum" or "mean" of the deltas of a batch.
        labels: What DDN leads away from when untargeted: the "clean" prediction (Eq.
            1) or the "true" label (the authors' code).
        micro_batch_size: Clips whose logits are taken at once; None: at most 32.
        ddn: Settings of the inner attack.
    """

    norm: str = _static("linf")
    radius: Number | None = None
    max_passes: int = _static(100)
    target_asr: Number = 0.9
    shuffle: bool = _static(False)
    batch_size: int = _static(1)
    aggregation: str = _static("sum")
    labels: str = _static("clean")
    micro_batch_size: int | None = _static(None)
    ddn: DDNConfig = DDNConfig()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoupledConfig:
    """Settings of the decoupled method.

    Numbers are leaves of a pytree; sizes and choices are static.

    Attributes:
        batch_size: Clips per step. None: targeted 10, as many steps from few clips find
            a better place than few from many; untargeted a tenth of the attack clips,
            for ten steps a pass, but no fewer than 10 and no more than 100.
        micro_batch_size: Clips whose gradient is taken at once; None: a share of the
            batch of at most 32.
        space: Of v, "tanh" as of the penalty method or "signal"; its l2 norm there is
            what is made small.
        num_starts: Silence and the attack clips that fool the others best, at each of
            which the attack begins; then the best of them goes on. 1: silence alone.
        start_passes: Passes for each of them before that.
        max_passes: Passes over the attack clips for `target_asr`, with those at all
            starts.
        target_asr: The success rate that the perturbation returned is to have.
        asr_levels: More success rates to find the quietest perturbation of: after
            `target_asr` the lower ones, then from there the higher ones, each from the
            one before.
        level_passes: Passes for each of them.
        init_norm: Norm of v in the first pass; None: of a sound of -26 dB.
        norm_gain: After a pass log(norm) changes by this times what the logit of the
            success rate lacks of that of the one asked for, ...
        max_norm_change: ... at most by this.
        learning_rate: Length of the first steps, as a share of the norm.
        restart_learning_rate: The same for each of `asr_levels`.
        final_learning_rate: What both fall to, along half a cosine.
        momentum: Share of the earlier directions in a step's.
        temperature: T of `objectives.soft_hinge`; None: 0.35 times the median of
            what keeps the clean attack clips from being fooled (`objectives.margin`).
        final_temperature_ratio: What T is multiplied by in the end of the passes for
            `target_asr`, and in those for other rates: a wide hinge finds a good
            place, a narrow one follows the success rate. None: targeted 0.2,
            untargeted 1.
        give_up: g of `objectives.soft_hinge`.
        max_shift: In steps each clip is turned in time, round its ends, by up to this
            many samples either way, which makes v fit clips that it has not seen;
            success is that on the clips as they are. None: targeted a 40th of a clip,
            at most 400 (25 ms at 16 kHz), untargeted not at all.
    """

    batch_size: int | None = _static(None)
    micro_batch_size: int | None = _static(None)
    space: str = _static("tanh")
    max_shift: int | None = _static(None)
    num_starts: int = _static(4)
    start_passes: int = _static(2)
    max_passes: int = _static(50)
    target_asr: Number = 0.9
    asr_levels: tuple[float, ...] = _static(())
    level_passes: int = _static(10)
    init_norm: Number | None = None
    norm_gain: Number = 0.3
    max_norm_change: Number = 0.15
    learning_rate: Number = 0.3
    restart_learning_rate: Number = 0.03
    final_learning_rate: Number = 0.01
    momentum: Number = 0.9
    temperature: Number | None = None
    final_temperature_ratio: Number | None = None
    give_up: Number = 6.0


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
