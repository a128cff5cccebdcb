"""Many attacks on one classifier and one set of clips, several in one program.

Targets, keys and the numbers of a config may differ from trial to trial; shapes may
not. Each trial keeps an ordinary state, so that it can be stored, resumed and finished
like a lone attack: the loop is the same, under vmap.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from uap_jax.attacks import checks, loop
from uap_jax.attacks.types import (
    AttackResult,
    LogitsFn,
    PassConfig,
    Problem,
    State,
    Variables,
)

T = TypeVar("T")


def together(
    logits_fn: LogitsFn,
    variables: Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    keys: Sequence[jax.Array],
    targets: Sequence[int] | None = None,
    configs: PassConfig | Sequence[PassConfig],
    width: int = 1,
    **sound: Any,
) -> list[AttackResult]:
    """Runs an attack for each key, several of them in one compiled program.

    A trial's result does not depend on which others run beside it, but for rounding;
    with width 1 it is that of a lone attack bit for bit. A trial that has stopped
    takes no more time.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box, shared by all trials.
        labels: `[M]` int32 true classes.
        keys: T random keys.
        targets: T classes, or None for untargeted attacks.
        configs: T configs that differ in their numbers only, or one for all.
        width: Most trials in one program. A CPU is as fast with 1; `fitting_width`
            tells what fits an accelerator's memory.
        **sound: Channels and length of the sound as of `begin`, shared by all.

    Returns:
        T results.

    Raises:
        ValueError: An input or setting is out of its range.
    """
    problems, states = begin_together(
        logits_fn,
        variables,
        x,
        labels,
        keys=keys,
        targets=targets,
        configs=configs,
        **sound,
    )
    while any(loop.is_running(state) for state in states):
        states = advance_together(logits_fn, variables, problems, states, width=width)
    return [loop.result(state) for state in states]


def begin_together(
    logits_fn: LogitsFn,
    variables: Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    keys: Sequence[jax.Array],
    targets: Sequence[int] | None = None,
    configs: PassConfig | Sequence[PassConfig],
    **sound: Any,
) -> tuple[list[Problem], list[State]]:
    """Prepares the trials; what they share is computed and stored once.

    The arguments are those of `together`.

    Returns:
        A problem and a first state for each trial.

    Raises:
        ValueError: An input or setting is out of its range.
    """
    num_trials = len(keys)
    checks.check_size("len(keys)", num_trials)
    if targets is not None and len(targets) != num_trials:
        raise ValueError(f"targets: expected {num_trials} as keys, got {len(targets)}")
    if isinstance(configs, PassConfig):
        configs = [configs] * num_trials
    if len(configs) != num_trials:
        raise ValueError(f"configs: expected {num_trials} as keys, got {len(configs)}")
    targets_or_none = [None] * num_trials if targets is None else targets
    resolved = [
        loop.resolve_config(config, targeted=targets is not None, num_clips=x.shape[0])
        for config in configs
    ]
    _check_same_shapes(resolved)
    problems, states = [], []
    for key, target, config in zip(keys, targets_or_none, resolved, strict=True):
        if not problems:
            problem, state = loop.begin(
                logits_fn,
                variables,
                x,
                labels,
                key=key,
                target=target,
                config=config,
                **sound,
            )
        else:
            checks.check_attack_inputs(logits_fn, variables, x, labels, target=target)
            checks.check_key(key)
            problem = dataclasses.replace(
                problems[0],
                target=None if target is None else jnp.asarray(target, jnp.int32),
                config=checks.as_arrays(config),
            )
            state = loop.first_state(logits_fn, variables, problem, key)
        problems.append(problem)
        states.append(state)
    return problems, states


def advance_together(
    logits_fn: LogitsFn,
    variables: Variables,
    problems: Sequence[Problem],
    states: Sequence[State],
    *,
    width: int = 1,
    max_steps: int | None = None,
) -> list[State]:
    """Advances at most `width` running trials, the least advanced ones.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        problems: From `begin_together`.
        states: From `begin_together` or the last call.
        width: Most trials in one program.
        max_steps: As of `advance`, for each trial.

    Returns:
        All states; those of other trials and of stopped ones as they were.
    """
    checks.check_size("width", width)
    states = list(states)
    running = [i for i, state in enumerate(states) if loop.is_running(state)]
    running.sort(key=lambda i: (int(states[i].num_passes), int(states[i].position)))
    chosen = running[:width]
    if len(chosen) == 1:
        (i,) = chosen
        states[i] = loop.advance(
            logits_fn, variables, problems[i], states[i], max_steps=max_steps
        )
    elif chosen:
        # Widths are powers of two, so that few programs are compiled as trials finish.
        missing = _next_power_of_two(len(chosen)) - len(chosen)
        filled = [*chosen, *[chosen[0]] * missing]
        advanced = _advance_stacked(
            logits_fn,
            variables,
            *_stacked([problems[i] for i in filled], [states[i] for i in filled]),
            checks.steps_limit(max_steps),
        )
        for index, i in enumerate(chosen):
            states[i] = _at(advanced, index)
    return states


def fitting_width(
    logits_fn: LogitsFn,
    variables: Variables,
    problem: Problem,
    state: State,
    *,
    num_trials: int,
    memory_bytes: int,
) -> int:
    """How many trials in one program fit into a device's memory.

    Programs are compiled, from as many as there are trials downwards, and asked what
    they take; the compilation cache has them when they are run.

    Args:
        logits_fn: The classifier.
        variables: Its weights.
        problem: Of any trial, from `begin_together`.
        state: Of that trial.
        num_trials: T.
        memory_bytes: What may be used beside the weights and clips.

    Returns:
        A power of two, or 1 if nothing fits.
    """
    width = _next_power_of_two(num_trials)
    while width > 1:
        stacked = _stacked([problem] * width, [state] * width)
        limit = checks.steps_limit(None)
        compiled = _advance_stacked.lower(
            logits_fn, variables, *stacked, limit
        ).compile()
        analysis = compiled.memory_analysis()
        if analysis is None:
            return 1
        if analysis.temp_size_in_bytes <= memory_bytes:
            return width
        width //= 2
    return 1


def _stacked(
    problems: Sequence[Problem], states: Sequence[State]
) -> tuple[Problem, Any, State]:
    """What all share, and targets, configs and states along a first axis."""
    own = [(problem.target, problem.config) for problem in problems]
    return problems[0], _stack(own), _stack(states)


def _stack(trees: Sequence[T]) -> T:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _at(states: State, index: int) -> State:
    """One of stacked states; leaf by leaf outside of jit it takes 50 times as long."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), states
    )


@functools.partial(jax.jit, static_argnames="logits_fn")
def _advance_stacked(
    logits_fn: LogitsFn,
    variables: Variables,
    shared: Problem,
    own: Any,
    states: State,
    max_steps: jax.Array,
) -> State:
    def advance(own: Any, state: State) -> State:
        target, config = own
        problem = dataclasses.replace(shared, target=target, config=config)
        return loop.advance_pass(logits_fn, variables, problem, state, max_steps)

    return jax.vmap(advance)(own, states)


def _check_same_shapes(configs: Sequence[Any]) -> None:
    shape = jax.tree.structure(configs[0])
    for config in configs:
        if jax.tree.structure(config) != shape:
            raise ValueError(
                "configs: expected the same sizes and choices in all, "
                f"got {config} beside {configs[0]}"
            )


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
