"""Batches of an attack: which clips, their loss and gradient, their logits, faults."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks import types
from uap_jax.attacks.types import At, Classify, LeftOut, LogitsFn, Problem
from uap_jax.audio.channels import Channel

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


# Folded into the key of a pass, for a channel.
_CHANNEL = 2**32 - 1


def passing(
    channel: Channel | None, key: jax.Array | None, clips: jax.Array
) -> dict[str, Any]:
    """The arguments of `equations.perturb` for a channel, drawn anew for every clip.

    Args:
        channel: Of the problem, or None.
        key: Of a pass, in which each clip is seen once.
        clips: `[S]` int32.
    """
    if channel is None or key is None:
        return {}
    key = jax.random.fold_in(key, jnp.uint32(_CHANNEL))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, clips)
    return {"channel": channel, "keys": keys}


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
) -> tuple[jax.Array, jax.Array, LeftOut]:
    """sum_i loss_i(v) over a batch and its gradient in v, by micro-batches.

    A clip whose loss or gradient is not finite is left out of both.

    Args:
        losses_of: `(v [S, N], clips [S], *per_clip) -> [S]`; v has a row for each clip,
            all the same, of which its loss may use that row only.
        v: `[N]`.
        clips: `[K, S]` int32 from `batch_of`.
        weights: `[K, S]` from `batch_of`.
        *per_clip: `[K, S]` each, further arguments of `losses_of`.

    Returns:
        The sum `[]`, its gradient `[N]`, and which clips were left out.
    """

    def add_micro_batch(carry: Any, micro_batch: Any) -> tuple[Any, Any]:
        total, gradient = carry
        weights, *batch = micro_batch
        # A row for each clip tells whose gradient is not finite.
        rows = jnp.broadcast_to(v[None], (weights.shape[0], *v.shape))
        losses, pull_back = jax.vjp(lambda rows: losses_of(rows, *batch), rows)
        has_loss = (weights > 0) & jnp.isfinite(losses)
        (gradients,) = pull_back(has_loss.astype(losses.dtype))
        is_in = has_loss & jnp.all(jnp.isfinite(gradients), axis=1)
        # Not products, in which 0 NaN would be NaN.
        losses = jnp.where(is_in, losses, jnp.zeros_like(losses))
        gradients = jnp.where(is_in[:, None], gradients, jnp.zeros_like(gradients))
        carry = (total + jnp.sum(losses), gradient + jnp.sum(gradients, axis=0))
        return carry, (has_loss, is_in)

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(v))
    (total, gradient), (has_loss, is_in) = jax.lax.scan(
        add_micro_batch, start, (weights, clips, *per_clip)
    )
    why = jnp.where(
        jnp.any(has_loss), types.NON_FINITE_GRADIENT, types.NON_FINITE_OBJECTIVE
    )
    fault = jnp.where(jnp.any(is_in), types.RUNNING, why).astype(jnp.int32)
    return total, gradient, LeftOut(clips, (weights > 0) & ~is_in, fault)


def gradient_fault(objective: jax.Array, *arrays: jax.Array) -> jax.Array:
    """The fault of a gradient step `[]` int32, or `RUNNING` if all is finite."""
    are_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in arrays]))
    fault = jnp.where(are_finite, types.RUNNING, types.NON_FINITE_GRADIENT)
    fault = jnp.where(jnp.isfinite(objective), fault, types.NON_FINITE_OBJECTIVE)
    return fault.astype(jnp.int32)


def per_used_clip(
    total: jax.Array, sums: Mapping[str, jax.Array], problem: Problem
) -> jax.Array:
    """The mean `[]` of a sum over the clips of a pass that were not left out."""
    num_clips = problem.num_clips
    num_used = jnp.maximum(num_clips - sums["left_out"], 1.0)
    # The factor is 1 where all were used, to the last bit.
    return total / num_clips * (num_clips / num_used)


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
