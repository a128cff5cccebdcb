"""Where the decoupled method begins: at the recording that comes closest by itself.

A universal perturbation is much like a very convincing example of what it says, and
where the steps end depends on where they begin: from an attack clip of the target class
they end at quieter perturbations than from silence, and sooner.
"""

import functools

import jax
import jax.numpy as jnp

from uap_jax.attacks import decoupled_steps, passes
from uap_jax.attacks.checks import known
from uap_jax.attacks.decoupled_schedule import first_norm
from uap_jax.attacks.objectives import soft_hinge
from uap_jax.attacks.types import DecoupledConfig, LogitsFn, Variables

# Most recordings that are tried, and most clips that each is tried on: together fewer
# than one pass has on a thousand clips.
MOST_CANDIDATES, MOST_PROBES = 32, 32


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def first_value(
    logits_fn: LogitsFn,
    variables: Variables,
    problem: decoupled_steps.DecoupledProblem,
    config: DecoupledConfig,
    *,
    targeted: bool,
) -> jax.Array:
    """The attack clip with which clips are closest to being fooled, at the first norm.

    v_0 = rho_0 u_k,  k = argmin_k mean_i soft_hinge(x_i + rho_0 u_k)

    u_k is a clip less its mean, of norm 1. Tried are, targeted, clips that the
    classifier takes for the target, otherwise clips spread over all.

    Args:
        logits_fn, variables: As for `decoupled`.
        problem: The attack clips.
        config: Resolved settings.
        targeted: Whether `problem.target` is a class.

    Returns:
        `[N]`; zero where `config.start` is "silence", where no clip is taken for the
        target, or where all that are have no sound.
    """
    num_clips, num_samples = problem.x.shape
    if config.start == "silence":
        return jnp.zeros(num_samples, jnp.float32)
    num_probes = min(MOST_PROBES, num_clips)
    num_candidates = min(MOST_CANDIDATES, max(1, 2 * num_clips // num_probes))
    probes = spread(num_probes, num_clips)
    candidates = spread(min(num_candidates, num_clips), num_clips)
    usable = jnp.ones(candidates.shape, jnp.bool_)
    if targeted:
        is_target = problem.clean_predictions == problem.target
        candidates = jnp.argsort(~is_target, stable=True)[: candidates.shape[0]]
        usable = is_target[candidates]
    temperature = decoupled_steps.temperature_of(problem, config, targeted=targeted)
    norm = first_norm(config, num_samples)
    classes = problem.clean_predictions[probes]
    if targeted:
        classes = jnp.full_like(classes, problem.target)

    def value_of(candidate: jax.Array) -> jax.Array:
        sound = problem.x[candidate]
        if config.space == "tanh":
            # Full scale is far out in tanh space: a peak would be most of the sound.
            sound = jnp.tanh(sound)
        return norm * decoupled_steps.unit(sound - jnp.mean(sound))

    def loss_of(candidate: jax.Array) -> jax.Array:
        x = decoupled_steps.add_to_clips(
            problem.x[probes], value_of(candidate), space=config.space
        )
        losses = soft_hinge(
            passes.all_logits(logits_fn, variables, x, known(config.micro_batch_size)),
            classes,
            temperature=temperature,
            give_up=config.give_up,
            targeted=targeted,
        )
        return jnp.mean(losses)

    losses = jax.lax.map(loss_of, candidates)
    best = jnp.argmin(jnp.where(usable & jnp.isfinite(losses), losses, jnp.inf))
    chosen = value_of(candidates[best])
    return jnp.where(usable[best], chosen, jnp.zeros_like(chosen))


def spread(count: int, num_clips: int) -> jax.Array:
    """Returns indices of clips `[count]` int32, evenly spread over all."""
    return jnp.arange(count, dtype=jnp.int32) * num_clips // count
