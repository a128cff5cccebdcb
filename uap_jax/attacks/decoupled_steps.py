"""The compiled parts of the decoupled method: direction steps, the norm after a pass.

`decoupled` puts them together; what is not compiled is there.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.checks import known
from uap_jax.attacks.decoupled_pass import end_pass
from uap_jax.attacks.decoupled_schedule import (
    first_norm,
    passes_since_start,
    step_length,
    temperature_ratio,
)
from uap_jax.attacks.decoupled_state import DecoupledProblem, DecoupledState
from uap_jax.attacks.objectives import margin, soft_hinge
from uap_jax.attacks.passes import (
    Count,
    count_fooled,
    num_batches,
    take_batch,
)
from uap_jax.attacks.types import DecoupledConfig, LogitsFn
from uap_jax.audio.box import from_tanh_space

# T of the soft hinge over the median margin of the clean clips.
TEMPERATURE_SHARE = 0.35

# How far clips are turned in time. Much more makes v one that works at other times too,
# which has its price in level.
SHIFT_SHARE, MOST_SHIFT = 40, 400


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
    temperature: jax.Array,
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
        temperature: `[]`, T of the soft hinge.
        config: Resolved settings.
        targeted: Whether `problem.target` is a class.

    Returns:
        The objective `[]` and the gradient `[N]`.
    """

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


def steps_since_start(
    state: DecoupledState, num_batches: int, config: DecoupledConfig
) -> jax.Array:
    """Returns how many steps the direction is the mean of, the next one included."""
    earlier = passes_since_start(state.num_passes, config)
    return earlier * num_batches + state.batch + 1


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
    temperature = temperature_of(problem, config, targeted=targeted)

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
            temperature=temperature
            * temperature_ratio(state.num_passes, state.batch, config, num_clips),
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
            num_steps=steps_since_start(state, last_batch, config),
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
    closed = end_pass(problem, state, config)
    return jax.tree.map(lambda a, b: jnp.where(is_whole, a, b), closed, state)
