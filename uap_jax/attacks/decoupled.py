"""The decoupled method: how quiet can a universal perturbation be and still succeed?

minimise ||v||_2   subject to   ASR(v) >= 1 - delta

Direction and norm of v are found apart, as DDN does for one clip: steps turn v on a
sphere towards a lower soft hinge over batches, and after each pass the sphere shrinks
if more clips are fooled than asked for, and grows if fewer are. Going on so with lower
success rates, then with higher ones, gives the whole front, success rate against level,
in one run. The first passes try where to begin, and the best of these beginnings goes
on.

`decoupled` runs it to the end. It is a loop over `decoupled_init`, `decoupled_segment`
and `decoupled_result`, for those who log, store or stop in between.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import checks, decoupled_schedule, decoupled_steps, passes, types
from uap_jax.attacks.decoupled_start import first_values
from uap_jax.attacks.decoupled_state import (
    HISTORY_FIELDS,
    DecoupledProblem,
    DecoupledState,
    Leader,
)
from uap_jax.attacks.penalty_steps import all_to_tanh_space
from uap_jax.attacks.types import (
    AttackResult,
    DecoupledConfig,
    Front,
    LogitsFn,
    Perturbation,
)
from uap_jax.audio.box import EPSILON


def decoupled(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: DecoupledConfig = DecoupledConfig(),
) -> AttackResult:
    """Finds the quietest universal perturbation of a success rate, or of several.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box [0, 1].
        labels: `[M]` int32 true classes; only checked, since success is a change of
            the clean prediction or the target (Eq. 3).
        key: Random key for the batches; consumed.
        target: The class to say, or None for an untargeted attack.
        config: Settings.

    Returns:
        The quietest perturbation seen with `config.target_asr` on the attack clips,
        or the last one where none was (`converged` says so), and how the attack went.
        `front` has one for each of `config.asr_levels` too. `history` has, per pass,
        `asr`, `asr_level` (asked for), `spl_db` and `norm` (of v), `objective` (mean
        over the clips).

    Raises:
        ValueError: An input or setting is out of its range.

    Source: the norm's adaptation is after Rony et al., "Decoupling direction and norm
    for efficient gradient-based l2 adversarial attacks and defenses", for one input.
    """
    problem, state = decoupled_init(
        logits_fn, variables, x, labels, key=key, target=target, config=config
    )
    while int(state.stop_reason) == types.RUNNING:
        state = decoupled_segment(logits_fn, variables, problem, state, config=config)
    return decoupled_result(state)


def resolve_decoupled_config(
    config: DecoupledConfig, *, targeted: bool, num_clips: int
) -> DecoupledConfig:
    """Fills in what depends on scenario and number of clips, and checks all.

    Raises:
        ValueError: A setting is out of its range.
    """
    for field in ("num_starts", "start_passes", "max_passes", "level_passes"):
        checks.check_size(field, getattr(config, field))
    if config.batch_size is not None:
        checks.check_size("batch_size", config.batch_size)
    batch_size = _batch_size(config, targeted=targeted, num_clips=num_clips)
    micro_batch_size = config.micro_batch_size
    if micro_batch_size is None:
        micro_batch_size = passes.even_share(batch_size)
    checks.check_size("micro_batch_size", micro_batch_size)
    checks.check_choice("space", config.space, types.SPACES)
    if config.max_shift is not None:
        checks.check_size("max_shift", config.max_shift, at_least=0)
    checks.check_rate("target_asr", config.target_asr)
    checks.check_setting(
        "asr_levels",
        config.asr_levels,
        "a sequence of rates",
        lambda levels: isinstance(levels, Sequence) and not isinstance(levels, str),
    )
    for rate in config.asr_levels:
        checks.check_rate("asr_levels", rate)
    for field in (
        *("norm_gain", "max_norm_change", "learning_rate"),
        *("restart_learning_rate", "final_learning_rate", "give_up"),
    ):
        checks.check_positive(field, getattr(config, field))
    for field in ("init_norm", "temperature", "final_temperature_ratio"):
        if getattr(config, field) is not None:
            checks.check_positive(field, getattr(config, field))
    checks.check_setting(
        "momentum", config.momentum, "a number in [0, 1)", lambda b: 0 <= b < 1
    )
    levels = dict.fromkeys(sorted(map(float, config.asr_levels), reverse=True))
    if not isinstance(config.target_asr, jax.core.Tracer):
        # One that a config in arrays has been through is a float32.
        same = np.float32(config.target_asr)
        levels = {rate: None for rate in levels if np.float32(rate) != same}
    start_passes = min(config.start_passes, config.max_passes)
    final_ratio = config.final_temperature_ratio
    if final_ratio is None:
        final_ratio = 0.2 if targeted else 1.0
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        micro_batch_size=min(micro_batch_size, batch_size),
        num_starts=max(1, min(config.num_starts, config.max_passes // start_passes)),
        start_passes=start_passes,
        asr_levels=tuple(levels),
        max_shift=0 if config.max_shift is None and not targeted else config.max_shift,
        final_temperature_ratio=final_ratio,
    )


def decoupled_init(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: DecoupledConfig,
) -> tuple[DecoupledProblem, DecoupledState]:
    """Prepares an attack: the clips in v's space, clean predictions, where v begins.

    Args:
        logits_fn, variables, x, labels, key, target: As for `decoupled`.
        config: From `resolve_decoupled_config`.

    Returns:
        The problem, which stays fixed, and the first state.

    Raises:
        ValueError: An input is out of its range.
    """
    checks.check_attack_inputs(logits_fn, variables, x, labels, target=target)
    config = resolve_decoupled_config(
        config, targeted=target is not None, num_clips=x.shape[0]
    )
    clean_logits = passes.all_logits(
        logits_fn, variables, x, checks.known(config.micro_batch_size)
    )
    problem = DecoupledProblem(
        x=all_to_tanh_space(x) if config.space == "tanh" else jnp.asarray(x),
        clean_logits=clean_logits,
        clean_predictions=jnp.argmax(clean_logits, axis=1).astype(jnp.int32),
        target=jnp.asarray(-1 if target is None else target, jnp.int32),
    )
    num_samples = x.shape[1]
    levels, main_level = decoupled_schedule.levels_of(config)
    num_levels = decoupled_schedule.num_levels(config)
    num_passes = decoupled_schedule.total_passes(config)
    nothing_yet = jnp.full(num_passes, jnp.nan, jnp.float32)
    # A buffer of its own for every field: states may be donated.
    zero = functools.partial(jnp.zeros, (), jnp.int32)
    state = DecoupledState(
        perturbation=Perturbation(
            jnp.zeros(num_samples, jnp.float32), space=config.space, epsilon=EPSILON
        ),
        direction=jnp.zeros(num_samples, jnp.float32),
        starts=jnp.zeros((config.num_starts, num_samples), jnp.float32),
        leader=Leader(
            value=jnp.zeros(num_samples, jnp.float32),
            direction=jnp.zeros(num_samples, jnp.float32),
            norm=jnp.full((), jnp.inf, jnp.float32),
            asr=jnp.zeros((), jnp.float32),
            objective=jnp.zeros((), jnp.float32),
        ),
        norm=jnp.zeros((), jnp.float32),
        key=key,
        num_passes=zero(),
        batch=zero(),
        block=zero(),
        num_fooled=zero(),
        objective_sum=jnp.zeros((), jnp.float32),
        stop_reason=zero(),
        front=Front(
            asr_levels=levels,
            values=jnp.zeros((num_levels, num_samples), jnp.float32),
            norm=jnp.full(num_levels, jnp.inf, jnp.float32),
            train_asr=jnp.zeros(num_levels, jnp.float32),
        ),
        main_level=main_level,
        history={field: nothing_yet for field in HISTORY_FIELDS},
    )
    return problem, decoupled_restart(
        logits_fn, variables, problem, state, config=config
    )


def decoupled_restart(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: DecoupledProblem,
    state: DecoupledState,
    *,
    config: DecoupledConfig,
) -> DecoupledState:
    """Returns a first state with what the passes of a problem begin at.

    Args:
        logits_fn, variables, config: As for `decoupled_init`.
        problem: From `decoupled_init`, or one with another target.
        state: From `decoupled_init`.
    """
    starts = first_values(
        logits_fn,
        variables,
        problem,
        checks.as_arrays(config),
        targeted=bool(problem.target >= 0),
    )
    return state._replace(starts=starts)


def decoupled_segment(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: DecoupledProblem,
    state: DecoupledState,
    *,
    config: DecoupledConfig,
    max_steps: int | None = None,
) -> DecoupledState:
    """Goes on with an attack, at most to the end of the running pass.

    One call is one compiled program: steps while the pass has batches left, else the
    evaluation of the pass. How the work is cut into segments does not change a bit of
    the result.

    Args:
        logits_fn, variables, config: As for `decoupled_init`.
        problem: From `decoupled_init`.
        state: From `decoupled_init` or the last segment; unchanged if it has stopped.
        max_steps: Most batches (or blocks of clips to evaluate) in this call; None:
            no limit.

    Returns:
        The state after it.
    """
    targeted = bool(problem.target >= 0)
    config = resolve_decoupled_config(
        config, targeted=targeted, num_clips=problem.x.shape[0]
    )
    phase, *_ = decoupled_progress(problem, state, config=config)
    steps = decoupled_steps
    advance = steps.descend if phase == "descend" else steps.evaluate
    return advance(
        logits_fn,
        variables,
        problem,
        state,
        checks.as_arrays(config),
        checks.steps_limit(max_steps),
        targeted=targeted,
    )


def decoupled_progress(
    problem: DecoupledProblem, state: DecoupledState, *, config: DecoupledConfig
) -> tuple[str, int, int]:
    """Returns what the next segment does, "descend" or "evaluate", and how far it is.

    Returns:
        The phase, and how many clips of how many are done with in it.
    """
    num_clips = problem.x.shape[0]
    batch_size = checks.known(config.batch_size)
    done = min(int(state.batch) * batch_size, num_clips)
    if done < num_clips:
        return "descend", done, num_clips
    block_size = checks.known(config.micro_batch_size)
    return "evaluate", min(int(state.block) * block_size, num_clips), num_clips


def _batch_size(config: DecoupledConfig, *, targeted: bool, num_clips: int) -> int:
    """Returns how many clips a step has."""
    wanted = config.batch_size
    if wanted is None:
        wanted = 10 if targeted else min(100, max(10, num_clips // 10))
    return min(wanted, num_clips)


def decoupled_result(state: DecoupledState) -> AttackResult:
    """Reads the result off a state; also off one that is still running.

    While no v has the success rate asked for, the perturbation is v as it is now, and
    `train_asr` that of the last pass that ended.
    """
    front, main, last = state.front, state.main_level, state.perturbation
    found = jnp.isfinite(front.norm[main])
    value = jnp.where(found, front.values[main], last.value)
    result = passes.result_of(state, dataclasses.replace(last, value=value))
    train_asr = jnp.where(found, front.train_asr[main], result.train_asr)
    return dataclasses.replace(
        result, train_asr=train_asr, converged=found, front=front
    )
