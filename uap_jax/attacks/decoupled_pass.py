"""What the decoupled method does between two passes."""

import dataclasses

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.decoupled_schedule import (
    adapt_norm,
    level_at,
    levels_of,
    loudest_norm,
    num_levels,
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


def _lead(state: DecoupledState, asr: jax.Array, objective: jax.Array) -> Leader:
    """Returns the leader after a pass; those after the first S change nothing."""
    leader = state.leader
    is_better = (asr > leader.asr) | (
        (asr == leader.asr) & (objective < leader.objective)
    )
    is_better &= state.num_passes < state.starts.shape[0]
    own = Leader(state.perturbation.value, state.direction, asr, objective)
    return jax.tree.map(lambda a, b: jnp.where(is_better, a, b), own, leader)


def end_pass(
    problem: DecoupledProblem, state: DecoupledState, config: DecoupledConfig
) -> DecoupledState:
    """Keeps v where it is the quietest, writes history, sets what comes next."""
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
    leader = _lead(state, asr, values["objective"])
    num_passes = state.num_passes + 1
    begins = num_passes < state.starts.shape[0]
    chooses = num_passes == state.starts.shape[0]
    start = state.starts[jnp.minimum(num_passes, state.starts.shape[0] - 1)]
    value = jnp.where(begins, start, jnp.where(chooses, leader.value, value))
    direction = jnp.where(
        begins,
        jnp.zeros_like(start),
        jnp.where(chooses, leader.direction, state.direction),
    )
    asr = jnp.where(chooses, leader.asr, asr)
    is_last = num_passes >= total_passes(config)
    next_level = jnp.minimum(level_at(num_passes, config), num_levels(config) - 1)
    largest = loudest_norm(config, value.shape[0])
    next_norm = adapt_norm(state.norm, asr, levels[next_level], config, largest=largest)
    # All starts have the same norm, or their rates would not compare.
    next_norm = jnp.where(begins, state.norm, next_norm)
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
        direction=direction,
        leader=leader,
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
