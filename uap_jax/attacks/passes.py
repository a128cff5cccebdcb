"""What the passes of all methods share: predictions and success over all clips."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.checks import known
from uap_jax.attacks.objectives import is_fooled
from uap_jax.attacks.types import (
    AttackResult,
    DecoupledConfig,
    LogitsFn,
    PenaltyConfig,
    Perturbation,
)

# A processor is fastest on about as many clips at once: what they need fits its cache.
MICRO_BATCH_SIZE = 32


def even_share(num_clips: int) -> int:
    """Returns how many clips to take at once, so that few places are left over."""
    return -(-num_clips // -(-num_clips // MICRO_BATCH_SIZE))


def take_batch(
    order: jax.Array, batch: jax.Array, config: PenaltyConfig | DecoupledConfig
) -> tuple[jax.Array, jax.Array]:
    """The clips of one batch as micro-batches `[K, S]` of indices, and their weights.

    The last batch of a pass may be short, and a micro-batch may not divide the batch;
    both are filled up with weight zero.
    """
    batch_size, micro_batch_size = (
        known(config.batch_size),
        known(config.micro_batch_size),
    )
    num_micro_batches = -(-batch_size // micro_batch_size)
    padded_size = num_micro_batches * micro_batch_size
    place = jnp.arange(padded_size, dtype=jnp.int32)
    at = batch * batch_size + place
    counts = (place < batch_size) & (at < order.shape[0])
    clips = order[jnp.where(counts, at, jnp.zeros_like(at))]
    shape = (num_micro_batches, micro_batch_size)
    return clips.reshape(shape), counts.astype(jnp.float32).reshape(shape)


def num_batches(config: PenaltyConfig | DecoupledConfig, num_clips: int) -> int:
    """Returns the batches of a pass; the last may be short."""
    return -(-num_clips // known(config.batch_size))


class Count(NamedTuple):
    """How far the evaluation of a pass is."""

    block: jax.Array  # [] int32, next block of clips
    num_fooled: jax.Array  # [] int32, in the blocks so far
    stop_reason: jax.Array  # [] int32, index into types.STOP_REASONS


def count_fooled(
    logits_of: Callable[[jax.Array], jax.Array],
    clean_predictions: jax.Array,
    count: Count,
    max_steps: jax.Array,
    *,
    block_size: int,
    target: jax.Array,
    targeted: bool,
) -> tuple[Count, jax.Array]:
    """Counts the perturbed clips that fool the classifier, at most `max_steps` blocks.

    Args:
        logits_of: Indices of clips `[block_size]` to logits of the perturbed clips.
        clean_predictions: `[M]` int32.
        count: Where to go on.
        max_steps: `[]` int32.
        block_size: Clips of a block.
        target: `[]` int32; not used when untargeted.
        targeted: Which of the two.

    Returns:
        How far it is, and `[]` bool: whether all blocks are counted. Logits that are
        not finite stop it.
    """
    num_clips = clean_predictions.shape[0]
    num_blocks = -(-num_clips // block_size)

    def should_go_on(carry: tuple[Count, jax.Array]) -> jax.Array:
        count, steps_left = carry
        running = count.stop_reason == types.RUNNING
        return running & (count.block < num_blocks) & (steps_left > 0)

    def count_block(carry: tuple[Count, jax.Array]) -> tuple[Count, jax.Array]:
        count, steps_left = carry
        clips = count.block * block_size + jnp.arange(block_size, dtype=jnp.int32)
        counts = clips < num_clips
        clips = jnp.minimum(clips, num_clips - 1)
        logits = logits_of(clips)
        fooled = is_fooled(
            logits, clean_predictions[clips], target=target, targeted=targeted
        )
        return Count(
            block=count.block + 1,
            num_fooled=count.num_fooled + jnp.sum(fooled & counts, dtype=jnp.int32),
            stop_reason=fault_of(logits, count.stop_reason),
        ), steps_left - 1

    count, _ = jax.lax.while_loop(should_go_on, count_block, (count, max_steps))
    is_whole = (count.block == num_blocks) & (count.stop_reason == types.RUNNING)
    return count, is_whole


def success_rate(num_fooled: jax.Array, num_clips: int) -> jax.Array:
    """Returns the share of clips `[]`, rounded once: 41 of 41 are 1, 80 of 100 are 0.8.

    Known when compiling, the divisor would become a factor 1 / num_clips.
    """
    divisor = jax.lax.optimization_barrier(jnp.float32(num_clips))
    return num_fooled.astype(jnp.float32) / divisor


def fault_of(logits: jax.Array, stop_reason: jax.Array) -> jax.Array:
    """Returns `NON_FINITE_LOGITS` if any logit is not finite, else `stop_reason`."""
    return jnp.where(
        jnp.all(jnp.isfinite(logits)),
        stop_reason,
        jnp.full_like(stop_reason, types.NON_FINITE_LOGITS),
    )


def predict(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    block_size: int | None,
) -> jax.Array:
    """Returns the classes of clips, `[M]` int32; arguments as of `all_logits`."""
    logits = all_logits(logits_fn, variables, x, known(block_size))
    return jnp.argmax(logits, axis=1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("logits_fn", "block_size"))
def all_logits(
    logits_fn: LogitsFn, variables: types.Variables, x: jax.Array, block_size: int
) -> jax.Array:
    """Returns the logits of clips, block by block.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        x: `[M, N]` in the box.
        block_size: Clips whose logits are taken at once.

    Returns:
        `[M, C]`.
    """
    num_clips, num_samples = x.shape
    num_blocks = -(-num_clips // block_size)
    filled = jnp.pad(x, ((0, num_blocks * block_size - num_clips), (0, 0)))
    logits = jax.lax.map(
        lambda block: logits_fn(variables, block),
        filled.reshape(num_blocks, block_size, num_samples),
    )
    return logits.reshape(-1, logits.shape[2])[:num_clips]


def result_of(state: Any, perturbation: Perturbation) -> AttackResult:
    """Reads a result off the state of an attack, also one that is still running."""
    return AttackResult(
        perturbation=perturbation,
        converged=state.stop_reason == types.CONVERGED,
        train_asr=_last_asr(state.history["asr"], state.num_passes),
        num_passes=state.num_passes,
        stop_reason=state.stop_reason,
        history=state.history,
    )


@jax.jit
def _last_asr(history: jax.Array, num_passes: jax.Array) -> jax.Array:
    """The success rate of the last pass that ended; 0 before the first."""
    last = history[jnp.maximum(num_passes - 1, 0)]
    return jnp.where(num_passes > 0, last, jnp.zeros_like(last))
