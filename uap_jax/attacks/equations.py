"""The equations of the paper, and those of the decoupled method, one function each.

Eq. 1 is `ddn`, Eq. 4 to 6 and 14, 15 are in `audio.levels`, Eq. 7 to 9 in `audio.box`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks.types import SPACES, Perturbation
from uap_jax.audio.box import EPSILON, from_tanh_space, to_tanh_space
from uap_jax.audio.channels import Channel, received


@functools.partial(jax.jit, static_argnames=("space", "epsilon"))
def to_space(x: jax.Array, *, space: str, epsilon: float = EPSILON) -> jax.Array:
    """The clips in the space of v: x, or x' of Eq. 7 for space "tanh"."""
    return to_tanh_space(x, epsilon=epsilon) if space == "tanh" else x


def perturb(
    x: jax.Array,
    v: jax.Array,
    *,
    space: str,
    channel: Channel | None = None,
    keys: jax.Array | None = None,
) -> jax.Array:
    """The perturbed clips: clip(x + v, 0, 1), or w = (tanh(x' + v') + 1) / 2 (Eq. 7).

    The one function that adds a perturbation to clips. With a channel C it adds C v,
    or C v' in tanh space.

    Args:
        x: `[..., N]` clips from `to_space`; `[B, N]` with a channel.
        v: `[N]`, the perturbation in that space; or `[..., N]`, one for each clip. With
            a channel `[P]` or `[B, P]`.
        space: "signal" or "tanh".
        channel: What the perturbation passes on its way to each clip.
        keys: `[B]` random keys of the channel, one a clip; consumed.

    Returns:
        `[..., N]` in [0, 1].
    """
    if channel is not None and keys is not None:
        v = received(channel, keys, v, x.shape[-1])
    v = jnp.reshape(v, (1,) * (x.ndim - v.ndim) + v.shape)
    if space == "tanh":
        return from_tanh_space(x + v)
    return jnp.clip(x + v, 0.0, 1.0)


def apply_perturbation(perturbation: Perturbation, x: jax.Array) -> jax.Array:
    """Adds a perturbation to clips; the result is always inside the box.

    Args:
        perturbation: With value `[N]`.
        x: `[..., N]` in [0, 1].

    Returns:
        `[..., N]` in [0, 1]: clip(x + v) for space "signal", Eq. 7 for "tanh".

    Raises:
        ValueError: The lengths differ or the space is unknown.
    """
    value, space = perturbation.value, perturbation.space
    if value.shape != x.shape[-1:]:
        raise ValueError(
            f"x: expected clips of {value.shape[0]} samples, as the perturbation has, "
            f"got {x.shape}"
        )
    if space not in SPACES:
        raise ValueError(f"space: expected one of {SPACES}, got {space!r}")
    x = to_space(x, space=space, epsilon=perturbation.epsilon)
    return perturb(x, value, space=space)


def perturbation_waveform(perturbation: Perturbation) -> jax.Array:
    """The single sound that a perturbation is, `[N]` in [-1, 1].

    tanh(v') for space "tanh" (what Eq. 7 does to a resting clip), 2 v for "signal".
    """
    if perturbation.space == "tanh":
        return jnp.tanh(perturbation.value)
    return jnp.clip(2 * perturbation.value, -1.0, 1.0)


def classify(logits: jax.Array) -> jax.Array:
    """The classes `[B]` int32 of logits `[B, C]`; -1 where one is not finite."""
    classes = jnp.argmax(logits, axis=1).astype(jnp.int32)
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=1), classes, -1)


def succeeds(predictions: Any, clean_predictions: Any, target: Any) -> Any:
    """Whether the attack succeeds on each clip, the indicator of Eq. 3.

    Args:
        predictions: `[B]` int32 from `classify`, of the perturbed clips; -1 is never a
            success. JAX or NumPy.
        clean_predictions: `[B]` int32, likewise; no class differs from -1.
        target: `[]` int32, the class to say; None: any class but the clean prediction.

    Returns:
        `[B]` bool, likewise.
    """
    if target is not None:
        return predictions == target
    are_known = (predictions >= 0) & (clean_predictions >= 0)
    return (predictions != clean_predictions) & are_known


def is_success(
    logits: jax.Array, clean_predictions: jax.Array, target: jax.Array | None
) -> jax.Array:
    """As `succeeds`, of the logits `[B, C]` of the perturbed clips."""
    return succeeds(classify(logits), clean_predictions, target)


def hinge(
    logits: jax.Array,
    classes: jax.Array,
    *,
    confidence: jax.Array | float,
    targeted: bool,
) -> jax.Array:
    """The hinge penalty G of each clip, Eq. 10 (targeted) and Eq. 11 (untargeted).

    Targeted, `classes` is the target t:
        G = max(max_{j != t} f_j - f_t, -confidence);
    untargeted it is the true label y:
        G = max(f_y - max_{j != y} f_j, -confidence).

    Args:
        logits: `[B, C]`, f.
        classes: `[B]` int32.
        confidence: `[]`, kappa, the margin beyond which nothing more is gained.
        targeted: Which of the two.

    Returns:
        `[B]`, at least -confidence.
    """
    return jnp.maximum(margin(logits, classes, targeted=targeted), -confidence)


def soft_hinge(
    logits: jax.Array,
    classes: jax.Array,
    *,
    temperature: jax.Array | float,
    give_up: jax.Array | float,
    targeted: bool,
) -> jax.Array:
    """A smooth step of each clip, from fooled to far from it, with m of `margin`.

    T (log(1 + exp(m / T)) - log(1 + exp(m / T - g)))

    Unlike Eq. 10 and 11 it asks less and less of a clip that is already fooled, and
    less of one that is out of reach, so that it follows the success rate.

    Args:
        logits: `[B, C]`, f.
        classes: `[B]` int32, the target, or the class to leave.
        temperature: `[]`, T > 0, in units of logits.
        give_up: `[]`, g > 0: from margins of g T on a clip counts as out of reach.
        targeted: Which of the two margins.

    Returns:
        `[B]` in [0, g T].
    """
    m = margin(logits, classes, targeted=targeted) / temperature
    return temperature * (jax.nn.softplus(m) - jax.nn.softplus(m - give_up))


def margin(logits: jax.Array, classes: jax.Array, *, targeted: bool) -> jax.Array:
    """What keeps each clip from being fooled; negative where it is.

    Targeted, `classes` is the target t: m = max_{j != t} f_j - f_t; untargeted it is
    the class y to leave: m = f_y - max_{j != y} f_j.

    Args:
        logits: `[B, C]`, f.
        classes: `[B]` int32.
        targeted: Which of the two.

    Returns:
        `[B]`.
    """
    is_class = jax.nn.one_hot(classes, logits.shape[1], dtype=jnp.bool_)
    of_class = jnp.sum(jnp.where(is_class, logits, 0.0), axis=1)
    of_others = jnp.max(jnp.where(is_class, -jnp.inf, logits), axis=1)
    return of_others - of_class if targeted else of_class - of_others


def cross_entropy_ascent(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """The direction in logits in which each clip's cross-entropy grows fastest.

    CE = log(1 + exp(z)) with z = log sum_{j != y} exp(f_j) - f_y, so its gradient is
    a positive number times dz/df: softmax over the classes but y, minus one at y. DDN
    uses the direction only, and this one stays exact where the softmax of all classes
    rounds to 0 and 1 and the gradient of the cross-entropy to nothing.

    Args:
        logits: `[B, C]`, f.
        classes: `[B]` int32, y.

    Returns:
        `[B, C]`.
    """
    is_class = jax.nn.one_hot(classes, logits.shape[1], dtype=jnp.bool_)
    others = jax.nn.softmax(jnp.where(is_class, -jnp.inf, logits), axis=1)
    return jnp.where(is_class, -jnp.ones_like(others), others)


def project_l2(v: jax.Array, *, radius: jax.Array | float) -> jax.Array:
    """The point nearest to v with ||v||_2 <= radius: v min(1, radius / ||v||_2).

    Args:
        v: `[N]`.
        radius: `[]`, xi >= 0.

    Returns:
        `[N]`; v itself, bit for bit, when it lies inside.
    """
    norm = jnp.linalg.norm(v)
    # Dividing by the larger of the two keeps v = 0, radius = 0 defined.
    outside = norm > radius
    return jnp.where(outside, v * (radius / jnp.where(outside, norm, 1.0)), v)


def project_linf(v: jax.Array, *, radius: jax.Array | float) -> jax.Array:
    """The point nearest to v with max|v_n| <= radius: sign(v) min(|v|, radius).

    Args:
        v: `[N]`.
        radius: `[]`, xi >= 0.

    Returns:
        `[N]`.
    """
    return jnp.clip(v, -radius, radius)
