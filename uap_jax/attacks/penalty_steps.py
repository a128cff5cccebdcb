"""The compiled parts of the penalty method: objective, steps, evaluation of a pass.

`penalty` puts them together; what is not compiled is there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from uap_jax.attacks import types
from uap_jax.attacks.checks import known
from uap_jax.attacks.objectives import hinge
from uap_jax.attacks.passes import (
    Count,
    count_fooled,
    num_batches,
    success_rate,
    take_batch,
)
from uap_jax.attacks.projections import project_l2
from uap_jax.attacks.types import LogitsFn, PenaltyConfig
from uap_jax.audio.box import from_tanh_space, to_tanh_space
from uap_jax.audio.levels import spl_db

HINGE_REDUCTIONS = ("sum", "released")

# What the paper compares; every other name is looked up in optax.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adagrad": optax.adagrad,
    "sgd": optax.sgd,
    "nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
}

HISTORY_FIELDS = ("asr", "spl_db", "objective", "hinge")


class PenaltyProblem(NamedTuple):
    """What stays fixed during an attack; lives on the device."""

    x_tanh: jax.Array  # [M, N], x' of Eq. 7
    labels: jax.Array  # [M] int32, true labels
    clean_predictions: jax.Array  # [M] int32
    target: jax.Array  # [] int32; -1: untargeted


class PenaltyState(NamedTuple):
    """What a segment takes and returns; a pytree of arrays, to store as it is."""

    value: jax.Array  # [N], v'
    opt_state: Any
    key: jax.Array  # the batches of pass p follow from fold_in(key, p)
    num_passes: jax.Array  # [] int32, completed passes
    batch: jax.Array  # [] int32, next batch of the running pass
    block: jax.Array  # [] int32, next block of its evaluation
    num_fooled: jax.Array  # [] int32, in the blocks evaluated so far
    objective_sum: jax.Array  # [], over the batches of the running pass
    hinge_sum: jax.Array  # [], over its clips
    stop_reason: jax.Array  # [] int32, index into types.STOP_REASONS
    history: dict[str, jax.Array]  # [max_passes] each, HISTORY_FIELDS


def batch_objective(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    value: jax.Array,
    clips: jax.Array,
    weights: jax.Array,
    *,
    config: PenaltyConfig,
    targeted: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """SPL(v') + c sum_i G(w_i) of a batch and its gradient, Eq. 10 and 11.

    The gradient is summed over micro-batches. With `hinge_reduction="released"` it is
    that of the authors' code: c sum_i dG(w_i) / dw_i.

    Args:
        logits_fn, variables: As for `penalty`.
        problem: The attack clips.
        value: `[N]`, v'.
        clips: `[K, S]` int32, the batch as micro-batches of indices.
        weights: `[K, S]`, 1, or 0 for what only fills up the last micro-batch.
        config: Resolved settings.
        targeted: Whether `problem.target` is a class.

    Returns:
        The objective `[]`, the sum of hinges `[]`, the gradient `[N]`.
    """

    def hinge_sum(w: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
        classes = problem.labels[index]
        if targeted:
            classes = jnp.full_like(classes, problem.target)
        losses = hinge(
            logits_fn(variables, w),
            classes,
            confidence=known(config.confidence),
            targeted=targeted,
        )
        # Not a product: a clip that only fills up must not turn 0 into NaN.
        return jnp.sum(jnp.where(weight > 0, losses, jnp.zeros_like(losses)))

    def of_value(value: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
        w = from_tanh_space(problem.x_tanh[index] + value[None])
        return hinge_sum(w, index, weight)

    def add_micro_batch(carry: Any, micro_batch: Any) -> tuple[Any, None]:
        total, gradient = carry
        index, weight = micro_batch
        if config.hinge_reduction == "released":
            w = from_tanh_space(problem.x_tanh[index] + value[None])
            loss, by_clip = jax.value_and_grad(hinge_sum)(w, index, weight)
            step = jnp.sum(by_clip, axis=0)
        else:
            loss, step = jax.value_and_grad(of_value)(value, index, weight)
        return (total + loss, gradient + step), None

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(value))
    (total, gradient), _ = jax.lax.scan(add_micro_batch, start, (clips, weights))
    level_db, level_gradient = jax.value_and_grad(spl_db)(value)
    coefficient = known(config.penalty_coefficient)
    gradient = coefficient * gradient
    if config.hinge_reduction == "sum":
        gradient = gradient + level_gradient
    return level_db + coefficient * total, total, gradient


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def descend(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    state: PenaltyState,
    config: PenaltyConfig,
    max_steps: jax.Array,
    *,
    targeted: bool,
) -> PenaltyState:
    """Optimizer steps until the pass has no batches left, or `max_steps`."""
    num_clips = problem.labels.shape[0]
    last_batch = num_batches(config, num_clips)
    optimizer = optimizer_of(config)
    order = jax.random.permutation(
        jax.random.fold_in(state.key, state.num_passes), num_clips
    ).astype(jnp.int32)

    def should_go_on(carry: tuple[PenaltyState, jax.Array]) -> jax.Array:
        state, steps_left = carry
        running = state.stop_reason == types.RUNNING
        return running & (state.batch < last_batch) & (steps_left > 0)

    def step(
        carry: tuple[PenaltyState, jax.Array],
    ) -> tuple[PenaltyState, jax.Array]:
        state, steps_left = carry
        clips, weights = take_batch(order, state.batch, config)
        objective, hinges, gradient = batch_objective(
            logits_fn,
            variables,
            problem,
            state.value,
            clips,
            weights,
            config=config,
            targeted=targeted,
        )
        # Optax mixes dtypes in places, which a caller's strict setting forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(
                gradient, state.opt_state, state.value
            )
        value = jnp.asarray(optax.apply_updates(state.value, updates))
        if config.l2_radius is not None:
            value = project_l2(value, radius=config.l2_radius)
        stop_reason = jnp.where(
            ~jnp.isfinite(objective),
            types.NON_FINITE_OBJECTIVE,
            jnp.where(
                # A rate far too large makes the step overflow.
                ~jnp.all(jnp.isfinite(gradient) & jnp.isfinite(value)),
                types.NON_FINITE_GRADIENT,
                types.RUNNING,
            ),
        ).astype(jnp.int32)
        new = state._replace(
            value=value,
            opt_state=opt_state,
            batch=state.batch + 1,
            objective_sum=state.objective_sum + objective,
            hinge_sum=state.hinge_sum + hinges,
        )
        # What was found before the fault is kept.
        good = stop_reason == types.RUNNING
        new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        return new._replace(stop_reason=stop_reason), steps_left - 1

    state, _ = jax.lax.while_loop(should_go_on, step, (state, max_steps))
    return state


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def evaluate(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    state: PenaltyState,
    config: PenaltyConfig,
    max_steps: jax.Array,
    *,
    targeted: bool,
) -> PenaltyState:
    """Counts the clips that v' fools, and ends the pass when all are counted."""

    def logits_of(clips: jax.Array) -> jax.Array:
        w = from_tanh_space(problem.x_tanh[clips] + state.value[None])
        return logits_fn(variables, w)

    count, is_whole = count_fooled(
        logits_of,
        problem.clean_predictions,
        Count(state.block, state.num_fooled, state.stop_reason),
        max_steps,
        block_size=known(config.micro_batch_size),
        target=problem.target,
        targeted=targeted,
    )
    state = state._replace(**count._asdict())
    closed = _end_pass(state, config, problem.labels.shape[0])
    return jax.tree.map(lambda a, b: jnp.where(is_whole, a, b), closed, state)


def _end_pass(
    state: PenaltyState, config: PenaltyConfig, num_clips: int
) -> PenaltyState:
    """Writes the pass into the history and decides whether to stop."""
    asr = success_rate(state.num_fooled, num_clips)
    values = {
        "asr": asr,
        "spl_db": spl_db(state.value),
        "objective": state.objective_sum / num_batches(config, num_clips),
        "hinge": state.hinge_sum / num_clips,
    }
    num_passes = state.num_passes + 1
    reached = asr >= config.target_asr
    if config.min_passes is not None:
        reached &= num_passes >= config.min_passes
    stop_reason = jnp.where(
        reached,
        types.CONVERGED,
        jnp.where(num_passes >= config.max_passes, types.MAX_PASSES, types.RUNNING),
    ).astype(jnp.int32)
    return state._replace(
        num_passes=num_passes,
        batch=jnp.zeros_like(state.batch),
        block=jnp.zeros_like(state.block),
        num_fooled=jnp.zeros_like(state.num_fooled),
        objective_sum=jnp.zeros_like(state.objective_sum),
        hinge_sum=jnp.zeros_like(state.hinge_sum),
        stop_reason=stop_reason,
        history={
            field: state.history[field].at[state.num_passes].set(values[field])
            for field in HISTORY_FIELDS
        },
    )


def optimizer_of(config: PenaltyConfig) -> optax.GradientTransformation:
    """Returns the optimizer that a config names.

    Raises:
        ValueError: There is none of this name.
    """
    if not _is_optimizer(config.optimizer):
        raise ValueError(
            f"optimizer: expected one of {tuple(OPTIMIZERS)} or an optax optimizer "
            f"that needs a learning rate only, got {config.optimizer!r}"
        )
    return _make_optimizer(config.optimizer, config.learning_rate)


def _make_optimizer(name: str, learning_rate: Any) -> optax.GradientTransformation:
    make: Any = OPTIMIZERS.get(name, getattr(optax, name, None))
    return make(learning_rate)


@functools.cache
def _is_optimizer(name: str) -> bool:
    """Whether a step goes downhill; much in optax is only a part of an optimizer."""
    if name in OPTIMIZERS:
        return True
    value, gradient = jnp.zeros(2), jnp.ones(2)
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        try:
            optimizer = _make_optimizer(name, 1.0)
            step, _ = optimizer.update(gradient, optimizer.init(value), value)
            return bool(jnp.all(jnp.asarray(step) < 0))
        except (TypeError, ValueError, AttributeError):
            return False


@jax.jit
def all_to_tanh_space(x: jax.Array) -> jax.Array:
    """`to_tanh_space`, compiled."""
    return to_tanh_space(x)
