"""What the decoupled method does between two passes."""

import dataclasses

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.decoupled_schedule import (
    adapt_norm,
    first_norm,
    level_at,
    levels_of,
    loudest_norm,
    norm_change,
    total_passes,
)
from uap_jax.attacks.decoupled_state import (
    HISTORY_FIELDS,
    DecoupledProblem,
    DecoupledState,
    Leader,
)
from uap_jax.attacks.passes import success_rate
from uap_jax.attacks.types import DecoupledConfig
from uap_jax.audio.levels import spl_db


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


def lead(
    leader: Leader, other: Leader, asr_level: jax.Array, config: DecoupledConfig
) -> Leader:
    """Returns the start that promises the quieter v: the lower log(rho) + norm_change.

    That is the norm that each would go on with; their rates alone do not compare, as
    their norms differ by then.
    """

    def promise(start: Leader) -> jax.Array:
        return jnp.log(start.norm) + norm_change(start.asr, asr_level, config)

    own, others = promise(leader), promise(other)
    is_better = (others < own) | (
        (others == own) & (other.objective < leader.objective)
    )
    return _choose(is_better, other, leader)


def next_place(
    state: DecoupledState, own: Leader, asr_level: jax.Array, config: DecoupledConfig
) -> tuple[Leader, Leader, jax.Array]:
    """Returns the leader after a pass, where the next one is, if that is a new start.

    Args:
        state: That of the pass.
        own: Where the pass has ended.
        asr_level: The success rate of the passes at all starts.
        config: Resolved settings.

    Returns:
        The leader; its own place again while passes of a start are left, the next start
        where there is one, and after the last the leader; whether it is the next start.
    """
    num_passes, num_starts = state.num_passes + 1, state.starts.shape[0]
    num_tried = num_passes // config.start_passes
    ends = (num_passes % config.start_passes == 0) & (num_tried <= num_starts)
    leader = _choose(ends, lead(state.leader, own, asr_level, config), state.leader)
    begins = ends & (num_tried < num_starts)
    start = own._replace(
        value=state.starts[jnp.minimum(num_tried, num_starts - 1)],
        direction=jnp.zeros_like(own.direction),
    )
    return leader, _choose(begins, start, _choose(ends, leader, own)), begins


def _choose(condition: jax.Array, a: Leader, b: Leader) -> Leader:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def begin_level(
    front: types.Front, own: Leader, level: jax.Array, main_level: jax.Array
) -> tuple[Leader, jax.Array]:
    """Returns where the passes for another success rate begin.

    Args:
        front: The quietest v so far.
        own: Where the passes for the rate before have ended.
        level: Index of the rate that is next.
        main_level: Index of the first rate.

    Returns:
        For a rate below the first the quietest v that has it, unless the end of the
        rate before is quieter; for a higher one the quietest with the next lower rate,
        if any has. And `[]` bool, whether the norm is that of v as it is.
    """
    is_higher = level < main_level
    source = jnp.where(is_higher, level + 1, level)
    norm = front.norm[source]
    goes_back = jnp.isfinite(norm) & (is_higher | (norm < own.norm))
    known = own._replace(
        value=front.values[source],
        direction=jnp.where(is_higher, jnp.zeros_like(own.direction), own.direction),
        norm=norm,
        asr=front.train_asr[source],
    )
    return _choose(goes_back, known, own), goes_back & ~is_higher


def end_pass(
    problem: DecoupledProblem, state: DecoupledState, config: DecoupledConfig
) -> DecoupledState:
    """Keeps v where it is the quietest, writes history, sets what comes next."""
    num_clips = problem.clean_predictions.shape[0]
    asr = success_rate(state.num_fooled, num_clips)
    value = state.perturbation.value
    norm = jnp.linalg.norm(value)
    levels, main_level = levels_of(config)
    level = level_at(state.num_passes, main_level, config)
    front = dataclasses.replace(state.front, asr_levels=levels)
    front = keep_quietest(front, value, norm, asr)
    values = {
        "asr": asr,
        "asr_level": levels[level],
        "spl_db": spl_db(value),
        "norm": norm,
        "objective": state.objective_sum / num_clips,
    }
    own = Leader(value, state.direction, state.norm, asr, values["objective"])
    leader, place, begins = next_place(state, own, levels[main_level], config)
    num_passes = state.num_passes + 1
    next_level = level_at(num_passes, main_level, config)
    known, keeps_norm = begin_level(front, place, next_level, main_level)
    place = _choose(next_level != level, known, place)
    keeps_norm &= next_level != level
    num_samples = value.shape[0]
    next_norm = adapt_norm(
        place.norm,
        place.asr,
        levels[next_level],
        config,
        largest=loudest_norm(config, num_samples),
    )
    next_norm = jnp.where(keeps_norm, place.norm, next_norm)
    next_norm = jnp.where(begins, first_norm(config, num_samples), next_norm)
    found = jnp.isfinite(front.norm[main_level])
    reason = jnp.where(found, types.CONVERGED, types.MAX_PASSES)
    is_last = num_passes >= total_passes(config)
    return state._replace(
        perturbation=dataclasses.replace(state.perturbation, value=place.value),
        direction=place.direction,
        leader=leader,
        norm=next_norm,
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
