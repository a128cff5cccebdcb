"""The penalty method: sound level plus a hinge loss over batches (Algorithm 1).

minimise over v'   SPL(v') + c sum_i G(w_i),   w_i = (tanh(x'_i + v') + 1) / 2
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from uap_jax.attacks import checks, loop, types
from uap_jax.attacks.batches import (
    batch_loss,
    batch_of,
    classes_of,
    gradient_fault,
    passing,
    per_used_clip,
)
from uap_jax.attacks.equations import hinge, perturb, project_l2
from uap_jax.attacks.types import (
    At,
    AttackResult,
    Classify,
    LeftOut,
    LogitsFn,
    Method,
    Number,
    PassConfig,
    PassEnd,
    Problem,
    Step,
    static,
)
from uap_jax.audio.channels import Channel
from uap_jax.audio.levels import spl_db

HINGE_REDUCTIONS = ("sum", "released")

# What the paper compares.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adagrad": optax.adagrad,
    "sgd": optax.sgd,
    "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PenaltyConfig(PassConfig):
    """Settings of the penalty method; the defaults are the paper's.

    Attributes:
        learning_rate: None: 0.0035 targeted, 0.006 untargeted.
        penalty_coefficient: c; None: 0.15 targeted, 0.2 untargeted.
        confidence: kappa; None: 10 targeted, 40 untargeted.
        hinge_reduction: "sum": SPL + c times the sum of the batch's hinges,
            differentiated with respect to v'. "released": the gradient of the
            authors' code, of the hinges alone and with respect to w.
        optimizer: "adam", "adagrad", "sgd", "nesterov", "rmsprop"; or a function from
            a learning rate to an optax optimizer.
        l2_radius: v' is projected to the l2 ball of this radius after every step;
            None: not at all.
        min_passes: Passes before which `target_asr` does not stop the attack; None:
            it stops after the first that reaches it.
    """

    learning_rate: Number | None = None
    penalty_coefficient: Number | None = None
    confidence: Number | None = None
    hinge_reduction: str = static("sum")
    optimizer: str | Callable[..., optax.GradientTransformation] = static("adam")
    l2_radius: Number | None = None
    min_passes: int | None = static(None)

    @property
    def method(self) -> Method:
        return PENALTY


def penalty(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: PenaltyConfig = PenaltyConfig(),
    channel: Channel | None = None,
    counting_channel: Channel | None = None,
    num_sound_samples: int | None = None,
) -> AttackResult:
    """Crafts a universal perturbation with the penalty method (Algorithm 1).

    Every pass visits the clips in new random batches and takes one optimizer step a
    batch; after it the success rate on all clips decides whether to stop.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box [0, 1].
        labels: `[M]` int32 true classes (the hinge of Eq. 11 uses them).
        key: Random key for the batches; consumed.
        target: The class to say, or None for an untargeted attack.
        config: Settings; the defaults are the paper's.
        channel, counting_channel, num_sound_samples: As of `begin`.

    Returns:
        The perturbation in tanh space, and how the attack went. `history` has `asr`,
        `spl_db` (of v'), `objective` (mean over the batches), `hinge` (mean over the
        clips) per pass.

    Raises:
        ValueError: An input or setting is out of its range.

    Source: Abdoli et al., "Universal Adversarial Audio Perturbations", section 3.2.
    """
    checks.check_config(config, PenaltyConfig)
    return loop.run(
        logits_fn,
        variables,
        x,
        labels,
        key=key,
        target=target,
        config=config,
        channel=channel,
        counting_channel=counting_channel,
        num_sound_samples=num_sound_samples,
    )


class _Own(NamedTuple):
    value: jax.Array  # [P], v'
    opt_state: Any


def _resolve(config: PenaltyConfig, *, targeted: bool, num_clips: int) -> PenaltyConfig:
    defaults: dict[str, Any] = dict(
        learning_rate=0.0035 if targeted else 0.006,
        penalty_coefficient=0.15 if targeted else 0.2,
        confidence=10.0 if targeted else 40.0,
    )
    unset = {name: v for name, v in defaults.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **unset)
    if config.min_passes is not None:
        checks.check_size("min_passes", config.min_passes)
        if config.min_passes > config.max_passes:
            raise ValueError(
                f"min_passes: expected at most {config.max_passes}, as max_passes, "
                f"got {config.min_passes}"
            )
    checks.check_positive("learning_rate", config.learning_rate)
    for field in ("penalty_coefficient", "confidence"):
        checks.check_number(field, getattr(config, field))
    if config.l2_radius is not None:
        checks.check_positive("l2_radius", config.l2_radius)
    checks.check_choice("hinge_reduction", config.hinge_reduction, HINGE_REDUCTIONS)
    if not callable(config.optimizer):
        checks.check_choice("optimizer", config.optimizer, tuple(OPTIMIZERS))
    return config


def _optimizer(config: Any) -> optax.GradientTransformation:
    make = config.optimizer
    return (make if callable(make) else OPTIMIZERS[make])(config.learning_rate)


def _init(classify: Classify, problem: Problem) -> _Own:
    value = jnp.zeros(problem.num_sound_samples, jnp.float32)
    return _Own(value, _optimizer(problem.config).init(value))


def batch_objective(
    classify: Classify,
    problem: Problem,
    v: jax.Array,
    clips: jax.Array,
    weights: jax.Array,
    *,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, LeftOut]:
    """SPL(v') + c sum_i G(w_i) of a batch and its gradient, Eq. 10 and 11.

    With `hinge_reduction="released"` the gradient is that of the authors' code:
    c sum_i dG(w_i) / dw_i.

    Args:
        classify: Clips in the box to logits.
        problem: The attack clips and settings.
        v: `[P]`, v'.
        clips: `[K, S]` int32, the batch as micro-batches of indices.
        weights: `[K, S]`, 1, or 0 for what only fills up the last micro-batch.
        key: Of the pass, for the channel; consumed.

    Returns:
        The objective `[]`, the sum of hinges `[]`, the gradient `[P]`, and which clips
        are in none of them.
    """
    config = problem.config
    is_released = config.hinge_reduction == "released"
    if is_released and problem.channel is not None:
        raise ValueError(
            "hinge_reduction: expected sum with a channel, as the released gradient "
            "takes dw / dv' as 1, got released"
        )

    def hinges(v: jax.Array, clips: jax.Array) -> jax.Array:
        w = perturb(
            problem.x[clips],
            v,
            space="tanh",
            **passing(problem.channel, key, clips),
        )
        if is_released:  # dw / dv' taken as 1
            w = jax.lax.stop_gradient(w) + (v - jax.lax.stop_gradient(v))
        return hinge(
            classify(w),
            classes_of(problem, problem.labels, clips),
            confidence=config.confidence,
            targeted=problem.targeted,
        )

    total, gradient, left_out = batch_loss(hinges, v, clips, weights)
    level_db, level_gradient = jax.value_and_grad(spl_db)(v)
    gradient = config.penalty_coefficient * gradient
    if not is_released:
        gradient = gradient + level_gradient
    objective = level_db + config.penalty_coefficient * total
    return objective, total, gradient, left_out


def _step(classify: Classify, problem: Problem, own: _Own, at: At) -> Step:
    """One optimizer step on a batch, and the projection if there is a radius."""
    config = problem.config
    objective, hinges, gradient, left_out = batch_objective(
        classify, problem, own.value, *batch_of(problem, at), key=at.key
    )
    # Optax mixes dtypes in places, which a caller's strict setting forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = _optimizer(config).update(
            gradient, own.opt_state, own.value
        )
    value = jnp.asarray(optax.apply_updates(own.value, updates))
    if config.l2_radius is not None:
        value = project_l2(value, radius=config.l2_radius)
    return Step(
        _Own(value, opt_state),
        config.batch_size,
        sums={"objective": objective, "hinge": hinges},
        fault=gradient_fault(objective, gradient, value),
        left_out=left_out,
    )


def _end_pass(
    problem: Problem,
    own: _Own,
    asr: jax.Array,
    *,
    sums: dict[str, jax.Array],
    num_passes: jax.Array,
) -> PassEnd:
    config = problem.config
    reached = asr >= config.target_asr
    if config.min_passes is not None:
        reached &= num_passes + 1 >= config.min_passes
    num_batches = -(-problem.num_clips // config.batch_size)
    metrics = {
        "objective": sums["objective"] / num_batches,
        "hinge": per_used_clip(sums["hinge"], sums, problem),
    }
    return PassEnd(own, metrics, jnp.where(reached, types.CONVERGED, types.RUNNING))


PENALTY = Method(
    name="penalty",
    config_type=PenaltyConfig,
    resolve=_resolve,
    init=_init,
    step=_step,
    value=lambda own: own.value,
    end_pass=_end_pass,
    space="tanh",
    sums=("objective", "hinge"),
    metrics=("objective", "hinge"),
    no_channel="",
)
