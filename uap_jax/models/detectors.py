"""Detectors: wake words, voice activity, one label of a tagger.

A detector with the score s (a logit, before its sigmoid) and the threshold t fires
where sigmoid(s) > t. It is a classifier of two classes, ("no LABEL", "LABEL"), with the
logits

    [0, s - log(t / (1 - t))],

whose argmax says whether it fires, so that every attack works on it as it is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks.types import LogitsFn, Variables
from uap_jax.models.classifier import Classifier

# One frame `[F]` of one clip: (variables, state, frame) -> (state, score []).
StepFn = Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]


def detector(
    classifier: Classifier, *, label: str, threshold: float | None = None
) -> Classifier:
    """Returns one label of a classifier with sigmoid outputs as a detector.

    Args:
        classifier: Its `logits` are scores before their sigmoid: `[B, C]`, of which
            `class_names` tells which is the label's, or `[B, 1]` or `[B]` of the label
            alone.
        label: What it detects.
        threshold: Probability above which it fires, in (0, 1). None: the
            classifier's, or 0.5.

    Raises:
        ValueError: The threshold is out of range, or no score is the label's.
    """
    if threshold is None:
        threshold = 0.5 if classifier.threshold is None else classifier.threshold
    check_threshold(threshold)
    names = classifier.class_names
    clip = jax.ShapeDtypeStruct((1, classifier.num_samples), jnp.float32)
    scores = jax.eval_shape(classifier.logits, classifier.variables, clip)
    if scores.size == 1:
        index = 0
    elif names is None or label not in names:
        among = "class_names" if names is None else ", ".join(names)
        raise ValueError(f"label: expected one of {among}, got {label!r}")
    else:
        index = names.index(label)
    offset = math.log(threshold) - math.log1p(-threshold)

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        scores = classifier.logits(variables, x).reshape(len(x), -1)[:, index]
        return jnp.stack([jnp.zeros_like(scores), scores - offset], axis=1)

    return dataclasses.replace(
        classifier,
        logits=logits,
        class_names=(f"no {label}", label),
        threshold=None,
    )


def detected(class_names: Sequence[str] | None) -> str | None:
    """Returns what a detector with these classes detects; None: they are others'."""
    match class_names:
        case [absent, label] if absent == f"no {label}":
            return label
    return None


def check_threshold(threshold: Any) -> None:
    """Raises ValueError unless a threshold is a probability inside (0, 1)."""
    if not (isinstance(threshold, int | float) and 0.0 < threshold < 1.0):
        raise ValueError(
            f"threshold: expected a probability inside (0, 1), got {threshold!r}"
        )


def unroll(
    step: StepFn,
    *,
    state: Any,
    frame_samples: int,
    reduce: Callable[..., jax.Array] = jnp.max,
) -> LogitsFn:
    """Returns the score of whole clips of a network that takes them frame by frame.

    A frame is `frame_samples` of the waveform 2 x - 1; the last one is filled up with
    silence, as streaming runtimes do. The scores s_t of the frames become that of the
    clip by `reduce`; with the largest,

        s = max_t s_t,

    the clip holds what the network detects where any frame does.

    Args:
        step: `step(variables, state, frame [F]) -> (state, score [])` of one clip; the
            score is a logit, before the sigmoid. Pure; what the network remembers of
            earlier frames, context included, is in the state.
        state: Before the first frame, a pytree of arrays; the same for every clip.
        frame_samples: F.
        reduce: Takes `[B, T]` and `axis`; gives `[B]`.

    Returns:
        `logits_fn(variables, x [B, N]) -> [B, 1]` for `detector`; it can be compiled,
        mapped and differentiated.
    """

    def scores(variables: Variables, frames: jax.Array) -> jax.Array:
        def of(array: Any) -> jax.Array:
            is_real = jnp.issubdtype(jnp.result_type(array), jnp.floating)
            return jnp.asarray(array, frames.dtype if is_real else None)

        return jax.lax.scan(
            lambda carry, frame: step(variables, carry, frame),
            jax.tree.map(of, state),
            frames,
        )[1]

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        missing = -x.shape[1] % frame_samples
        waveform = jnp.pad(2.0 * x - 1.0, ((0, 0), (0, missing)))
        frames = waveform.reshape(len(x), -1, frame_samples)
        of_clips = jax.vmap(scores, in_axes=(None, 0))(variables, frames)
        return reduce(of_clips.reshape(len(x), -1), axis=1)[:, None]

    return logits
