"""The penalty method: sound level plus a hinge loss over batches (Algorithm 1).

minimise over v'   SPL(v') + c sum_i G(w_i),   w_i = (tanh(x'_i + v') + 1) / 2

`penalty` runs it to the end. It is a loop over `penalty_init`, `penalty_segment` and
`penalty_result`, for those who log, store or stop in between.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uap_jax.attacks import types
from uap_jax.attacks.objectives import hinge, is_fooled
from uap_jax.attacks.projections import project_l2
from uap_jax.attacks.types import AttackResult, LogitsFn, PenaltyConfig, Perturbation
from uap_jax.audio.box import EPSILON, from_tanh_space, to_tanh_space
from uap_jax.audio.levels import spl_db

HINGE_REDUCTIONS = ("sum", "released")

# What the paper compares; every other name is looked up in optax.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adagrad": optax.adagrad,
    "sgd": optax.sgd,
    "nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
}

HISTORY_FIELDS = ("asr", "spl_db", "objective", "hinge")


class PenaltyProblem(NamedTuple):
    """What stays fixed during an attack; lives on the device."""

    x_tanh: jax.Array  # [M, N], x' of Eq. 7
    labels: jax.Array  # [M] int32, true labels
    clean_predictions: jax.Array  # [M] int32
    target: jax.Array  # [] int32; -1: untargeted


class PenaltyState(NamedTuple):
    """What a segment takes and returns; a pytree of arrays, to store as it is."""

    value: jax.Array  # [N], v'
    opt_state: Any
    key: jax.Array  # the batches of pass p follow from fold_in(key, p)
    num_passes: jax.Array  # [] int32, completed passes
    batch: jax.Array  # [] int32, next batch of the running pass
    block: jax.Array  # [] int32, next block of its evaluation
    num_fooled: jax.Array  # [] int32, in the blocks evaluated so far
    objective_sum: jax.Array  # [], over the batches of the running pass
    hinge_sum: jax.Array  # [], over its clips
    stop_reason: jax.Array  # [] int32, index into types.STOP_REASONS
    history: dict[str, jax.Array]  # [max_passes] each, HISTORY_FIELDS


def penalty(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: PenaltyConfig = PenaltyConfig(),
) -> AttackResult:
    """Finds a universal perturbation with the penalty method (Algorithm 1).

    Every pass visits the clips in new random batches and takes one optimizer step a
    batch; after it the success rate on all clips decides whether to stop.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box [0, 1].
        labels: `[M]` int32 true classes (the hinge of Eq. 11 uses them).
        key: Random key for the batches; consumed.
        target: The class to say, or None for an untargeted attack.
        config: Settings; the defaults are the paper's.

    Returns:
        The perturbation in tanh space, and how the attack went. `history` has `asr`,
        `spl_db` (of v'), `objective` (mean over the batches), `hinge` (mean over the
        clips) per pass.

    Raises:
        ValueError: An input or setting is out of its range.

    Source: Abdoli et al., "Universal Adversarial Audio Perturbations", section 3.2.
    """
    problem, state = penalty_init(
        logits_fn, variables, x, labels, key=key, target=target, config=config
    )
    while int(state.stop_reason) == types.RUNNING:
        state = penalty_segment(logits_fn, variables, problem, state, config=config)
    return penalty_result(state)


def resolve_penalty_config(
    config: PenaltyConfig, *, targeted: bool, num_clips: int
) -> PenaltyConfig:
    """Fills in what depends on the scenario and the number of clips, and checks all.

    Raises:
        ValueError: A setting is out of its range.
    """
    scenario = (0.0035, 0.15, 10.0) if targeted else (0.006, 0.2, 40.0)
    fields = ("learning_rate", "penalty_coefficient", "confidence")
    defaults: dict[str, Any] = dict(zip(fields, scenario, strict=True))
    unset = {name: v for name, v in defaults.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **unset)
    for field in ("batch_size", "max_passes"):
        _check_size(field, getattr(config, field))
    batch_size = min(config.batch_size, num_clips)
    micro_batch_size = config.micro_batch_size
    if micro_batch_size is None:
        micro_batch_size = -(-batch_size // -(-batch_size // 32))
    _check_size("micro_batch_size", micro_batch_size)
    _check("target_asr", config.target_asr, "a rate in (0, 1]", lambda r: 0 < r <= 1)
    _check("learning_rate", config.learning_rate, "a positive number", lambda r: r > 0)
    _check("penalty_coefficient", config.penalty_coefficient, ">= 0", lambda c: c >= 0)
    _check("confidence", config.confidence, ">= 0", lambda c: c >= 0)
    if config.l2_radius is not None:
        _check("l2_radius", config.l2_radius, "a positive number", lambda r: r > 0)
    if config.hinge_reduction not in HINGE_REDUCTIONS:
        raise ValueError(
            f"hinge_reduction: expected one of {HINGE_REDUCTIONS}, "
            f"got {config.hinge_reduction!r}"
        )
    _optimizer(config)
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        micro_batch_size=min(micro_batch_size, batch_size),
    )


def penalty_init(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: PenaltyConfig,
) -> tuple[PenaltyProblem, PenaltyState]:
    """Prepares an attack: the clips in tanh space, their clean predictions, v' = 0.

    Args:
        logits_fn: See `penalty`, as for the others.
        variables: ...
        x: ...
        labels: ...
        key: ...
        target: ...
        config: From `resolve_penalty_config`.

    Returns:
        The problem, which stays fixed, and the first state.

    Raises:
        ValueError: An input is out of its range.
    """
    types.check_attack_inputs(logits_fn, variables, x, labels, target=target)
    config = resolve_penalty_config(
        config, targeted=target is not None, num_clips=x.shape[0]
    )
    problem = PenaltyProblem(
        x_tanh=_to_tanh_space(x),
        labels=labels,
        clean_predictions=_predict(logits_fn, variables, x, config.micro_batch_size),
        target=jnp.asarray(-1 if target is None else target, jnp.int32),
    )
    value = jnp.zeros(x.shape[1], jnp.float32)
    nothing_yet = jnp.full(config.max_passes, jnp.nan, jnp.float32)
    # A buffer of its own for every field: states may be donated.
    zero, zero_float = functools.partial(jnp.zeros, (), jnp.int32), jnp.zeros
    state = PenaltyState(
        value=value,
        opt_state=_optimizer(config).init(value),
        key=key,
        num_passes=zero(),
        batch=zero(),
        block=zero(),
        num_fooled=zero(),
        objective_sum=zero_float((), jnp.float32),
        hinge_sum=zero_float((), jnp.float32),
        stop_reason=zero(),
        history={field: nothing_yet for field in HISTORY_FIELDS},
    )
    return problem, state


def penalty_segment(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    state: PenaltyState,
    *,
    config: PenaltyConfig,
    max_steps: int | None = None,
) -> PenaltyState:
    """Goes on with an attack, at most to the end of the running pass.

    One call is one compiled program: optimizer steps while the pass has batches left,
    else the evaluation of the pass. How the work is cut into segments does not change
    a bit of the result.

    Args:
        logits_fn: As for `penalty_init`, like the next two.
        variables: ...
        problem: ...
        state: From `penalty_init` or the last segment; unchanged if it has stopped.
        config: ...
        max_steps: Most batches (or blocks of clips to evaluate) in this call; None:
            no limit.

    Returns:
        The state after it.
    """
    num_clips = problem.labels.shape[0]
    config = resolve_penalty_config(
        config, targeted=bool(problem.target >= 0), num_clips=num_clips
    )
    advance = _descend
    if int(state.batch) == _num_batches(config, num_clips):
        advance = _evaluate
    return advance(
        logits_fn,
        variables,
        problem,
        state,
        _as_arrays(config),
        jnp.asarray(max_steps or np.iinfo(np.int32).max, jnp.int32),
        targeted=bool(problem.target >= 0),
    )


def penalty_result(state: PenaltyState) -> AttackResult:
    """Reads the result off a state; also off one that is still running."""
    passes = state.num_passes
    last = state.history["asr"][jnp.maximum(passes - 1, 0)]
    return AttackResult(
        perturbation=Perturbation(state.value, space="tanh", epsilon=EPSILON),
        converged=state.stop_reason == types.CONVERGED,
        train_asr=jnp.where(passes > 0, last, jnp.zeros_like(last)),
        num_passes=passes,
        stop_reason=state.stop_reason,
        history=state.history,
    )


def batch_objective(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    value: jax.Array,
    clips: jax.Array,
    weights: jax.Array,
    *,
    config: PenaltyConfig,
    targeted: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """SPL(v') + c sum_i G(w_i) of a batch and its gradient, Eq. 10 and 11.

    The gradient is summed over micro-batches. With `hinge_reduction="released"` it is
    that of the authors' code: c sum_i dG(w_i) / dw_i.

    Args:
        logits_fn: See `penalty`, as for `variables`.
        variables: ...
        problem: The attack clips.
        value: `[N]`, v'.
        clips: `[K, S]` int32, the batch as micro-batches of indices.
        weights: `[K, S]`, 1, or 0 for what only fills up the last micro-batch.
        config: Resolved settings.
        targeted: Whether `problem.target` is a class.

    Returns:
        The objective `[]`, the sum of hinges `[]`, the gradient `[N]`.
    """

    def hinge_sum(w: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
        classes = problem.labels[index]
        if targeted:
            classes = jnp.full_like(classes, problem.target)
        losses = hinge(
            logits_fn(variables, w),
            classes,
            confidence=config.confidence,
            targeted=targeted,
        )
        # Not a product: a clip that only fills up must not turn 0 into NaN.
        return jnp.sum(jnp.where(weight > 0, losses, jnp.zeros_like(losses)))

    def of_value(value: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
        w = from_tanh_space(problem.x_tanh[index] + value[None])
        return hinge_sum(w, index, weight)

    def add_micro_batch(carry: Any, micro_batch: Any) -> tuple[Any, None]:
        total, gradient = carry
        index, weight = micro_batch
        if config.hinge_reduction == "released":
            w = from_tanh_space(problem.x_tanh[index] + value[None])
            loss, by_clip = jax.value_and_grad(hinge_sum)(w, index, weight)
            step = jnp.sum(by_clip, axis=0)
        else:
            loss, step = jax.value_and_grad(of_value)(value, index, weight)
        return (total + loss, gradient + step), None

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(value))
    (total, gradient), _ = jax.lax.scan(add_micro_batch, start, (clips, weights))
    level_db, level_gradient = jax.value_and_grad(spl_db)(value)
    gradient = config.penalty_coefficient * gradient
    if config.hinge_reduction == "sum":
        gradient = gradient + level_gradient
    return level_db + config.penalty_coefficient * total, total, gradient


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def _descend(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    state: PenaltyState,
    config: PenaltyConfig,
    max_steps: jax.Array,
    *,
    targeted: bool,
) -> PenaltyState:
    """Optimizer steps until the pass has no batches left, or `max_steps`."""
    num_clips = problem.labels.shape[0]
    num_batches = _num_batches(config, num_clips)
    optimizer = _optimizer(config)
    order = jax.random.permutation(
        jax.random.fold_in(state.key, state.num_passes), num_clips
    ).astype(jnp.int32)

    def should_go_on(carry: tuple[PenaltyState, jax.Array]) -> jax.Array:
        state, steps_left = carry
        running = state.stop_reason == types.RUNNING
        return running & (state.batch < num_batches) & (steps_left > 0)

    def step(
        carry: tuple[PenaltyState, jax.Array],
    ) -> tuple[PenaltyState, jax.Array]:
        state, steps_left = carry
        clips, weights = _take_batch(order, state.batch, config)
        objective, hinges, gradient = batch_objective(
            logits_fn,
            variables,
            problem,
            state.value,
            clips,
            weights,
            config=config,
            targeted=targeted,
        )
        # Optax mixes dtypes in places, which a caller's strict setting forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(
                gradient, state.opt_state, state.value
            )
        value = optax.apply_updates(state.value, updates)
        if config.l2_radius is not None:
            value = project_l2(value, radius=config.l2_radius)
        stop_reason = jnp.where(
            ~jnp.isfinite(objective),
            types.NON_FINITE_OBJECTIVE,
            jnp.where(
                # A rate far too large makes the step overflow.
                ~jnp.all(jnp.isfinite(gradient) & jnp.isfinite(value)),
                types.NON_FINITE_GRADIENT,
                types.RUNNING,
            ),
        ).astype(jnp.int32)
        new = state._replace(
            value=value,
            opt_state=opt_state,
            batch=state.batch + 1,
            objective_sum=state.objective_sum + objective,
            hinge_sum=state.hinge_sum + hinges,
        )
        # What was found before the fault is kept.
        good = stop_reason == types.RUNNING
        new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        return new._replace(stop_reason=stop_reason), steps_left - 1

    state, _ = jax.lax.while_loop(should_go_on, step, (state, max_steps))
    return state


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def _evaluate(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: PenaltyProblem,
    state: PenaltyState,
    config: PenaltyConfig,
    max_steps: jax.Array,
    *,
    targeted: bool,
) -> PenaltyState:
    """Counts the clips that v' fools, and ends the pass when all are counted."""
    num_clips = problem.labels.shape[0]
    block_size = config.micro_batch_size
    num_blocks = -(-num_clips // block_size)

    def should_go_on(carry: tuple[PenaltyState, jax.Array]) -> jax.Array:
        state, steps_left = carry
        running = state.stop_reason == types.RUNNING
        return running & (state.block < num_blocks) & (steps_left > 0)

    def count_block(
        carry: tuple[PenaltyState, jax.Array],
    ) -> tuple[PenaltyState, jax.Array]:
        state, steps_left = carry
        clips = state.block * block_size + jnp.arange(block_size, dtype=jnp.int32)
        counts = clips < num_clips
        clips = jnp.minimum(clips, num_clips - 1)
        w = from_tanh_space(problem.x_tanh[clips] + state.value[None])
        logits = logits_fn(variables, w)
        fooled = is_fooled(
            logits,
            problem.clean_predictions[clips],
            target=problem.target,
            targeted=targeted,
        )
        return state._replace(
            num_fooled=state.num_fooled + jnp.sum(fooled & counts, dtype=jnp.int32),
            block=state.block + 1,
            stop_reason=jnp.where(
                jnp.all(jnp.isfinite(logits)),
                state.stop_reason,
                jnp.full_like(state.stop_reason, types.NON_FINITE_LOGITS),
            ),
        ), steps_left - 1

    state, _ = jax.lax.while_loop(should_go_on, count_block, (state, max_steps))
    ended = (state.block == num_blocks) & (state.stop_reason == types.RUNNING)
    closed = _end_pass(state, config, num_clips)
    return jax.tree.map(lambda a, b: jnp.where(ended, a, b), closed, state)


def _end_pass(
    state: PenaltyState, config: PenaltyConfig, num_clips: int
) -> PenaltyState:
    """Writes the pass into the history and decides whether to stop."""
    asr = state.num_fooled.astype(jnp.float32) / num_clips
    values = {
        "asr": asr,
        "spl_db": spl_db(state.value),
        "objective": state.objective_sum / _num_batches(config, num_clips),
        "hinge": state.hinge_sum / num_clips,
    }
    num_passes = state.num_passes + 1
    stop_reason = jnp.where(
        asr >= config.target_asr,
        types.CONVERGED,
        jnp.where(num_passes >= config.max_passes, types.MAX_PASSES, types.RUNNING),
    ).astype(jnp.int32)
    return state._replace(
        num_passes=num_passes,
        batch=jnp.zeros_like(state.batch),
        block=jnp.zeros_like(state.block),
        num_fooled=jnp.zeros_like(state.num_fooled),
        objective_sum=jnp.zeros_like(state.objective_sum),
        hinge_sum=jnp.zeros_like(state.hinge_sum),
        stop_reason=stop_reason,
        history={
            field: state.history[field].at[state.num_passes].set(values[field])
            for field in HISTORY_FIELDS
        },
    )


def _take_batch(
    order: jax.Array, batch: jax.Array, config: PenaltyConfig
) -> tuple[jax.Array, jax.Array]:
    """The clips of one batch as micro-batches `[K, S]` of indices, and their weights.

    The last batch of a pass may be short, and a micro-batch may not divide the batch;
    both are filled up with weight zero.
    """
    num_micro_batches = -(-config.batch_size // config.micro_batch_size)
    padded_size = num_micro_batches * config.micro_batch_size
    place = jnp.arange(padded_size, dtype=jnp.int32)
    at = batch * config.batch_size + place
    counts = (place < config.batch_size) & (at < order.shape[0])
    clips = order[jnp.where(counts, at, jnp.zeros_like(at))]
    shape = (num_micro_batches, config.micro_batch_size)
    return clips.reshape(shape), counts.astype(jnp.float32).reshape(shape)


def _num_batches(config: PenaltyConfig, num_clips: int) -> int:
    return -(-num_clips // config.batch_size)


def _optimizer(config: PenaltyConfig) -> optax.GradientTransformation:
    make = OPTIMIZERS.get(config.optimizer) or getattr(optax, config.optimizer, None)
    try:
        optimizer = make(config.learning_rate)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError
    except TypeError:
        raise ValueError(
            f"optimizer: expected one of {tuple(OPTIMIZERS)} or an optax optimizer "
            f"that needs a learning rate only, got {config.optimizer!r}"
        ) from None
    return optimizer


def _as_arrays(config: PenaltyConfig) -> PenaltyConfig:
    """Numbers as float32, so that Python and NumPy numbers share one program."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), config)


def _check(
    name: str, value: Any, expected: str, is_good: Callable[[Any], bool]
) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    try:
        good = is_good(value)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def _check_size(name: str, value: Any) -> None:
    is_integer = isinstance(value, (int, np.integer))
    _check(name, value, "an integer of at least 1", lambda n: is_integer and n >= 1)


@jax.jit
def _to_tanh_space(x: jax.Array) -> jax.Array:
    return to_tanh_space(x)


@functools.partial(jax.jit, static_argnames=("logits_fn", "block_size"))
def _predict(
    logits_fn: LogitsFn, variables: types.Variables, x: jax.Array, block_size: int
) -> jax.Array:
    num_clips, num_samples = x.shape
    num_blocks = -(-num_clips // block_size)
    filled = jnp.pad(x, ((0, num_blocks * block_size - num_clips), (0, 0)))
    logits = jax.lax.map(
        lambda block: logits_fn(variables, block),
        filled.reshape(num_blocks, block_size, num_samples),
    )
    predictions = jnp.argmax(logits, axis=2).astype(jnp.int32)
    return predictions.reshape(-1)[:num_clips]
