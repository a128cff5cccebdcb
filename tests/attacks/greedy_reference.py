"""DDN in float64 and the greedy attack as a plain loop, as oracles for the tests.

Written from the publications, not from the package: one clip at a time.
"""

from typing import NamedTuple

import jax
import numpy as np
import reference

from uap_jax import attacks


class Smallest(NamedTuple):
    """The result of DDN for one clip."""

    delta: np.ndarray
    success: bool
    closest: float  # smallest distance of two logits that a decision hung on


def cross_entropy_gradient(logits, label):
    """Softmax minus one-hot."""
    shares = np.exp(logits - np.max(logits))
    shares /= np.sum(shares)
    shares[label] -= 1
    return shares


def ddn(
    logits_of,
    gradient_of,
    clip,
    label,
    *,
    targeted,
    num_steps,
    init_norm=0.2,
    gamma=0.05,
    quantization_levels=None,
):
    """DDN on one clip.

    Args:
        logits_of: A clip to its logits.
        gradient_of: A clip and a gradient by its logits to the gradient by the clip.
        clip, label: The clip and the class to leave, or, targeted, to reach.
    """
    clip = np.float64(clip)
    widest = np.linalg.norm(np.maximum(clip, 1 - clip))
    delta, norm = np.zeros_like(clip), init_norm
    best, closest = None, np.inf
    for step in range(num_steps):
        logits = logits_of(clip + delta)
        ranked = np.sort(np.delete(logits, label))
        closest = min(closest, abs(logits[label] - ranked[-1]))
        is_adversarial = (np.argmax(logits) == label) == targeted
        if is_adversarial and (
            best is None or np.linalg.norm(delta) < np.linalg.norm(best)
        ):
            best = delta
        gradient = gradient_of(clip + delta, cross_entropy_gradient(logits, label))
        size = 0.01 + 0.99 * (1 + np.cos(np.pi * step / num_steps)) / 2
        direction = gradient / np.linalg.norm(gradient)
        delta = delta + (-size if targeted else size) * direction
        norm = min(norm * (1 - gamma if is_adversarial else 1 + gamma), widest)
        delta = delta * norm / np.linalg.norm(delta)
        if quantization_levels is not None:
            intervals = quantization_levels - 1
            delta = np.round(delta * intervals) / intervals
        delta = np.clip(delta, -clip, 1 - clip)
    if best is None:
        return Smallest(np.zeros_like(clip), False, closest)
    return Smallest(best, True, closest)


class Pass(NamedTuple):
    """One pass of the greedy attack."""

    visited: list[int]
    failed: int
    value: np.ndarray
    asr: float
    closest: float  # smallest distance of two logits that a visit or success hung on


def greedy(logits_fn, variables, x, labels, *, key, target, config):
    """The passes of the greedy attack, with `attacks.ddn` clip by clip."""
    forward, x = jax.jit(logits_fn), np.asarray(x)
    project = {"linf": reference.project_linf, "l2": reference.project_l2}[config.norm]

    def logits_of(clip):
        return np.asarray(forward(variables, clip[None]))[0]

    def perturbed(index, value):
        return np.clip(x[index] + np.float32(value), 0, 1)

    clean = [int(np.argmax(logits_of(clip))) for clip in x]

    def fooled(index, value):
        logits = logits_of(perturbed(index, value))
        chosen = int(np.argmax(logits))
        margins.append(np.diff(np.sort(logits)[-2:])[0])
        return chosen != clean[index] if target is None else chosen == target

    def delta_of(index, value, key):
        label = clean[index] if config.labels == "clean" else labels[index]
        label = label if target is None else target
        result = attacks.ddn(
            logits_fn,
            variables,
            perturbed(index, value)[None],
            np.full(1, label, np.int32),
            key=key,
            targeted=target is not None,
            config=config.ddn,
        )
        return np.float64(result.delta)[0]

    value, passes = np.zeros(x.shape[1]), []
    for number in range(config.max_passes):
        pass_key = jax.random.fold_in(key, number)
        order = np.arange(len(x))
        if config.shuffle:
            order = np.asarray(jax.random.permutation(pass_key, len(x)))
        visited, waiting, failed, margins = [], [], 0, []
        has_moved = False
        for index in order:
            if not fooled(index, value):
                waiting.append(int(index))
            is_last = index == order[-1]
            if len(waiting) == config.batch_size or (is_last and waiting):
                ddn_key = jax.random.fold_in(pass_key, waiting[0])
                deltas = [delta_of(i, value, ddn_key) for i in waiting]
                failed += sum(not np.any(delta) for delta in deltas)
                update = np.sum(deltas, axis=0)
                if config.aggregation == "mean":
                    update /= len(waiting)
                before, value = value, project(value + update, config.radius)
                has_moved = has_moved or not np.array_equal(value, before)
                visited, waiting = visited + waiting, []
        asr = np.mean([fooled(i, value) for i in range(len(x))])
        passes.append(Pass(visited, failed, value, asr, min(margins)))
        if asr >= config.target_asr or not has_moved:
            break
    return passes
