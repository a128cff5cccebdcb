"""The compiled parts of the decoupled method: direction steps, the norm after a pass.

`decoupled` puts them together; what is not compiled is there.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.checks import known
from uap_jax.attacks.decoupled_schedule import (
    adapt_norm,
    first_norm,
    level_at,
    levels_of,
    loudest_norm,
    num_levels,
    step_length,
    total_passes,
)
from uap_jax.attacks.objectives import margin, soft_hinge
from uap_jax.attacks.passes import (
    Count,
    count_fooled,
    num_batches,
    success_rate,
    take_batch,
)
from uap_jax.attacks.types import DecoupledConfig, LogitsFn
from uap_jax.audio.box import from_tanh_space
from uap_jax.audio.levels import spl_db

# T of the soft hinge over the median margin of the clean clips.
TEMPERATURE_SHARE = 0.35

# How far clips are turned in time. Much more makes v one that works at other times too,
# which has its price in level.
SHIFT_SHARE, MOST_SHIFT = 40, 400

HISTORY_FIELDS = ("asr", "asr_level", "spl_db", "norm", "objective")


class DecoupledProblem(NamedTuple):
    """What stays fixed during an attack; lives on the device."""

    x: jax.Array  # [M, N] in [0, 1], or x' of Eq. 7 for space "tanh"
    clean_logits: jax.Array  # [M, C]
    clean_predictions: jax.Array  # [M] int32
    target: jax.Array  # [] int32; -1: untargeted


class DecoupledState(NamedTuple):
    """What a segment takes and returns; a pytree of arrays, to store as it is."""

    perturbation: types.Perturbation  # v
    direction: jax.Array  # [N], the mean of normalised gradients
    norm: jax.Array  # [], what the norm of v is held at; 0: not begun
    key: jax.Array  # the batches of pass p follow from fold_in(key, p)
    num_passes: jax.Array  # [] int32, completed passes
    batch: jax.Array  # [] int32, next batch of the running pass
    block: jax.Array  # [] int32, next block of its evaluation
    num_fooled: jax.Array  # [] int32, in the blocks evaluated so far
    objective_sum: jax.Array  # [], over the clips of the running pass
    stop_reason: jax.Array  # [] int32, index into types.STOP_REASONS
    front: types.Front
    main_level: jax.Array  # [] int32, index of the rate that is returned
    history: dict[str, jax.Array]  # [num_passes in all] each, HISTORY_FIELDS


def add_to_clips(x: jax.Array, value: jax.Array, *, space: str) -> jax.Array:
    """The perturbed clips: (tanh(x' + v') + 1) / 2, or clip(x + v) to [0, 1]."""
    if space == "tanh":
        return from_tanh_space(x + value[None])
    return jnp.clip(x + value[None], 0.0, 1.0)


def temperature_of(
    problem: DecoupledProblem, config: DecoupledConfig, *, targeted: bool
) -> jax.Array:
    """Returns T `[]`: as set, or from how far clean clips are from being fooled."""
    if config.temperature is not None:
        return jnp.asarray(config.temperature, jnp.float32)
    classes = problem.clean_predictions
    if targeted:
        classes = jnp.full_like(classes, problem.target)
    margins = margin(problem.clean_logits, classes, targeted=targeted)
    found = TEMPERATURE_SHARE * jnp.median(jnp.abs(margins))
    # Any will do for logits that do not differ or are not finite.
    usable = jnp.isfinite(found) & (found > 0)
    return jnp.where(usable, found, jnp.ones_like(found))


def batch_objective(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: DecoupledProblem,
    value: jax.Array,
    clips: jax.Array,
    weights: jax.Array,
    shifts: jax.Array,
    *,
    config: DecoupledConfig,
    targeted: bool,
) -> tuple[jax.Array, jax.Array]:
    """The sum of soft hinges over a batch, and its gradient.

    Args:
        logits_fn, variables: As for `decoupled`.
        problem: The attack clips.
        value: `[N]`, v.
        clips: `[K, S]` int32, the batch as micro-batches of indices.
        weights: `[K, S]`, 1, or 0 for what only fills up the last micro-batch.
        shifts: `[K, S]` int32, samples that each clip is turned by.
        config: Resolved settings.
        targeted: Whether `problem.target` is a class.

    Returns:
        The objective `[]` and the gradient `[N]`.
    """
    temperature = temperature_of(problem, config, targeted=targeted)

    def objective(
        value: jax.Array, index: jax.Array, weight: jax.Array, shift: jax.Array
    ) -> jax.Array:
        x = problem.x[index]
        if max_shift(config, x.shape[1]):
            x = jax.vmap(jnp.roll)(x, shift)
        classes = problem.clean_predictions[index]
        if targeted:
            classes = jnp.full_like(classes, problem.target)
        losses = soft_hinge(
            logits_fn(variables, add_to_clips(x, value, space=config.space)),
            classes,
            temperature=temperature,
            give_up=config.give_up,
            targeted=targeted,
        )
        # Not a product: a clip that only fills up must not turn 0 into NaN.
        return jnp.sum(jnp.where(weight > 0, losses, jnp.zeros_like(losses)))

    def add_micro_batch(carry: Any, micro_batch: Any) -> tuple[Any, None]:
        total, gradient = carry
        loss, step = jax.value_and_grad(objective)(value, *micro_batch)
        return (total + loss, gradient + step), None

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(value))
    (total, gradient), _ = jax.lax.scan(
        add_micro_batch, start, (clips, weights, shifts)
    )
    return total, gradient


def max_shift(config: DecoupledConfig, num_samples: int) -> int:
    """Returns the most samples that a clip is turned by."""
    if config.max_shift is not None:
        return min(config.max_shift, num_samples // 2)
    return min(num_samples // SHIFT_SHARE, MOST_SHIFT)


def move(
    value: jax.Array,
    direction: jax.Array,
    gradient: jax.Array,
    *,
    norm: jax.Array,
    length: jax.Array,
    momentum: jax.Array,
    num_steps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One step of the direction, on the sphere of radius rho.

    d <- b d + (1 - b) g / ||g||,   v <- rho u / ||u||,
    u = v - length rho d / (1 - b^n)

    Args:
        value: `[N]`, v.
        direction: `[N]`, d.
        gradient: `[N]`, g; zero leaves the direction as it is.
        norm: `[]`, rho.
        length: `[]`, of a step, as a share of rho.
        momentum: `[]`, b.
        num_steps: `[]` int32, n, this one included.

    Returns:
        v and d.
    """
    direction = momentum * direction + (1 - momentum) * unit(gradient)
    bias = 1 - momentum ** num_steps.astype(jnp.float32)
    value = value - (length * norm / bias) * direction
    return norm * unit(value), direction


def unit(v: jax.Array) -> jax.Array:
    """v / ||v||_2; zero for zero."""
    # Twice, as the squares of a very small or large v leave the range of float32.
    largest = jnp.max(jnp.abs(v))
    v = v / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    length = jnp.linalg.norm(v)
    return v / jnp.where(length > 0, length, jnp.ones_like(length))


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def descend(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: DecoupledProblem,
    state: DecoupledState,
    config: DecoupledConfig,
    max_steps: jax.Array,
    *,
    targeted: bool,
) -> DecoupledState:
    """Steps of the direction until the pass has no batches left, or `max_steps`."""
    num_clips = problem.clean_predictions.shape[0]
    last_batch = num_batches(config, num_clips)
    pass_key = jax.random.fold_in(state.key, state.num_passes)
    order = jax.random.permutation(pass_key, num_clips).astype(jnp.int32)
    most = max_shift(config, problem.x.shape[1])

    begun = jnp.where(
        state.norm > 0, state.norm, first_norm(config, problem.x.shape[1])
    )
    state = state._replace(norm=begun)

    def should_go_on(carry: tuple[DecoupledState, jax.Array]) -> jax.Array:
        state, steps_left = carry
        running = state.stop_reason == types.RUNNING
        return running & (state.batch < last_batch) & (steps_left > 0)

    def step(
        carry: tuple[DecoupledState, jax.Array],
    ) -> tuple[DecoupledState, jax.Array]:
        state, steps_left = carry
        clips, weights = take_batch(order, state.batch, config)
        shift_key = jax.random.fold_in(pass_key, state.batch)
        objective, gradient = batch_objective(
            logits_fn,
            variables,
            problem,
            state.perturbation.value,
            clips,
            weights,
            jax.random.randint(shift_key, clips.shape, -most, most + 1),
            config=config,
            targeted=targeted,
        )
        value, direction = move(
            state.perturbation.value,
            state.direction,
            gradient,
            norm=state.norm,
            length=step_length(state.num_passes, state.batch, config, num_clips),
            momentum=jnp.asarray(config.momentum, jnp.float32),
            num_steps=state.num_passes * last_batch + state.batch + 1,
        )
        stop_reason = jnp.where(
            ~jnp.isfinite(objective),
            types.NON_FINITE_OBJECTIVE,
            jnp.where(
                ~jnp.all(jnp.isfinite(gradient) & jnp.isfinite(value)),
                types.NON_FINITE_GRADIENT,
                types.RUNNING,
            ),
        ).astype(jnp.int32)
        new = state._replace(
            perturbation=dataclasses.replace(state.perturbation, value=value),
            direction=direction,
            batch=state.batch + 1,
            objective_sum=state.objective_sum + objective,
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
    problem: DecoupledProblem,
    state: DecoupledState,
    config: DecoupledConfig,
    max_steps: jax.Array,
    *,
    targeted: bool,
) -> DecoupledState:
    """Counts the clips that v fools, and ends the pass when all are counted."""

    def logits_of(clips: jax.Array) -> jax.Array:
        w = add_to_clips(problem.x[clips], state.perturbation.value, space=config.space)
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
    closed = _end_pass(problem, state, config)
    return jax.tree.map(lambda a, b: jnp.where(is_whole, a, b), closed, state)


def keep_quietest(
    front: types.Front, value: jax.Array, norm: jax.Array, asr: jax.Array
) -> types.Front:
    """Enters v for every success rate that it has and nothing quieter had."""
    better = (asr >= front.asr_levels) & (norm < front.norm)
    return types.Front(
        asr_levels=front.asr_levels,
        values=jnp.where(better[:, None], value[None], front.values),
        norm=jnp.where(better, norm[None], front.norm),
        train_asr=jnp.where(better, asr[None], front.train_asr),
    )


def _end_pass(
    problem: DecoupledProblem, state: DecoupledState, config: DecoupledConfig
) -> DecoupledState:
    """Keeps v where it is the quietest, writes history, sets the next norm."""
    num_clips = problem.clean_predictions.shape[0]
    asr = success_rate(state.num_fooled, num_clips)
    value = state.perturbation.value
    norm = jnp.linalg.norm(value)
    levels, main_level = levels_of(config)
    front = dataclasses.replace(state.front, asr_levels=levels)
    front = keep_quietest(front, value, norm, asr)
    values = {
        "asr": asr,
        "asr_level": levels[level_at(state.num_passes, config)],
        "spl_db": spl_db(value),
        "norm": norm,
        "objective": state.objective_sum / num_clips,
    }
    num_passes = state.num_passes + 1
    is_last = num_passes >= total_passes(config)
    next_level = jnp.minimum(level_at(num_passes, config), num_levels(config) - 1)
    largest = loudest_norm(config, value.shape[0])
    next_norm = adapt_norm(state.norm, asr, levels[next_level], config, largest=largest)
    # A lower success rate begins with the quietest that has it, if there is one: the
    # rate above may have been out of reach, or left for something louder.
    known_norm = front.norm[next_level]
    goes_back = (next_level != level_at(state.num_passes, config)) & (known_norm < norm)
    found = jnp.isfinite(front.norm[main_level])
    reason = jnp.where(found, types.CONVERGED, types.MAX_PASSES)
    return state._replace(
        perturbation=dataclasses.replace(
            state.perturbation,
            value=jnp.where(goes_back, front.values[next_level], value),
        ),
        norm=jnp.where(goes_back, known_norm, next_norm),
        num_passes=num_passes,
        batch=jnp.zeros_like(state.batch),
        block=jnp.zeros_like(state.block),
        num_fooled=jnp.zeros_like(state.num_fooled),
        objective_sum=jnp.zeros_like(state.objective_sum),
        stop_reason=jnp.where(is_last, reason, types.RUNNING).astype(jnp.int32),
        front=front,
        main_level=main_level,
        history={
            field: state.history[field].at[state.num_passes].set(values[field])
            for field in HISTORY_FIELDS
        },
    )
