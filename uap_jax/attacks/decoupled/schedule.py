"""When and how far the decoupled method moves: success rates, step lengths, norms.

Functions of the settings and of the passes done; all can be traced.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks.types import At, Problem
from uap_jax.audio.box import EPSILON

# Starts that are tried, silence among them, and passes for each of them: after one pass
# the success rates say little about where an attack ends.
MAX_STARTS, START_PASSES = 4, 2
# RMS of the first v', about -26 dB of full scale; with a channel, which takes louder
# sounds, -18 dB.
INIT_RMS, CHANNEL_INIT_RMS = 0.05, 0.12
# What takes any clip from one side of the box to the other.
LOUDEST_RMS = 2 * math.atanh(1 - EPSILON)
# Step length as a share of the norm: for `target_asr`, for later rates, at the end.
LEARNING_RATE, RESTART_LEARNING_RATE, FINAL_LEARNING_RATE = 0.3, 0.03, 0.01
CHANNEL_LEARNING_RATE = 0.2
# By how much log(norm) follows the logit of the success rate, and at most.
NORM_GAIN, MAX_NORM_CHANGE = 0.3, 0.15
# What log(norm) falls by, at least, after a pass that fooled enough clips.
MIN_SHRINK = 0.005
# Rates are taken to be this far from 0 and 1 at least, where their logits are infinite.
MIN_RATE = 1e-4
# What the temperature is multiplied by in the end: a wide hinge finds a good region, a
# narrow one follows the success rate. Untargeted, or with a channel that differs from
# clip to clip, narrowing gains nothing.
FINAL_TEMPERATURE_RATIO = 0.2


def levels_of(config: Any) -> tuple[jax.Array, jax.Array]:
    """The success rates `[L]`, highest first, and the index of `target_asr`."""
    rates = jnp.stack(
        [jnp.asarray(r, jnp.float32) for r in (config.target_asr, *config.asr_levels)]
    )
    order = jnp.argsort(-rates)
    return rates[order], jnp.argmin(order).astype(jnp.int32)


def stage_at(num_passes: jax.Array, config: Any) -> jax.Array:
    """How many success rates are done before a pass counted from 0; at most L - 1."""
    after = (num_passes - config.max_passes) // config.level_passes
    stage = jnp.where(num_passes < config.max_passes, jnp.zeros_like(after), 1 + after)
    return jnp.minimum(stage, len(config.asr_levels))


def level_at(num_passes: jax.Array, main_level: jax.Array, config: Any) -> jax.Array:
    """The index of the success rate that a pass, counted from 0, is for.

    First `target_asr`, then lower ones, then from there higher ones: a rate out of
    reach comes last, where it cannot spoil the others.
    """
    stage, num_levels = stage_at(num_passes, config), 1 + len(config.asr_levels)
    lower = main_level + stage
    return jnp.where(lower < num_levels, lower, num_levels - 1 - stage)


def num_starts(problem: Problem) -> int:
    """How many starts are tried: silence and the clips that fool others best.

    Only silence with a channel: where a sound begins at any moment, steps end at the
    same level from wherever they start.
    """
    if problem.channel is not None:
        return 1
    config = problem.config
    return max(1, min(MAX_STARTS, config.max_passes // config.start_passes))


def trial_passes(problem: Problem) -> int:
    """Passes at all starts together; 0 where there is one only."""
    starts = num_starts(problem)
    return starts * problem.config.start_passes if starts > 1 else 0


def passes_since_start(num_passes: jax.Array, problem: Problem) -> jax.Array:
    """How many passes v has been through since its start."""
    config, trials = problem.config, trial_passes(problem)
    since = num_passes % config.start_passes
    # The passes at the start that continues count.
    lost = max(0, trials - config.start_passes)
    return jnp.where(num_passes < trials, since, num_passes - lost)


def cosine_share(problem: Problem, at: At) -> jax.Array:
    """(1 + cos(pi t)) / 2: from 1 to 0 over the passes that belong together.

    Those are the passes for a success rate; of the first, those at each start, and
    those after them.
    """
    config, num_passes = problem.config, at.num_passes
    stage, trials = stage_at(num_passes, config), trial_passes(problem)
    begun = passes_since_start(num_passes, problem)
    is_trial = num_passes < trials
    begun = jnp.where(is_trial, begun, num_passes - trials)
    length = jnp.where(is_trial, config.start_passes, config.max_passes - trials)
    start = config.max_passes + (stage - 1) * config.level_passes
    begun = jnp.where(stage == 0, begun, num_passes - start)
    length = jnp.where(stage == 0, length, config.level_passes)
    batch = at.position // config.batch_size
    num_batches = -(-problem.num_clips // config.batch_size)
    done = begun.astype(jnp.float32) + batch.astype(jnp.float32) / num_batches
    return 0.5 * (1 + jnp.cos(jnp.pi * done / length.astype(jnp.float32)))


def step_length(problem: Problem, at: At) -> jax.Array:
    """The share of the norm that a step moves: r_end + (r - r_end) `cosine_share`."""
    is_first = stage_at(at.num_passes, problem.config) == 0
    first = LEARNING_RATE if problem.channel is None else CHANNEL_LEARNING_RATE
    highest = jnp.where(is_first, first, RESTART_LEARNING_RATE)
    share = cosine_share(problem, at)
    return FINAL_LEARNING_RATE + (highest - FINAL_LEARNING_RATE) * share


def temperature_ratio(problem: Problem, at: At) -> jax.Array:
    """What T is multiplied by: ratio^(1 - `cosine_share`), `ratio` for later rates.

    1 at all starts, as they are compared.
    """
    share = cosine_share(problem, at)
    is_trial = at.num_passes < trial_passes(problem)
    share = jnp.where(is_trial, jnp.ones_like(share), share)
    is_first = stage_at(at.num_passes, problem.config) == 0
    share = jnp.where(is_first, share, jnp.zeros_like(share))
    narrows = problem.targeted and problem.channel is None
    ratio = FINAL_TEMPERATURE_RATIO if narrows else 1.0
    return jnp.float32(ratio) ** (1 - share)


def first_norm(problem: Problem) -> jax.Array:
    """The norm of v in the first pass, `[]`."""
    rms = INIT_RMS if problem.channel is None else CHANNEL_INIT_RMS
    return jnp.asarray(rms * math.sqrt(problem.num_sound_samples), jnp.float32)


def norm_change(asr: jax.Array, asr_level: jax.Array) -> jax.Array:
    """By how much log(rho) misses the success rate: gain (logit(level) - logit(ASR)).

    The logit of the rate grows about as log(rho) does: one gain suits all rates.
    """

    def logit(rate: jax.Array) -> jax.Array:
        return jax.scipy.special.logit(jnp.clip(rate, MIN_RATE, 1 - MIN_RATE))

    return NORM_GAIN * (logit(asr_level) - logit(asr))


def adapt_norm(
    norm: jax.Array, asr: jax.Array, asr_level: jax.Array, num_samples: int
) -> jax.Array:
    """rho exp(clip(norm_change, -most, most)): louder if too few are fooled.

    Quieter by `MIN_SHRINK` at least if enough are, or a rate of 1 would be the end.
    Never louder than any clip needs, where a success rate is out of reach.
    """
    change = norm_change(asr, asr_level)
    change = jnp.where(asr < asr_level, change, jnp.minimum(change, -MIN_SHRINK))
    change = jnp.clip(change, -MAX_NORM_CHANGE, MAX_NORM_CHANGE)
    return jnp.minimum(norm * jnp.exp(change), LOUDEST_RMS * math.sqrt(num_samples))
