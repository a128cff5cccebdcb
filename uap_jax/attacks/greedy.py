"""The iterative greedy attack around DDN (section 3.1, Eq. 1 and 2).

Clips are visited one after the other. One that v already fools is skipped; else DDN
finds the smallest delta that fools it from clip(x + v), and

    v <- P_{p,xi}(v + delta).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.attacks import checks, loop, types
from uap_jax.attacks.ddn import (
    FOUND,
    NON_FINITE,
    NON_FINITE_GRADIENT,
    DDNConfig,
    check_ddn_config,
    search,
)
from uap_jax.attacks.equations import is_success, perturb, project_l2, project_linf
from uap_jax.attacks.types import (
    At,
    AttackResult,
    Classify,
    LeftOut,
    LogitsFn,
    Method,
    Number,
    PassConfig,
    PassEnd,
    Problem,
    Step,
    static,
)

LABELS = ("clean", "true")
AGGREGATIONS = ("sum", "mean")
PROJECTIONS = {"linf": project_linf, "l2": project_l2}

# Right after an update most of the next clips may not be fooled, and looking at many
# would be in vain.
SHORT_BLOCK_SIZE = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GreedyConfig(PassConfig):
    """Settings of the greedy attack; the defaults are the paper's.

    Attributes:
        batch_size: Clips whose DDN starts from the same v. 1 is the paper's method.
            More is another one, faster where clips are cheaper together: their deltas
            are aggregated and the sum is projected once.
        norm: p of the ball that v is kept in, "linf" or "l2".
        radius: xi; None: 0.12 targeted, 0.2 untargeted for "linf". The paper gives
            none for "l2".
        shuffle: Whether each pass visits the clips in a new random order, or all in
            the order given, as the authors do.
        aggregation: "sum" or "mean" of the deltas of a batch.
        labels: What DDN leads away from when untargeted: the "clean" prediction (Eq.
            1) or the "true" label (the authors' code).
        ddn: Settings of the inner attack.
    """

    batch_size: int | None = static(1)
    norm: str = static("linf")
    radius: Number | None = None
    shuffle: bool = static(False)
    aggregation: str = static("sum")
    labels: str = static("clean")
    ddn: DDNConfig = DDNConfig()

    @property
    def method(self) -> Method:
        return GREEDY


def greedy(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: GreedyConfig = GreedyConfig(),
) -> AttackResult:
    """Crafts a universal perturbation with the greedy method.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box [0, 1].
        labels: `[M]` int32 true classes; used with `labels="true"` only.
        key: Random key for the order of visits, if shuffled; consumed.
        target: The class to say, or None for an untargeted attack.
        config: Settings; the defaults are the paper's.

    Returns:
        The perturbation in signal space, and how the attack went. `history` has per
        pass `asr`; `spl_db`, `linf` and `l2` of v; and the clips `visited` (by DDN),
        `skipped` (fooled already) and `failed` (visited, but DDN had nothing to add).
        Clips whose logits are not finite are neither visited nor skipped.
        The stop reason "stalled" means that a whole pass could not move v.

    Raises:
        ValueError: An input or setting is out of its range.

    Source: Abdoli et al., "Universal Adversarial Audio Perturbations", section 3.1.
    """
    checks.check_config(config, GreedyConfig)
    return loop.run(
        logits_fn, variables, x, labels, key=key, target=target, config=config
    )


class _Own(NamedTuple):
    value: jax.Array  # [N], v
    pending: jax.Array  # [batch_size] int32, clips waiting for their DDN
    num_pending: jax.Array  # [] int32
    looks_far: jax.Array  # [] bool, the last block was fooled as a whole


def _resolve(config: GreedyConfig, *, targeted: bool, num_clips: int) -> GreedyConfig:
    checks.check_choice("norm", config.norm, tuple(PROJECTIONS))
    checks.check_choice("labels", config.labels, LABELS)
    checks.check_choice("aggregation", config.aggregation, AGGREGATIONS)
    checks.check_choice("shuffle", config.shuffle, (False, True))
    check_ddn_config(config.ddn)
    radius = config.radius
    if radius is None:
        if config.norm != "linf":
            raise ValueError(
                f"radius: expected a number for norm {config.norm!r}, got None; the "
                "paper gives one for 'linf' only"
            )
        radius = 0.12 if targeted else 0.2
    checks.check_positive("radius", radius)
    return dataclasses.replace(config, radius=radius)


def _init(classify: Classify, problem: Problem) -> _Own:
    return _Own(
        value=jnp.zeros(problem.x.shape[1], jnp.float32),
        pending=jnp.zeros(problem.config.batch_size, jnp.int32),
        num_pending=jnp.zeros((), jnp.int32),
        looks_far=jnp.zeros((), jnp.bool_),
    )


def _step(classify: Classify, problem: Problem, own: _Own, at: At) -> Step:
    """Looks at a block of clips with the current v, and moves v at the first open one.

    The clips before it are skipped, as they would be one by one.
    """
    config = problem.config
    own, num_seen, unusable = _look(classify, problem, own, at)
    is_full = own.num_pending == config.batch_size
    is_last = (at.position + num_seen >= problem.num_clips) & (own.num_pending > 0)
    moves = is_full | is_last
    nothing = {name: jnp.zeros((), jnp.float32) for name in GREEDY.sums}
    visited = own.pending
    own, sums, are_bad = jax.lax.cond(
        moves,
        lambda own: _move(classify, problem, own, at),
        lambda own: (own, nothing, jnp.zeros(visited.shape, jnp.bool_)),
        own,
    )
    left_out = LeftOut(
        jnp.concatenate([unusable.clips, visited]),
        jnp.concatenate([unusable.is_out, are_bad]),
        jnp.where(moves, types.RUNNING, unusable.fault),
    )
    sums["unusable"] = jnp.sum(unusable.is_out, dtype=jnp.float32)
    cost = jnp.where(moves, config.ddn.num_steps, 1)
    return Step(own, num_seen, sums, cost=cost, left_out=left_out)


def _look(
    classify: Classify, problem: Problem, own: _Own, at: At
) -> tuple[_Own, jax.Array, LeftOut]:
    """Skips clips that are fooled, up to the one that fills the batch."""
    num_clips, config = problem.num_clips, problem.config
    longest = config.micro_batch_size
    shortest = min(longest, max(SHORT_BLOCK_SIZE, config.batch_size))

    def look_at(block_size: int, own: _Own) -> tuple[_Own, jax.Array, LeftOut]:
        index = at.position + jnp.arange(block_size, dtype=jnp.int32)
        clips = at.order[jnp.minimum(index, num_clips - 1)]
        logits = classify(perturb(problem.x[clips], own.value, space="signal"))
        fooled = is_success(logits, problem.clean_predictions[clips], problem.target)
        is_bad = ~jnp.all(jnp.isfinite(logits), axis=1)
        if problem.target is None:
            # Without a clean prediction there is no class to leave.
            is_bad |= problem.clean_predictions[clips] < 0
        is_open = (index < num_clips) & ~fooled & ~is_bad
        # The clip that fills the batch ends the look: v changes after it.
        rank = own.num_pending + jnp.cumsum(is_open, dtype=jnp.int32) - 1
        taken = is_open & (rank < config.batch_size)
        # Slots past the end of `pending` are dropped.
        slots = jnp.where(taken, rank, config.batch_size)
        fills = taken & (rank == config.batch_size - 1)
        num_seen = jnp.where(
            jnp.any(fills), jnp.argmax(fills).astype(jnp.int32) + 1, block_size
        ).astype(jnp.int32)
        is_seen = jnp.arange(block_size, dtype=jnp.int32) < num_seen
        is_seen &= index < num_clips
        are_all = jnp.all(is_bad | ~is_seen)
        missing = (0, longest - block_size)
        unusable = LeftOut(
            jnp.pad(clips, missing),
            jnp.pad(is_bad & is_seen, missing),
            jnp.where(are_all, types.NON_FINITE_LOGITS, types.RUNNING),
        )
        looked = own._replace(
            pending=own.pending.at[slots].set(clips, mode="drop"),
            num_pending=own.num_pending + jnp.sum(taken, dtype=jnp.int32),
            looks_far=~jnp.any(taken),
        )
        return looked, num_seen, unusable

    return jax.lax.cond(
        own.looks_far,
        functools.partial(look_at, longest),
        functools.partial(look_at, shortest),
        own,
    )


def _move(
    classify: Classify, problem: Problem, own: _Own, at: At
) -> tuple[_Own, dict[str, jax.Array], jax.Array]:
    """v <- P_{p,xi}(v + sum_i delta_i), delta_i from DDN at clip(x_i + v), Eq. 1, 2.

    Returns also which pending clips had nothing added for what was not finite.
    """
    config = problem.config
    is_there = jnp.arange(config.batch_size, dtype=jnp.int32) < own.num_pending
    # An empty slot repeats the first clip.
    clips = jnp.where(is_there, own.pending, own.pending[0])
    if problem.target is not None:
        classes = jnp.full(clips.shape, problem.target, jnp.int32)
    elif config.labels == "true":
        classes = problem.labels[clips]
    else:
        classes = problem.clean_predictions[clips]
    inner = search(
        classify,
        perturb(problem.x[clips], own.value, space="signal"),
        classes,
        jax.random.fold_in(at.key, clips[0]),
        config=config.ddn,
        targeted=problem.targeted,
    )
    update = jnp.sum(jnp.where(is_there[:, None], inner.delta, 0.0), axis=0)
    if config.aggregation == "mean":
        update = update / own.num_pending.astype(jnp.float32)
    value = PROJECTIONS[config.norm](own.value + update, radius=config.radius)
    failed = is_there & (inner.status != FOUND)
    sums = {
        "visited": own.num_pending.astype(jnp.float32),
        "failed": jnp.sum(failed, dtype=jnp.float32),
        "moved": jnp.any(value != own.value).astype(jnp.float32),
        "unusable": jnp.zeros((), jnp.float32),
    }
    own = own._replace(value=value, num_pending=jnp.zeros_like(own.num_pending))
    is_bad = (inner.status == NON_FINITE) | (inner.status == NON_FINITE_GRADIENT)
    return own, sums, failed & is_bad


def _end_pass(
    problem: Problem,
    own: _Own,
    asr: jax.Array,
    *,
    sums: dict[str, jax.Array],
    num_passes: jax.Array,
) -> PassEnd:
    are_none_left = sums["left_out"] >= problem.num_clips
    stalled = jnp.where(are_none_left, types.NON_FINITE_GRADIENT, types.STALLED)
    # A pass that has not moved v would be repeated by the next.
    stalled = jnp.where(sums["moved"] > 0, types.RUNNING, stalled)
    metrics = {
        "linf": jnp.max(jnp.abs(own.value)),
        "l2": jnp.linalg.norm(own.value),
        "visited": sums["visited"],
        "skipped": problem.num_clips - sums["visited"] - sums["unusable"],
        "failed": sums["failed"],
    }
    return PassEnd(
        own._replace(looks_far=jnp.zeros_like(own.looks_far)),
        metrics,
        jnp.where(asr >= problem.config.target_asr, types.CONVERGED, stalled),
    )


GREEDY = Method(
    name="greedy",
    config_type=GreedyConfig,
    resolve=_resolve,
    most_at_once=lambda config, num_clips: num_clips,
    shuffles=lambda config: config.shuffle,
    init=_init,
    step=_step,
    value=lambda own: own.value,
    end_pass=_end_pass,
    space="signal",
    sums=("visited", "failed", "moved", "unusable"),
    metrics=("linf", "l2", "visited", "skipped", "failed"),
    no_channel="it adds up the smallest changes of single clips, each found with one "
    "delta for one clip, which holds for one draw of a channel only",
)
