"""The decoupled method's steps, and what follows from each pass."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.batches import (
    batch_loss,
    batch_of,
    classes_of,
    gradient_fault,
    passing,
    per_used_clip,
)
from uap_jax.attacks.decoupled.schedule import (
    adapt_norm,
    first_norm,
    level_at,
    levels_of,
    passes_since_start,
    step_length,
    temperature_ratio,
)
from uap_jax.attacks.decoupled.starts import (
    Start,
    begin_level,
    choose,
    first_values,
    next_start,
    temperature_of,
    unit,
)
from uap_jax.attacks.equations import perturb, soft_hinge
from uap_jax.attacks.types import At, Classify, Front, LeftOut, PassEnd, Problem, Step

# b: share of the earlier directions in that of a step.
MOMENTUM = 0.9
# g of `equations.soft_hinge`.
GIVE_UP = 6.0
# How far clips are shifted in time. Much more makes v one that works at other times
# too, which has its price in level.
SHIFT_SHARE, MAX_SHIFT = 40, 400


class Own(NamedTuple):
    value: jax.Array  # [P], v
    direction: jax.Array  # [P], d, the mean of normalised gradients
    norm: jax.Array  # [], rho, what the norm of v is held at
    temperature: jax.Array  # [], T of the soft hinge at first
    starts: jax.Array  # [S, P], tried one after the other
    leader: Start  # the best start so far, after its passes
    front: Front
    main_level: jax.Array  # [] int32, index of the rate that is returned


def init(classify: Classify, problem: Problem) -> Own:
    levels, main_level = levels_of(problem.config)
    num_levels, num_samples = levels.shape[0], problem.num_sound_samples
    silence = jnp.zeros(num_samples, jnp.float32)
    zero = jnp.zeros((), jnp.float32)
    return Own(
        value=silence,
        direction=silence,
        norm=first_norm(problem),
        temperature=temperature_of(problem),
        starts=first_values(classify, problem),
        leader=Start(
            silence, silence, norm=jnp.float32(jnp.inf), asr=zero, objective=zero
        ),
        front=Front(
            asr_levels=levels,
            values=jnp.zeros((num_levels, num_samples), jnp.float32),
            norm=jnp.full(num_levels, jnp.inf, jnp.float32),
            train_asr=jnp.zeros(num_levels, jnp.float32),
        ),
        main_level=main_level,
    )


def max_shift(problem: Problem) -> int:
    """Most samples that a clip is shifted by."""
    num_samples, asked = problem.x.shape[1], problem.config.max_shift
    if asked is not None:
        return min(asked, num_samples // 2)
    # A channel says when the sound begins: it moves the sound, never the clip.
    if problem.channel is not None or not problem.targeted:
        return 0
    return min(num_samples // SHIFT_SHARE, MAX_SHIFT)


def batch_objective(
    classify: Classify,
    problem: Problem,
    v: jax.Array,
    clips: jax.Array,
    weights: jax.Array,
    shifts: jax.Array,
    *,
    temperature: jax.Array,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, LeftOut]:
    """The sum of soft hinges over a batch of shifted clips, and its gradient.

    Args:
        classify: Clips in the box to logits.
        problem: The attack clips and settings.
        v: `[P]`.
        clips: `[K, S]` int32, the batch as micro-batches of indices.
        weights: `[K, S]`, 1, or 0 for what only fills up the last micro-batch.
        shifts: `[K, S]` int32, samples that each clip is shifted by.
        temperature: `[]`, T of the soft hinge.
        key: Of the pass, for the channel; consumed.

    Returns:
        The objective `[]`, the gradient `[P]`, and which clips are in neither.
    """

    def losses(v: jax.Array, clips: jax.Array, shifts: jax.Array) -> jax.Array:
        x = problem.x[clips]
        if max_shift(problem):
            x = jax.vmap(jnp.roll)(x, shifts)
        classes = classes_of(problem, problem.clean_predictions, clips)
        x = perturb(
            x,
            v,
            space="tanh",
            **passing(problem.channel, key, clips),
        )
        losses = soft_hinge(
            classify(x),
            classes,
            temperature=temperature,
            give_up=GIVE_UP,
            targeted=problem.targeted,
        )
        # A clip without a clean prediction has no class to leave.
        return jnp.where(classes >= 0, losses, jnp.inf)

    return batch_loss(losses, v, clips, weights, shifts)


def move(
    v: jax.Array,
    direction: jax.Array,
    gradient: jax.Array,
    *,
    norm: jax.Array,
    length: jax.Array,
    num_steps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One step of the direction, on the sphere of radius rho.

    d <- b d + (1 - b) g / ||g||,   v <- rho u / ||u||,
    u = v - length rho d / (1 - b^n)

    Args:
        v: `[P]`.
        direction: `[P]`, d.
        gradient: `[P]`, g; zero leaves the direction as it is.
        norm: `[]`, rho.
        length: `[]`, of a step, as a share of rho.
        num_steps: `[]` int32, n, this one included.

    Returns:
        v and d.
    """
    b = jnp.float32(MOMENTUM)
    direction = b * direction + (1 - b) * unit(gradient)
    bias = 1 - b ** num_steps.astype(jnp.float32)
    v = v - (length * norm / bias) * direction
    return norm * unit(v), direction


def step(classify: Classify, problem: Problem, own: Own, at: At) -> Step:
    """One step of the direction on a batch."""
    config = problem.config
    clips, weights = batch_of(problem, at)
    batch = at.position // config.batch_size
    most = max_shift(problem)
    shift_key = jax.random.fold_in(at.key, batch)
    objective, gradient, left_out = batch_objective(
        classify,
        problem,
        own.value,
        clips,
        weights,
        jax.random.randint(shift_key, clips.shape, -most, most + 1, jnp.int32),
        temperature=own.temperature * temperature_ratio(problem, at),
        key=at.key,
    )
    num_batches = -(-problem.num_clips // config.batch_size)
    value, direction = move(
        own.value,
        own.direction,
        gradient,
        norm=own.norm,
        length=step_length(problem, at),
        num_steps=passes_since_start(at.num_passes, problem) * num_batches + batch + 1,
    )
    return Step(
        own._replace(value=value, direction=direction),
        config.batch_size,
        sums={"objective": objective},
        fault=gradient_fault(objective, gradient, value),
        left_out=left_out,
    )


def keep_quietest(
    front: Front, value: jax.Array, norm: jax.Array, asr: jax.Array
) -> Front:
    """Enters v for every success rate that it has and nothing quieter had."""
    # By more than rounding: of equally loud ones the first is kept, at any width.
    quieter = norm < (1.0 - 1e-5) * front.norm
    better = (asr >= front.asr_levels) & quieter
    return Front(
        asr_levels=front.asr_levels,
        values=jnp.where(better[:, None], value[None], front.values),
        norm=jnp.where(better, norm[None], front.norm),
        train_asr=jnp.where(better, asr[None], front.train_asr),
    )


def end_pass(
    problem: Problem,
    own: Own,
    asr: jax.Array,
    *,
    sums: dict[str, jax.Array],
    num_passes: jax.Array,
) -> PassEnd:
    """Keeps v where it is the quietest; sets where and how loud the next pass is."""
    config, num_samples = problem.config, problem.num_sound_samples
    levels, main_level = levels_of(config)
    level = level_at(num_passes, main_level, config)
    norm = jnp.linalg.norm(own.value)
    front = keep_quietest(
        dataclasses.replace(own.front, asr_levels=levels), own.value, norm, asr
    )
    objective = per_used_clip(sums["objective"], sums, problem)
    ended = Start(own.value, own.direction, own.norm, asr, objective)
    num_passes = num_passes + 1
    leader, start, begins = next_start(
        own.starts, own.leader, ended, num_passes, levels[main_level], config
    )
    next_level = level_at(num_passes, main_level, config)
    changes = next_level != level
    of_level, keeps_norm = begin_level(front, start, next_level, main_level)
    start = choose(changes, of_level, start)
    next_norm = adapt_norm(start.norm, start.asr, levels[next_level], num_samples)
    next_norm = jnp.where(keeps_norm & changes, start.norm, next_norm)
    next_norm = jnp.where(begins, first_norm(problem), next_norm)
    is_last = num_passes >= config.total_passes
    converged = is_last & jnp.isfinite(front.norm[main_level])
    return PassEnd(
        own._replace(
            value=start.value,
            direction=start.direction,
            norm=next_norm,
            leader=leader,
            front=front,
        ),
        {"asr_level": levels[level], "norm": norm, "objective": objective},
        jnp.where(converged, types.CONVERGED, types.RUNNING),
    )
