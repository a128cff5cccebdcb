"""Batches of an attack: which clips, their loss and gradient, their logits, faults."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.types import At, Classify, LogitsFn, Problem

# A CPU is fastest on about as many clips at once: what they need fits its cache.
# Accelerators need more to be busy.
CPU_MICRO_BATCH_SIZE, MICRO_BATCH_SIZE = 32, 128


def even_share(num_clips: int) -> int:
    """How many clips to take at once where nothing is said; few places are left over.

    At most 32 on a CPU, 128 on an accelerator.
    """
    on_cpu = jax.default_backend() == "cpu"
    most = CPU_MICRO_BATCH_SIZE if on_cpu else MICRO_BATCH_SIZE
    return -(-num_clips // -(-num_clips // most))


def batch_of(problem: Problem, at: At) -> tuple[jax.Array, jax.Array]:
    """The next batch as micro-batches `[K, S]` of indices, and their weights.

    The last batch of a pass may be short, and a micro-batch may not divide the batch;
    both are filled up with weight zero.
    """
    batch_size = problem.config.batch_size
    micro_batch_size = problem.config.micro_batch_size
    num_micro_batches = -(-batch_size // micro_batch_size)
    index = jnp.arange(num_micro_batches * micro_batch_size, dtype=jnp.int32)
    in_order = at.position + index
    counts = (index < batch_size) & (in_order < problem.num_clips)
    clips = at.order[jnp.where(counts, in_order, 0)]
    shape = (num_micro_batches, micro_batch_size)
    return clips.reshape(shape), counts.astype(jnp.float32).reshape(shape)


def classes_of(problem: Problem, labels: jax.Array, clips: jax.Array) -> jax.Array:
    """The classes `[S]` that a loss is about: the target, or else `labels[clips]`."""
    if problem.target is None:
        return labels[clips]
    return jnp.full(clips.shape, problem.target, jnp.int32)


def batch_loss(
    losses_of: Callable[..., jax.Array],
    v: jax.Array,
    clips: jax.Array,
    weights: jax.Array,
    *per_clip: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """sum_i loss_i(v) over a batch and its gradient in v, by micro-batches.

    Args:
        losses_of: `(v [N], clips [S], *per_clip) -> [S]`.
        v: `[N]`.
        clips: `[K, S]` int32 from `batch_of`.
        weights: `[K, S]` from `batch_of`.
        *per_clip: `[K, S]` each, further arguments of `losses_of`.

    Returns:
        The sum `[]` and its gradient `[N]`.
    """

    def loss(v: jax.Array, weights: jax.Array, *batch: jax.Array) -> jax.Array:
        losses = losses_of(v, *batch)
        # Not a product: a clip that only fills up must not turn 0 into NaN.
        return jnp.sum(jnp.where(weights > 0, losses, jnp.zeros_like(losses)))

    def add_micro_batch(carry: Any, micro_batch: Any) -> tuple[Any, None]:
        total, gradient = carry
        loss_, gradient_ = jax.value_and_grad(loss)(v, *micro_batch)
        return (total + loss_, gradient + gradient_), None

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(v))
    (total, gradient), _ = jax.lax.scan(
        add_micro_batch, start, (weights, clips, *per_clip)
    )
    return total, gradient


def gradient_fault(objective: jax.Array, *arrays: jax.Array) -> jax.Array:
    """The fault of a gradient step `[]` int32, or `RUNNING` if all is finite."""
    are_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in arrays]))
    fault = jnp.where(are_finite, types.RUNNING, types.NON_FINITE_GRADIENT)
    fault = jnp.where(jnp.isfinite(objective), fault, types.NON_FINITE_OBJECTIVE)
    return fault.astype(jnp.int32)


def fault_of(logits: jax.Array) -> jax.Array:
    """`NON_FINITE_LOGITS` if any logit is not finite, else `RUNNING`, `[]` int32."""
    are_finite = jnp.all(jnp.isfinite(logits))
    fault = jnp.where(are_finite, types.RUNNING, types.NON_FINITE_LOGITS)
    return fault.astype(jnp.int32)


def success_rate(num_fooled: jax.Array, num_clips: int) -> jax.Array:
    """The share of clips `[]`, rounded once: 41 of 41 are 1, 80 of 100 are 0.8.

    A divisor known when compiling would become a factor 1 / num_clips.
    """
    divisor = jax.lax.optimization_barrier(jnp.float32(num_clips))
    return num_fooled.astype(jnp.float32) / divisor


@functools.partial(jax.jit, static_argnames=("logits_fn", "block_size"))
def all_logits(
    logits_fn: LogitsFn, variables: types.Variables, x: jax.Array, block_size: int
) -> jax.Array:
    """`logits_by_block` as a program."""
    return logits_by_block(functools.partial(logits_fn, variables), x, block_size)


def logits_by_block(classify: Classify, x: jax.Array, block_size: int) -> jax.Array:
    """The logits of clips `[M, C]`, `block_size` clips at once.

    Args:
        classify: Clips in the box to logits.
        x: `[M, N]` in the box.
        block_size: Clips that the classifier gets at once.
    """
    num_clips, num_samples = x.shape
    num_blocks = -(-num_clips // block_size)
    filled = jnp.pad(x, ((0, num_blocks * block_size - num_clips), (0, 0)))
    logits = jax.lax.map(classify, filled.reshape(num_blocks, block_size, num_samples))
    return logits.reshape(-1, logits.shape[2])[:num_clips]
