"""Losses of the two methods (Eq. 10, 11, cross-entropy) and success (Eq. 3)."""

import jax
import jax.numpy as jnp


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
    found = margin(logits, classes, targeted=targeted)
    return jnp.maximum(found, -confidence)


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
        classes: `[B]` int32, as for `margin`.
        temperature: `[]`, T > 0, in units of logits.
        give_up: `[]`, g > 0: from margins of g T on a clip counts as out of reach.
        targeted: Which of the two margins.

    Returns:
        `[B]` in [0, g T].
    """
    found = margin(logits, classes, targeted=targeted) / temperature
    return temperature * (jax.nn.softplus(found) - jax.nn.softplus(found - give_up))


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
    own = jnp.sum(jnp.where(is_class, logits, 0.0), axis=1)
    other = jnp.max(jnp.where(is_class, -jnp.inf, logits), axis=1)
    return other - own if targeted else own - other


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


def is_fooled(
    logits: jax.Array,
    clean_predictions: jax.Array,
    *,
    target: jax.Array,
    targeted: bool,
) -> jax.Array:
    """Whether the attack succeeds on each clip, the indicator of Eq. 3.

    Untargeted: the prediction differs from the clean one. Targeted: it is the target.
    Logits that are not finite are no success.

    Args:
        logits: `[B, C]` of the perturbed clips.
        clean_predictions: `[B]` int32.
        target: `[]` int32; not used when untargeted.
        targeted: Which of the two.

    Returns:
        `[B]` bool.
    """
    predictions = jnp.argmax(logits, axis=1).astype(jnp.int32)
    success = predictions == target if targeted else predictions != clean_predictions
    return success & jnp.all(jnp.isfinite(logits), axis=1)
