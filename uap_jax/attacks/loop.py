"""The state machine of all attacks: passes, counting, budget, faults, history, resume.

A pass takes steps until every attack clip has been seen once, then counts success over
all clips, block by block, and ends. What a step does is the method's; see `Method`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import checks, equations, types
from uap_jax.attacks.batches import all_logits, even_share, passing, success_rate
from uap_jax.attacks.types import (
    At,
    AttackResult,
    Classify,
    LogitsFn,
    PassConfig,
    Perturbation,
    Problem,
    State,
    Step,
)
from uap_jax.audio.channels import Channel, prepared
from uap_jax.audio.levels import spl_db

# Folded into the key of an attack, whose passes are numbered from 0.
_COUNTING = 2**32 - 2


def resolve_config(config: Any, *, targeted: bool, num_clips: int) -> Any:
    """Fills in what depends on the scenario and the number of clips, and checks all.

    Raises:
        ValueError: A setting is out of its range.
    """
    checks.check_config(config, PassConfig)
    for field in ("batch_size", "micro_batch_size"):
        if getattr(config, field) is not None:
            checks.check_size(field, getattr(config, field))
    checks.check_size("max_passes", config.max_passes, at_most=checks.MAX_STEPS)
    checks.check_rate("target_asr", config.target_asr)
    config = config.method.resolve(config, targeted=targeted, num_clips=num_clips)
    checks.check_size("batch_size", config.batch_size)
    config = dataclasses.replace(config, batch_size=min(config.batch_size, num_clips))
    most = config.method.most_at_once(config, num_clips)
    micro_batch_size = min(config.micro_batch_size or even_share(most), most)
    return dataclasses.replace(config, micro_batch_size=micro_batch_size)


def begin(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: PassConfig,
    channel: Channel | None = None,
    counting_channel: Channel | None = None,
    num_sound_samples: int | None = None,
) -> tuple[Problem, State]:
    """Prepares an attack: the clips in the space of v, their clean logits, the state.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box [0, 1].
        labels: `[M]` int32 true classes.
        key: Random key; consumed.
        target: The class to say, or None for an untargeted attack.
        config: Settings; their type names the method.
        channel: What v passes on its way to a clip, drawn anew for each clip and step;
            None: nothing. In tanh space it acts on v'.
        counting_channel: What v passes where success is counted, with other draws than
            in any step; None: the same. For rooms, give it others.
        num_sound_samples: P, length of v; None: N. Only with a channel.

    Returns:
        The problem, which stays fixed, and the first state.

    Raises:
        ValueError: An input or setting is out of its range.
    """
    checks.check_attack_inputs(logits_fn, variables, x, labels, target=target)
    checks.check_key(key)
    config = resolve_config(config, targeted=target is not None, num_clips=x.shape[0])
    method = config.method
    num_samples = x.shape[1]
    if num_sound_samples is None:
        num_sound_samples = num_samples
    checks.check_channels(
        method, key, (channel, counting_channel), num_sound_samples, num_samples
    )
    channel, counting_channel = (
        prepared(each, num_sound_samples) for each in (channel, counting_channel)
    )
    clean_logits = all_logits(logits_fn, variables, x, config.micro_batch_size)
    problem = Problem(
        x=equations.to_space(jnp.asarray(x), space=method.space),
        labels=jnp.asarray(labels),
        clean_logits=clean_logits,
        clean_predictions=equations.classify(clean_logits),
        target=None if target is None else jnp.asarray(target, jnp.int32),
        config=checks.as_arrays(config),
        method=method,
        num_sound_samples=num_sound_samples,
        channel=channel,
        counting_channel=channel if counting_channel is None else counting_channel,
    )
    return problem, first_state(logits_fn, variables, problem, key)


@functools.partial(jax.jit, static_argnames="logits_fn")
def first_state(
    logits_fn: LogitsFn, variables: types.Variables, problem: Problem, key: jax.Array
) -> State:
    """The state before the first pass."""
    method = problem.method
    zero = jnp.zeros((), jnp.int32)
    nothing_yet = jnp.zeros(problem.config.total_passes, jnp.float32)
    no_clip = jnp.zeros(problem.num_clips, jnp.int32)
    columns = ("asr", "spl_db", "left_out", "non_finite", *method.metrics)
    sums = ("left_out", *method.sums)
    return State(
        own=method.init(functools.partial(logits_fn, variables), problem),
        key=key,
        num_passes=zero,
        position=zero,
        block=zero,
        num_fooled=zero,
        num_non_finite=zero,
        sums={name: jnp.zeros((), jnp.float32) for name in sums},
        stop_reason=zero,
        left_out=no_clip,
        non_finite=no_clip,
        history={name: nothing_yet for name in columns},
        method=method,
    )


def advance(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: Problem,
    state: State,
    *,
    max_steps: int | None = None,
) -> State:
    """Advances an attack, at most to the end of the running pass, in one program.

    How the work is cut into calls does not change a bit of the result.

    Args:
        logits_fn: The classifier of `begin`.
        variables: Its weights.
        problem: From `begin`.
        state: From `begin` or the last call; unchanged if the attack has stopped.
        max_steps: Most steps and blocks of clips to count; a step of greedy that calls
            DDN counts as its `num_steps`. None: no limit.

    Returns:
        The state after it.
    """
    limit = checks.steps_limit(max_steps)
    return _advance(logits_fn, variables, problem, state, limit)


def advance_pass(
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: Problem,
    state: State,
    max_steps: jax.Array,
) -> State:
    """`advance` as a part of compiled programs."""
    classify = functools.partial(logits_fn, variables)
    state, steps_left = _take_steps(classify, problem, state, max_steps)
    state = _count(classify, problem, state, steps_left)
    num_blocks = -(-problem.num_clips // problem.config.micro_batch_size)
    is_whole = (state.block == num_blocks) & (state.stop_reason == types.RUNNING)
    return _choose(is_whole, _end_pass(problem, state), state)


_advance = functools.partial(jax.jit, static_argnames="logits_fn")(advance_pass)


def _take_steps(
    classify: Classify, problem: Problem, state: State, max_steps: jax.Array
) -> tuple[State, jax.Array]:
    """Steps until every clip of the pass has been seen, or for `max_steps`."""
    method, num_clips = problem.method, problem.num_clips
    pass_key = jax.random.fold_in(state.key, state.num_passes)
    order = jnp.arange(num_clips, dtype=jnp.int32)
    if method.shuffles(problem.config):
        order = jax.random.permutation(pass_key, num_clips).astype(jnp.int32)

    def should_continue(carry: tuple[State, jax.Array]) -> jax.Array:
        state, steps_left = carry
        running = state.stop_reason == types.RUNNING
        return running & (state.position < num_clips) & (steps_left > 0)

    def step(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, steps_left = carry
        at = At(order, state.position, pass_key, state.num_passes)
        new = method.step(classify, problem, state.own, at)
        state = _stepped(problem, state, new)
        return state, steps_left - jnp.asarray(new.cost, jnp.int32)

    return jax.lax.while_loop(should_continue, step, (state, max_steps))


def _stepped(problem: Problem, state: State, new: Step) -> State:
    """The state after a step; what was reached before a fault is kept."""
    num_clips = problem.num_clips
    fault = jnp.asarray(new.fault, jnp.int32)
    own, left_out, num_out = new.own, state.left_out, jnp.zeros((), jnp.float32)
    position = jnp.minimum(
        state.position + jnp.asarray(new.num_clips, jnp.int32), num_clips
    )
    if new.left_out is not None:
        out = new.left_out
        num_out = jnp.sum(out.is_out, dtype=jnp.float32)
        left_out = left_out.at[out.clips].add(out.is_out.astype(jnp.int32))
        is_empty = out.fault != types.RUNNING
        own = _choose(is_empty, state.own, own)
        fault = jnp.where(is_empty, types.RUNNING, fault)
        are_none_left = state.sums["left_out"] + num_out >= num_clips
        ends = is_empty & (position == num_clips) & are_none_left
        fault = jnp.where(ends, out.fault, fault)
    sums = {**new.sums, "left_out": num_out}
    stepped = dataclasses.replace(
        state,
        own=own,
        position=position,
        sums={name: state.sums[name] + sums[name] for name in state.sums},
    )
    state = _choose(fault == types.RUNNING, stepped, state)
    return dataclasses.replace(state, left_out=left_out, stop_reason=fault)


def _count(
    classify: Classify, problem: Problem, state: State, max_steps: jax.Array
) -> State:
    """Counts the perturbed clips on which the attack succeeds, block by block."""
    num_clips, block_size = problem.num_clips, problem.config.micro_batch_size
    num_blocks = -(-num_clips // block_size)
    value = problem.method.value(state.own)
    # The same after every pass, so that passes compare; in no step.
    counting_key = jax.random.fold_in(state.key, jnp.uint32(_COUNTING))

    def should_continue(carry: tuple[State, jax.Array]) -> jax.Array:
        state, steps_left = carry
        is_due = (state.position == num_clips) & (state.block < num_blocks)
        return (state.stop_reason == types.RUNNING) & is_due & (steps_left > 0)

    def count_block(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        state, steps_left = carry
        index = state.block * block_size + jnp.arange(block_size, dtype=jnp.int32)
        clips = jnp.minimum(index, num_clips - 1)
        x = equations.perturb(
            problem.x[clips],
            value,
            space=problem.method.space,
            **passing(problem.counting_channel, counting_key, clips),
        )
        logits = classify(x)
        fooled = equations.is_success(
            logits, problem.clean_predictions[clips], problem.target
        )
        is_new = index < num_clips
        is_bad = is_new & ~jnp.all(jnp.isfinite(logits), axis=1)
        num_bad = state.num_non_finite + jnp.sum(is_bad, dtype=jnp.int32)
        stop_reason = jnp.where(
            num_bad == num_clips, types.NON_FINITE_LOGITS, types.RUNNING
        )
        state = dataclasses.replace(
            state,
            block=state.block + 1,
            num_fooled=state.num_fooled + jnp.sum(fooled & is_new, dtype=jnp.int32),
            num_non_finite=num_bad,
            non_finite=state.non_finite.at[clips].add(is_bad.astype(jnp.int32)),
            stop_reason=stop_reason.astype(jnp.int32),
        )
        return state, steps_left - 1

    state, _ = jax.lax.while_loop(should_continue, count_block, (state, max_steps))
    return state


def _end_pass(problem: Problem, state: State) -> State:
    """Writes the pass into the history and decides whether to stop."""
    method = problem.method
    asr = success_rate(state.num_fooled, problem.num_clips)
    end = method.end_pass(
        problem, state.own, asr, sums=state.sums, num_passes=state.num_passes
    )
    values = {
        "asr": asr,
        "spl_db": spl_db(method.value(state.own)),
        "left_out": state.sums["left_out"],
        "non_finite": state.num_non_finite.astype(jnp.float32),
        **end.metrics,
    }
    num_passes = state.num_passes + 1
    is_last = num_passes >= problem.config.total_passes
    stop_reason = jnp.asarray(end.stop_reason, jnp.int32)
    return dataclasses.replace(
        state,
        own=end.own,
        num_passes=num_passes,
        position=jnp.zeros_like(state.position),
        block=jnp.zeros_like(state.block),
        num_fooled=jnp.zeros_like(state.num_fooled),
        num_non_finite=jnp.zeros_like(state.num_non_finite),
        sums=jax.tree.map(jnp.zeros_like, state.sums),
        stop_reason=jnp.where(
            (stop_reason == types.RUNNING) & is_last, types.MAX_PASSES, stop_reason
        ).astype(jnp.int32),
        history={
            name: column.at[state.num_passes].set(values[name])
            for name, column in state.history.items()
        },
    )


def is_running(state: State) -> bool:
    """Whether an attack has not stopped."""
    return int(state.stop_reason) == types.RUNNING


def progress(problem: Problem, state: State) -> tuple[str, int, int]:
    """What `advance` does next, "attack" or "count", and how many clips of how many."""
    num_clips = problem.num_clips
    if int(state.position) < num_clips:
        return "attack", int(state.position), num_clips
    counted = int(state.block) * problem.config.micro_batch_size
    return "count", min(counted, num_clips), num_clips


def result(state: State) -> AttackResult:
    """Reads the result off a state, also off one that is still running."""
    num_passes = int(state.num_passes)
    # In NumPy, where NaN is no fault under `jax_debug_nans`.
    history = {name: np.array(column) for name, column in state.history.items()}
    for column in history.values():
        column[num_passes:] = np.nan
    asr = history["asr"][num_passes - 1] if num_passes else np.float32(0)
    found = AttackResult(
        perturbation=Perturbation(
            state.method.value(state.own), space=state.method.space
        ),
        converged=state.stop_reason == types.CONVERGED,
        train_asr=jnp.asarray(asr),
        num_passes=state.num_passes,
        stop_reason=state.stop_reason,
        history=history,
        left_out=state.left_out,
        non_finite=state.non_finite,
    )
    return state.method.finish(state.own, found)


def run(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: PassConfig,
    **sound: Any,
) -> AttackResult:
    """Runs an attack to its end; the arguments are those of `begin`."""
    problem, state = begin(
        logits_fn, variables, x, labels, key=key, target=target, config=config, **sound
    )
    while is_running(state):
        state = advance(logits_fn, variables, problem, state)
    return result(state)


def _choose(condition: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
