"""When and how far the decoupled method moves: success rates, step lengths, norms.

Functions of the settings and of the passes done; all can be traced.
"""

import math

import jax
import jax.numpy as jnp

from uap_jax.attacks.passes import num_batches
from uap_jax.attacks.types import DecoupledConfig
from uap_jax.audio.box import EPSILON

# RMS of the first perturbation, about -26 dB of full scale in either space.
INIT_RMS = {"tanh": 0.05, "signal": 0.025}
# What takes any clip from one side of the box to the other.
LOUDEST_RMS = {"tanh": 2 * math.atanh(1 - EPSILON), "signal": 1.0}
# What the norm falls by, at least, after a pass that fooled enough clips.
LEAST_SHRINK = 0.005
# Rates are taken to be this far from 0 and 1 at least, where their logits are infinite.
LEAST_RATE = 1e-4


def num_levels(config: DecoupledConfig) -> int:
    """Returns L; a resolved config names no success rate twice."""
    return 1 + len(config.asr_levels)


def total_passes(config: DecoupledConfig) -> int:
    """Returns the passes for all success rates."""
    return config.max_passes + config.level_passes * (num_levels(config) - 1)


def passes_since_start(num_passes: jax.Array, config: DecoupledConfig) -> jax.Array:
    """Returns how many passes v has been through since it began at a start."""
    trial = num_passes % config.start_passes
    lost = (config.num_starts - 1) * config.start_passes
    is_trial = num_passes < lost + config.start_passes
    return jnp.where(is_trial, trial, num_passes - lost)


def levels_of(config: DecoupledConfig) -> tuple[jax.Array, jax.Array]:
    """Returns the success rates `[L]`, highest first, and the index of `target_asr`."""
    rates = jnp.asarray([config.target_asr, *config.asr_levels], jnp.float32)
    order = jnp.argsort(-rates)
    return rates[order], jnp.argmin(order).astype(jnp.int32)


def stage_at(num_passes: jax.Array, config: DecoupledConfig) -> jax.Array:
    """Returns how many success rates are done before a pass, counted from 0.

    At most L - 1, also after the last pass.
    """
    after = (num_passes - config.max_passes) // config.level_passes
    stage = jnp.where(num_passes < config.max_passes, jnp.zeros_like(after), 1 + after)
    return jnp.minimum(stage, num_levels(config) - 1)


def level_at(
    num_passes: jax.Array, main_level: jax.Array, config: DecoupledConfig
) -> jax.Array:
    """Returns the index of the success rate that a pass, counted from 0, is for.

    First `target_asr`, on to lower ones, then from there to higher ones: what is out of
    reach comes last, where it cannot spoil the others.
    """
    stage, count = stage_at(num_passes, config), num_levels(config)
    lower = main_level + stage
    return jnp.where(lower < count, lower, count - 1 - stage)


def cosine_share(
    num_passes: jax.Array, batch: jax.Array, config: DecoupledConfig, num_clips: int
) -> jax.Array:
    """(1 + cos(pi t)) / 2: from 1 to 0 over the passes that belong together.

    Those are the passes for a success rate; of the first, those at each start, and
    those after them.
    """
    stage = stage_at(num_passes, config)
    begun, length = passes_since_start(num_passes, config), config.max_passes
    if config.num_starts > 1:
        trials = config.num_starts * config.start_passes
        is_trial = num_passes < trials
        begun = jnp.where(is_trial, begun, num_passes - trials)
        length = jnp.where(is_trial, config.start_passes, config.max_passes - trials)
    start = config.max_passes + (stage - 1) * config.level_passes
    begun = jnp.where(stage == 0, begun, num_passes - start)
    length = jnp.where(stage == 0, length, config.level_passes)
    done = begun.astype(jnp.float32) + batch / num_batches(config, num_clips)
    return 0.5 * (1 + jnp.cos(jnp.pi * done / length))


def step_length(
    num_passes: jax.Array, batch: jax.Array, config: DecoupledConfig, num_clips: int
) -> jax.Array:
    """The share of the norm that a step moves: r_end + (r - r_end) `cosine_share`."""
    is_first = stage_at(num_passes, config) == 0
    highest = jnp.where(is_first, config.learning_rate, config.restart_learning_rate)
    share = cosine_share(num_passes, batch, config, num_clips)
    return config.final_learning_rate + (highest - config.final_learning_rate) * share


def temperature_ratio(
    num_passes: jax.Array, batch: jax.Array, config: DecoupledConfig, num_clips: int
) -> jax.Array:
    """What T is multiplied by: ratio^(1 - `cosine_share`), `ratio` for later rates.

    1 at all starts, as they are to be compared.
    """
    share = cosine_share(num_passes, batch, config, num_clips)
    is_trial = num_passes < config.num_starts * config.start_passes
    if config.num_starts > 1:
        share = jnp.where(is_trial, jnp.ones_like(share), share)
    is_first = stage_at(num_passes, config) == 0
    share = jnp.where(is_first, share, jnp.zeros_like(share))
    ratio = jnp.asarray(config.final_temperature_ratio, jnp.float32)
    return ratio ** (1 - share)


def first_norm(config: DecoupledConfig, num_samples: int) -> jax.Array:
    """Returns the norm of v in the first pass, `[]`."""
    if config.init_norm is not None:
        return jnp.asarray(config.init_norm, jnp.float32)
    return jnp.asarray(INIT_RMS[config.space] * math.sqrt(num_samples), jnp.float32)


def loudest_norm(config: DecoupledConfig, num_samples: int) -> float:
    """Returns a norm of v that no clip needs more than."""
    return LOUDEST_RMS[config.space] * math.sqrt(num_samples)


def norm_change(
    asr: jax.Array, asr_level: jax.Array, config: DecoupledConfig
) -> jax.Array:
    """By how much log(rho) misses the success rate: gain (logit(level) - logit(ASR)).

    The logit of the rate grows about as log(rho) does: one gain suits all rates.
    """

    def logit(rate: jax.Array) -> jax.Array:
        return jax.scipy.special.logit(jnp.clip(rate, LEAST_RATE, 1 - LEAST_RATE))

    return config.norm_gain * (logit(asr_level) - logit(asr))


def adapt_norm(
    norm: jax.Array,
    asr: jax.Array,
    asr_level: jax.Array,
    config: DecoupledConfig,
    *,
    largest: float,
) -> jax.Array:
    """rho exp(clip(norm_change, -most, most)): louder if too few are fooled.

    Quieter by LEAST_SHRINK at least if enough are, or a rate of 1 would be the end.
    Never above `largest`, where a success rate is out of reach.
    """
    change = norm_change(asr, asr_level, config)
    change = jnp.where(asr < asr_level, change, jnp.minimum(change, -LEAST_SHRINK))
    change = jnp.clip(change, -config.max_norm_change, config.max_norm_change)
    return jnp.minimum(norm * jnp.exp(change), largest)
