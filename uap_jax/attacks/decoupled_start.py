"""Where the decoupled method begins: at silence, or at a recording.

A universal perturbation is much like a very convincing example of what it says, and
where the steps end depends on where they begin: from a clip of the target class they
may end 2 dB quieter than from silence, or 2 dB louder. After one pass the success rates
say little of which it will be; after two, level and rate together told the best.
"""

import functools

import jax
import jax.numpy as jnp

from uap_jax.attacks import decoupled_steps, passes
from uap_jax.attacks.checks import known
from uap_jax.attacks.decoupled_schedule import first_norm
from uap_jax.attacks.decoupled_state import DecoupledProblem
from uap_jax.attacks.objectives import margin
from uap_jax.attacks.types import DecoupledConfig, LogitsFn, Variables

# Most recordings that are tried, and most clips that each is tried on: together about
# what a pass takes on a thousand clips.
MOST_CANDIDATES, MOST_PROBES = 64, 64

# How much louder than in the first step they are tried: at the first norm nearly all
# fail alike, and which is best says little.
LOUDER = 1.6


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def first_values(
    logits_fn: LogitsFn,
    variables: Variables,
    problem: DecoupledProblem,
    config: DecoupledConfig,
    *,
    targeted: bool,
) -> jax.Array:
    """Silence, then the attack clips that come closest to fooling others.

    v_0 = rho_0 u_k for the k of the least mean_i sigmoid(m(x_i + 1.6 rho_0 u_k) / T)

    u_k is a clip less its mean, of norm 1; m is `objectives.margin`. Tried are,
    targeted, clips that the classifier takes for the target, otherwise any; spread
    evenly over the attack clips.

    Args:
        logits_fn, variables: As for `decoupled`.
        problem: The attack clips.
        config: Resolved settings.
        targeted: Whether `problem.target` is a class.

    Returns:
        `[S, N]`, S of `config.num_starts`; zero where there are fewer such clips, and
        for those without sound.
    """
    num_clips, num_samples = problem.x.shape
    silence = jnp.zeros((1, num_samples), jnp.float32)
    num_chosen = config.num_starts - 1
    if not num_chosen:
        return silence
    num_probes = min(MOST_PROBES, num_clips)
    num_candidates = min(MOST_CANDIDATES, num_clips, 4 * num_clips // num_probes)
    probes = spread(num_probes, num_clips)
    if targeted:
        is_target = problem.clean_predictions == problem.target
        # Those of the target first, in their order.
        order = jnp.argsort(~is_target, stable=True).astype(jnp.int32)
        num_usable = jnp.sum(is_target, dtype=jnp.int32)
        candidates = order[spread(num_candidates, num_usable)]
        usable = is_target[candidates]
    else:
        candidates = spread(num_candidates, num_clips)
        usable = jnp.ones(candidates.shape, jnp.bool_)
    temperature = decoupled_steps.temperature_of(problem, config, targeted=targeted)
    classes = problem.clean_predictions[probes]
    if targeted:
        classes = jnp.full_like(classes, problem.target)

    def direction_of(candidate: jax.Array) -> jax.Array:
        sound = problem.x[candidate]
        if config.space == "tanh":
            # Full scale is far out in tanh space: a peak would be most of the sound.
            sound = jnp.tanh(sound)
        # The mean of equal samples may differ from them by rounding.
        has_sound = jnp.max(sound) > jnp.min(sound)
        centred = sound - jnp.mean(sound)
        return decoupled_steps.unit(jnp.where(has_sound, centred, 0.0))

    norm = first_norm(config, num_samples)

    def loss_of(candidate: jax.Array) -> jax.Array:
        x = decoupled_steps.add_to_clips(
            problem.x[probes],
            LOUDER * norm * direction_of(candidate),
            space=config.space,
        )
        logits = passes.all_logits(
            logits_fn, variables, x, known(config.micro_batch_size)
        )
        margins = margin(logits, classes, targeted=targeted)
        return jnp.mean(jax.nn.sigmoid(margins / temperature))

    losses = jax.lax.map(loss_of, candidates)
    losses = jnp.where(usable & jnp.isfinite(losses), losses, jnp.inf)
    # A clip that stands for several counts once.
    is_again = candidates[1:] == candidates[:-1]
    losses = losses.at[1:].set(jnp.where(is_again, jnp.inf, losses[1:]))
    best = jnp.argsort(losses)[:num_chosen]
    sounds = norm * jax.vmap(direction_of)(candidates[best])
    sounds = jnp.where(jnp.isfinite(losses[best])[:, None], sounds, 0.0)
    missing = num_chosen - sounds.shape[0]
    return jnp.concatenate([silence, jnp.pad(sounds, ((0, missing), (0, 0)))])


def spread(count: int, num_clips: jax.Array | int) -> jax.Array:
    """Returns indices of clips `[count]` int32, evenly spread over all."""
    return jnp.arange(count, dtype=jnp.int32) * num_clips // count
