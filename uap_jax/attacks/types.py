"""What attacks take and return. `B` clips, `N` samples, `C` classes, float32."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.audio import box
from uap_jax.audio.channels import Channel

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


def static(default: Any) -> Any:
    """A field of a config that is part of the program, not an argument of it."""
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PassConfig:
    """The settings that all methods have; a method's config extends it.

    Numbers are leaves of a pytree: a new value recompiles nothing, and a sweep can vmap
    over them. Sizes and choices are static.

    Attributes:
        batch_size: S, clips per step; at most the number of attack clips is used.
        micro_batch_size: Clips that the classifier gets at once; None: a share of the
            batch of at most 32 on a CPU, 128 on an accelerator.
        max_passes: Passes over the attack clips.
        target_asr: 1 - delta, the success rate at which the attack stops.
    """

    batch_size: int | None = static(100)
    micro_batch_size: int | None = static(None)
    max_passes: int = static(100)
    target_asr: Number = 0.9

    @property
    def method(self) -> "Method":
        """The method that these are the settings of."""
        raise ValueError(
            f"config: expected the settings of a method, got {type(self).__name__}"
        )

    @property
    def total_passes(self) -> int:
        """Most passes of the whole attack."""
        return self.max_passes


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
    scaling: str | None = static(None)
    sample_rate_hz: int | None = static(None)
    epsilon: float = static(box.EPSILON)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Front:
    """The quietest perturbation for each success rate, highest rate first.

    Attributes:
        asr_levels: `[L]` success rates asked for, on the attack clips.
        values: `[L, N]`, as `Perturbation.value`; zero where none reached the rate.
        norm: `[L]`, l2 norms of the values; infinite where none reached the rate.
        train_asr: `[L]` success rates on the attack clips; 0 where none reached it.
    """

    asr_levels: jax.Array
    values: jax.Array
    norm: jax.Array
    train_asr: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The result of a universal attack.

    Attributes:
        perturbation: The universal perturbation.
        converged: `[]` bool; whether the success rate asked for was reached on the
            attack clips.
        train_asr: `[]` success rate on the attack clips after the last whole pass.
        num_passes: `[]` int32, passes over the attack clips that were completed.
        stop_reason: `[]` int32 index into `STOP_REASONS`.
        history: NumPy arrays `[total_passes]`, one value a pass, NaN past the end:
            `asr`, `spl_db` (of v), how many clips were `left_out` of its steps and had
            `non_finite` logits when counted, and the metrics of the method.
        left_out: `[M]` int32, passes in which each attack clip was left out of its
            step, as its loss or gradient was not finite.
        non_finite: `[M]` int32, passes after which its logits were not finite; such a
            clip is no success.
        front: The quietest perturbation for each of several success rates, from a
            method that returns one; else None.
    """

    perturbation: Perturbation
    converged: jax.Array
    train_asr: jax.Array
    num_passes: jax.Array
    stop_reason: jax.Array
    history: Mapping[str, np.ndarray]
    left_out: jax.Array
    non_finite: jax.Array
    front: Front | None = None


# Clips [B, N] in the box to logits [B, C].
Classify = Callable[[jax.Array], jax.Array]


class At(NamedTuple):
    """Where in a pass a step is taken."""

    order: jax.Array  # [M] int32, the clips in the order of the pass
    position: jax.Array  # [] int32, how many of them have been seen
    key: jax.Array  # random key of the pass
    num_passes: jax.Array  # [] int32, passes completed before it


_NONE: Mapping[str, jax.Array] = MappingProxyType({})


class LeftOut(NamedTuple):
    """Clips of a step that do not count, as something of theirs is not finite."""

    clips: jax.Array  # [...] int32
    is_out: jax.Array  # [...] bool
    # [] int32: RUNNING, or why no clip is left. Such a step changes nothing; a pass of
    # such steps only ends the attack.
    fault: jax.Array


class Step(NamedTuple):
    """The outcome of a step."""

    own: Any
    num_clips: Any  # how many more clips of the pass have been seen
    sums: Mapping[str, jax.Array] = _NONE  # added up over the pass, float32
    fault: Any = RUNNING  # index into STOP_REASONS; ends the attack before the step
    cost: Any = 1  # evaluations of the classifier, counted against `max_steps`
    left_out: LeftOut | None = None


class PassEnd(NamedTuple):
    """The outcome of a pass."""

    own: Any
    metrics: Mapping[str, jax.Array] = _NONE  # into the history
    stop_reason: Any = RUNNING  # CONVERGED or STALLED end the attack


def _stop_at_target(problem: "Problem", own: Any, asr: jax.Array, **_: Any) -> PassEnd:
    reached = asr >= problem.config.target_asr
    return PassEnd(own, {}, jnp.where(reached, CONVERGED, RUNNING))


class Method(NamedTuple):
    """A universal attack as data: its settings and the functions that the loop calls.

    `own` is the method's pytree of arrays. All functions but `resolve` are traced.

    Attributes:
        name: For people, files and flags.
        config_type: A frozen dataclass that extends `PassConfig`, a registered pytree.
        init: `(classify, problem) -> own`, the state before the first pass.
        step: `(classify, problem, own, at) -> Step`, one step of a pass.
        value: `(own) -> v [N]`, the perturbation that is evaluated after a pass.
        end_pass: `(problem, own, asr, sums=, num_passes=) -> PassEnd`; the default
            stops when `asr` reaches `target_asr`. `sums["left_out"]` counts clips.
        space: Of v, "tanh" or "signal"; `problem.x` holds the clips in it.
        sums: Names of `Step.sums`.
        metrics: Names of `PassEnd.metrics`.
        resolve: `(config, *, targeted, num_clips) -> config` with nothing left open,
            checked.
        most_at_once: `(config, num_clips) -> int`, above which a larger
            `micro_batch_size` is of no use; the default is the batch size.
        shuffles: `(config) -> bool`, whether each pass has a new random order.
        no_channel: Why it takes no channel; empty: it takes one. Its steps then give
            `equations.perturb` what `batches.passing` returns, and its v is `[P]`, of
            `problem.num_sound_samples`.
        finish: `(own, result) -> result`, for a method that returns more than v.
    """

    name: str
    config_type: type
    init: Callable[..., Any]
    step: Callable[..., Step]
    value: Callable[[Any], jax.Array]
    end_pass: Callable[..., PassEnd] = _stop_at_target
    space: str = "tanh"
    sums: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    resolve: Callable[..., Any] = lambda config, **_: config
    most_at_once: Callable[[Any, int], int] = lambda config, num_clips: (
        config.batch_size
    )
    shuffles: Callable[[Any], bool] = lambda config: True
    no_channel: str = "its steps add the perturbation to a clip as it is"
    finish: Callable[[Any, AttackResult], AttackResult] = lambda own, result: result


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """What stays fixed during an attack; lives on the device.

    Attributes:
        x: `[M, N]`, the attack clips in the space of v.
        labels: `[M]` int32, true classes.
        clean_logits: `[M, C]`.
        clean_predictions: `[M]` int32; -1 where the logits are not finite.
        target: `[]` int32, the class to say; None: untargeted.
        config: Of the method, resolved, numbers as float32.
        method: The method.
        num_sound_samples: P, of v; N without a channel.
        channel: What v passes in steps; None: nothing.
        counting_channel: What v passes where success is counted.
    """

    x: jax.Array
    labels: jax.Array
    clean_logits: jax.Array
    clean_predictions: jax.Array
    target: jax.Array | None
    config: Any
    method: Method = dataclasses.field(metadata={"static": True})
    num_sound_samples: int = dataclasses.field(metadata={"static": True})
    channel: Channel | None = None
    counting_channel: Channel | None = None

    @property
    def targeted(self) -> bool:
        """Whether there is a class to say."""
        return self.target is not None

    @property
    def num_clips(self) -> int:
        """M."""
        return self.labels.shape[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Where an attack stands; a pytree of arrays, to store as it is.

    Attributes:
        own: The method's part.
        key: The order of pass p follows from fold_in(key, p).
        num_passes: `[]` int32, completed passes.
        position: `[]` int32, clips of the running pass that have been seen.
        block: `[]` int32, next block of clips to count.
        num_fooled: `[]` int32, in the blocks counted so far.
        num_non_finite: `[]` int32, likewise, of clips whose logits are not finite.
        sums: What is added up over the running pass: `left_out` and the method's.
        stop_reason: `[]` int32 index into `STOP_REASONS`.
        left_out, non_finite: `[M]` int32, as of `AttackResult`.
        history: `[total_passes]` each, zero past the end.
        method: The method.
    """

    own: Any
    key: jax.Array
    num_passes: jax.Array
    position: jax.Array
    block: jax.Array
    num_fooled: jax.Array
    num_non_finite: jax.Array
    sums: dict[str, jax.Array]
    stop_reason: jax.Array
    left_out: jax.Array
    non_finite: jax.Array
    history: dict[str, jax.Array]
    method: Method = dataclasses.field(metadata={"static": True})
