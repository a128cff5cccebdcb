"""Where the decoupled method begins: at silence, or at a recording.

A universal perturbation is much like a very convincing example of what it says, and
where the steps end depends on where they begin: from a clip of the target class they
may end 2 dB quieter than from silence, or 2 dB louder. After two passes, level and
success rate together predict which start ends quietest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.attacks.batches import classes_of, logits_by_block
from uap_jax.attacks.decoupled.schedule import first_norm, norm_change, num_starts
from uap_jax.attacks.equations import margin, perturb
from uap_jax.attacks.types import Classify, Front, Problem

# Most recordings that are tried, and most clips that each is tried on: together about
# what a pass takes on a thousand clips.
MAX_CANDIDATES, MAX_PROBES = 64, 64
# How much louder than in the first step they are tried: at the first norm nearly all
# fail alike, and which is best says little.
LOUDER = 1.6
# T of the soft hinge over the median margin of the clean clips.
TEMPERATURE_SHARE = 0.35


class Start(NamedTuple):
    """A v, and how its last pass went."""

    value: jax.Array  # [P]
    direction: jax.Array  # [P]
    norm: jax.Array  # [], what v was held at; infinite: none yet
    asr: jax.Array  # []
    objective: jax.Array  # [], which decides between equals


def temperature_of(problem: Problem) -> jax.Array:
    """T `[]`, a share of the median distance of clean clips from being fooled."""
    clips = jnp.arange(problem.num_clips, dtype=jnp.int32)
    classes = classes_of(problem, problem.clean_predictions, clips)
    margins = margin(problem.clean_logits, classes, targeted=problem.targeted)
    margins = jnp.where(jnp.isfinite(margins) & (classes >= 0), margins, jnp.nan)
    temperature = TEMPERATURE_SHARE * jnp.nanmedian(jnp.abs(margins))
    # Any will do for logits that do not differ or are not finite.
    usable = jnp.isfinite(temperature) & (temperature > 0)
    return jnp.where(usable, temperature, jnp.ones_like(temperature))


def unit(v: jax.Array) -> jax.Array:
    """v / ||v||_2; zero for zero."""
    # Twice, as the squares of a very small or large v leave the range of float32.
    largest = jnp.max(jnp.abs(v))
    v = v / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    length = jnp.linalg.norm(v)
    return v / jnp.where(length > 0, length, jnp.ones_like(length))


def first_values(classify: Classify, problem: Problem) -> jax.Array:
    """Silence, then the attack clips that come closest to fooling others.

    v_0 = rho_0 u_k for the k of the least mean_i sigmoid(m(x_i + 1.6 rho_0 u_k) / T)

    u_k is a clip less its mean, of norm 1; m is `equations.margin`. Targeted, the
    candidates are clips that the classifier takes for the target, otherwise any;
    evenly spread over the attack clips.

    Returns:
        `[num_starts, P]`; zero where there are fewer candidates, and for candidates
        without sound.
    """
    num_clips, num_samples = problem.num_clips, problem.num_sound_samples
    silence = jnp.zeros((1, num_samples), jnp.float32)
    num_chosen = num_starts(problem) - 1
    if not num_chosen:
        return silence
    num_probes = min(MAX_PROBES, num_clips)
    num_candidates = min(MAX_CANDIDATES, num_clips, 4 * num_clips // num_probes)
    probes = spread(num_probes, num_clips)
    if problem.target is not None:
        is_target = problem.clean_predictions == problem.target
        # Those of the target first, in their order.
        order = jnp.argsort(~is_target, stable=True).astype(jnp.int32)
        num_usable = jnp.sum(is_target, dtype=jnp.int32)
        candidates = order[spread(num_candidates, num_usable)]
        usable = is_target[candidates]
    else:
        candidates = spread(num_candidates, num_clips)
        usable = jnp.ones(candidates.shape, jnp.bool_)
    temperature = temperature_of(problem)
    classes = classes_of(problem, problem.clean_predictions, probes)
    norm = first_norm(problem)

    def direction_of(candidate: jax.Array) -> jax.Array:
        # Full scale is far out in tanh space: a peak would be most of the sound.
        sound = jnp.tanh(problem.x[candidate])
        # The mean of equal samples may differ from them by rounding.
        has_sound = jnp.max(sound) > jnp.min(sound)
        return unit(jnp.where(has_sound, sound - jnp.mean(sound), 0.0))

    def loss_of(candidate: jax.Array) -> jax.Array:
        value = LOUDER * norm * direction_of(candidate)
        x = perturb(problem.x[probes], value, space="tanh")
        logits = logits_by_block(classify, x, problem.config.micro_batch_size)
        margins = margin(logits, classes, targeted=problem.targeted)
        is_known = jnp.isfinite(margins) & (classes >= 0)
        shares = jnp.where(is_known, jax.nn.sigmoid(margins / temperature), 0.0)
        num_known = jnp.sum(is_known, dtype=jnp.float32)
        # A factor of 1 where all are known, not finite where none is.
        return jnp.mean(shares) * (num_probes / num_known)

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
    """Indices of clips `[count]` int32, evenly spread over all."""
    return jnp.arange(count, dtype=jnp.int32) * num_clips // count


def better_start(leader: Start, other: Start, asr_level: jax.Array) -> Start:
    """The start that is predicted to end quieter: the lower log(rho) + norm_change.

    That is the norm that each would continue with; their rates alone do not compare,
    as their norms differ by then.
    """

    def log_norm(start: Start) -> jax.Array:
        return jnp.log(start.norm) + norm_change(start.asr, asr_level)

    of_leader, of_other = log_norm(leader), log_norm(other)
    is_better = (of_other < of_leader) | (
        (of_other == of_leader) & (other.objective < leader.objective)
    )
    return choose(is_better, other, leader)


def next_start(
    starts: jax.Array,
    leader: Start,
    ended: Start,
    num_passes: jax.Array,
    asr_level: jax.Array,
    config: Any,
) -> tuple[Start, Start, jax.Array]:
    """The leader after a pass, where the next pass begins, if that is a new start.

    Args:
        starts: `[S, P]`, tried one after the other.
        leader: The best of those tried.
        ended: Where the pass has ended.
        num_passes: `[]` int32, this one included.
        asr_level: The success rate of the passes at all starts.
        config: Resolved settings.

    Returns:
        The leader; the place of `ended` while passes of a start are left, the next
        start where there is one, and after the last the leader; whether it is the next
        start.
    """
    num_starts = starts.shape[0]
    num_tried = num_passes // config.start_passes
    ends = (num_passes % config.start_passes == 0) & (num_tried <= num_starts)
    leader = choose(ends, better_start(leader, ended, asr_level), leader)
    begins = ends & (num_tried < num_starts)
    start = ended._replace(
        value=starts[jnp.minimum(num_tried, num_starts - 1)],
        direction=jnp.zeros_like(ended.direction),
    )
    return leader, choose(begins, start, choose(ends, leader, ended)), begins


def begin_level(
    front: Front, ended: Start, level: jax.Array, main_level: jax.Array
) -> tuple[Start, jax.Array]:
    """Where the passes for another success rate begin.

    Args:
        front: The quietest v so far.
        ended: Where the passes for the rate before have ended.
        level: Index of the rate that is next.
        main_level: Index of the first rate.

    Returns:
        For a rate below the first the quietest v that has it, unless `ended` is
        quieter; for a higher one the quietest with the next lower rate, if any has.
        And `[]` bool, whether the norm is kept.
    """
    is_higher = level < main_level
    source = jnp.where(is_higher, level + 1, level)
    norm = front.norm[source]
    goes_back = jnp.isfinite(norm) & (is_higher | (norm < ended.norm))
    quietest = ended._replace(
        value=front.values[source],
        direction=jnp.where(
            is_higher, jnp.zeros_like(ended.direction), ended.direction
        ),
        norm=norm,
        asr=front.train_asr[source],
    )
    return choose(goes_back, quietest, ended), goes_back & ~is_higher


def choose(condition: jax.Array, a: Start, b: Start) -> Start:
    """a where the condition holds, else b."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
