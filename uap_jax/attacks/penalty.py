"""The penalty method: sound level plus a hinge loss over batches (Algorithm 1).

minimise over v'   SPL(v') + c sum_i G(w_i),   w_i = (tanh(x'_i + v') + 1) / 2

`penalty` runs it to the end. It is a loop over `penalty_init`, `penalty_segment` and
`penalty_result`, for those who log, store or stop in between.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.attacks import checks, passes, penalty_steps, types
from uap_jax.attacks.penalty_steps import (
    HINGE_REDUCTIONS,
    HISTORY_FIELDS,
    PenaltyProblem,
    PenaltyState,
    optimizer_of,
)
from uap_jax.attacks.types import AttackResult, LogitsFn, PenaltyConfig, Perturbation
from uap_jax.audio.box import EPSILON


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
        checks.check_size(field, getattr(config, field))
    if config.min_passes is not None:
        checks.check_size("min_passes", config.min_passes)
        if config.min_passes > config.max_passes:
            raise ValueError(
                f"min_passes: expected at most {config.max_passes}, as max_passes, "
                f"got {config.min_passes}"
            )
    batch_size = min(config.batch_size, num_clips)
    micro_batch_size = config.micro_batch_size
    if micro_batch_size is None:
        micro_batch_size = passes.even_share(batch_size)
    checks.check_size("micro_batch_size", micro_batch_size)
    checks.check_rate("target_asr", config.target_asr)
    checks.check_positive("learning_rate", config.learning_rate)
    for field in ("penalty_coefficient", "confidence"):
        checks.check_setting(field, getattr(config, field), ">= 0", lambda c: c >= 0)
    if config.l2_radius is not None:
        checks.check_positive("l2_radius", config.l2_radius)
    checks.check_choice("hinge_reduction", config.hinge_reduction, HINGE_REDUCTIONS)
    optimizer_of(config)
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
        logits_fn, variables, x, labels, key, target: As for `penalty`.
        config: From `resolve_penalty_config`.

    Returns:
        The problem, which stays fixed, and the first state.

    Raises:
        ValueError: An input is out of its range.
    """
    checks.check_attack_inputs(logits_fn, variables, x, labels, target=target)
    config = resolve_penalty_config(
        config, targeted=target is not None, num_clips=x.shape[0]
    )
    problem = PenaltyProblem(
        x_tanh=penalty_steps.all_to_tanh_space(x),
        labels=jnp.asarray(labels),
        clean_predictions=passes.predict(
            logits_fn, variables, x, config.micro_batch_size
        ),
        target=jnp.asarray(-1 if target is None else target, jnp.int32),
    )
    value = jnp.zeros(x.shape[1], jnp.float32)
    nothing_yet = jnp.full(config.max_passes, jnp.nan, jnp.float32)
    # A buffer of its own for every field: states may be donated.
    zero, zero_float = functools.partial(jnp.zeros, (), jnp.int32), jnp.zeros
    state = PenaltyState(
        value=value,
        opt_state=optimizer_of(config).init(value),
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
        logits_fn, variables, config: As for `penalty_init`.
        problem: From `penalty_init`.
        state: From `penalty_init` or the last segment; unchanged if it has stopped.
        max_steps: Most batches (or blocks of clips to evaluate) in this call; None:
            no limit.

    Returns:
        The state after it.
    """
    num_clips = problem.labels.shape[0]
    config = resolve_penalty_config(
        config, targeted=bool(problem.target >= 0), num_clips=num_clips
    )
    phase, *_ = penalty_progress(problem, state, config=config)
    advance = penalty_steps.descend if phase == "descend" else penalty_steps.evaluate
    return advance(
        logits_fn,
        variables,
        problem,
        state,
        checks.as_arrays(config),
        checks.steps_limit(max_steps),
        targeted=bool(problem.target >= 0),
    )


def penalty_progress(
    problem: PenaltyProblem, state: PenaltyState, *, config: PenaltyConfig
) -> tuple[str, int, int]:
    """Returns what the next segment does, "descend" or "evaluate", and how far it is.

    Returns:
        The phase, and how many clips of how many are done with in it.
    """
    num_clips = problem.labels.shape[0]
    batch_size = min(config.batch_size, num_clips)
    done = min(int(state.batch) * batch_size, num_clips)
    if done < num_clips:
        return "descend", done, num_clips
    block_size = checks.known(config.micro_batch_size)
    return "evaluate", min(int(state.block) * block_size, num_clips), num_clips


def penalty_result(state: PenaltyState) -> AttackResult:
    """Reads the result off a state; also off one that is still running."""
    perturbation = Perturbation(state.value, space="tanh", epsilon=EPSILON)
    return passes.result_of(state, perturbation)
