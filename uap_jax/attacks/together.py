"""Many attacks on one classifier and one set of clips, several in one program.

Targets, keys and the numbers of a config may differ from trial to trial; shapes may
not. Each trial keeps an ordinary state of its own, so that it can be stored, resumed
and finished like a lone attack.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from uap_jax.attacks import checks, types
from uap_jax.attacks.methods import METHODS, Method
from uap_jax.attacks.types import AttackResult, LogitsFn

T = TypeVar("T")


def together(
    method: str,
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    keys: Sequence[jax.Array],
    targets: Sequence[int] | None = None,
    configs: Any = None,
    width: int = 1,
) -> list[AttackResult]:
    """Runs an attack for each key, several of them in one compiled program.

    A trial's result does not depend on which others run beside it, but for rounding;
    with width 1 it is that of a lone attack bit for bit. A trial that has stopped
    takes no more time.

    Args:
        method: A name in `methods.METHODS`.
        logits_fn, variables, x, labels: As for `penalty`; shared by all trials.
        keys: T random keys.
        targets: T classes, or None for untargeted attacks.
        configs: T configs that differ in their numbers only, or one for all; None:
            the method's defaults.
        width: Most trials in one program. A processor is as fast with 1; what an
            accelerator's memory holds is told by `fitting_width`.

    Returns:
        T results.

    Raises:
        ValueError: An input or setting is out of its range.
    """
    problems, states, resolved = together_init(
        method,
        logits_fn,
        variables,
        x,
        labels,
        keys=keys,
        targets=targets,
        configs=configs,
    )
    while any(is_running(state) for state in states):
        states = together_segment(
            method,
            logits_fn,
            variables,
            problems,
            states,
            configs=resolved,
            width=width,
        )
    return [METHODS[method].result(state) for state in states]


def together_init(
    method: str,
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    keys: Sequence[jax.Array],
    targets: Sequence[int] | None = None,
    configs: Any = None,
) -> tuple[list[Any], list[Any], list[Any]]:
    """Prepares the trials; what they share is computed and kept once.

    Args:
        method, logits_fn, variables, x, labels, keys, targets, configs: As for
            `together`.

    Returns:
        A problem, a first state and a resolved config for each trial.

    Raises:
        ValueError: An input or setting is out of its range.
    """
    steps = _method(method)
    num_trials = len(keys)
    checks.check_size("len(keys)", num_trials)
    if targets is not None and len(targets) != num_trials:
        raise ValueError(f"targets: expected {num_trials} as keys, got {len(targets)}")
    if configs is None:
        configs = steps.config_class()
    if isinstance(configs, steps.config_class):
        configs = [configs] * num_trials
    if len(configs) != num_trials:
        raise ValueError(f"configs: expected {num_trials} as keys, got {len(configs)}")
    targeted = targets is not None
    resolved = [
        steps.resolve(config, targeted=targeted, num_clips=x.shape[0])
        for config in configs
    ]
    _check_same_shapes(resolved)
    for target in targets or ():
        checks.check_attack_inputs(logits_fn, variables, x, labels, target=target)
    first, state = steps.init(
        logits_fn,
        variables,
        x,
        labels,
        key=keys[0],
        target=targets[0] if targets is not None else None,
        config=resolved[0],
    )
    problems = [first]
    for target in (targets or [None] * num_trials)[1:]:
        problems.append(first if target is None else steps.retarget(first, target))
    states = [state._replace(key=key) for key in keys]
    if steps.restart is not None:
        states = [
            steps.restart(logits_fn, variables, *each, config=config)
            for *each, config in zip(problems, states, resolved, strict=True)
        ]
    return problems, states, resolved


def together_segment(
    method: str,
    logits_fn: LogitsFn,
    variables: types.Variables,
    problems: Sequence[Any],
    states: Sequence[Any],
    *,
    configs: Sequence[Any],
    width: int = 1,
    max_steps: int | None = None,
) -> list[Any]:
    """Goes on with at most `width` trials, those that are least far.

    Args:
        method, logits_fn, variables, width: As for `together`.
        problems, configs: From `together_init`.
        states: From `together_init` or the last segment.
        max_steps: As for the method's own segment; counted for each trial.

    Returns:
        All states; those of other trials and of stopped ones as they were.
    """
    steps = _method(method)
    states = list(states)
    if not any(is_running(state) for state in states):
        return states
    phase, chosen = next_trials(method, problems, states, configs=configs, width=width)
    advance = functools.partial(
        _advance,
        steps.phases[phase],
        logits_fn,
        variables,
        targeted=bool(problems[chosen[0]].target >= 0),
        own=steps.own,
    )
    # Widths are powers of two, so that few programs are compiled as trials finish.
    filled = [*chosen, *[chosen[0]] * (_next_power_of_two(len(chosen)) - len(chosen))]
    found = advance(
        [problems[i] for i in filled],
        [states[i] for i in filled],
        [checks.as_arrays(configs[i]) for i in filled],
        checks.steps_limit(max_steps),
    )
    for i, state in zip(chosen, found, strict=False):
        states[i] = state
    return states


def next_trials(
    method: str,
    problems: Sequence[Any],
    states: Sequence[Any],
    *,
    configs: Sequence[Any],
    width: int = 1,
) -> tuple[str, list[int]]:
    """Returns what the next segment does, and with which trials.

    Args:
        method, problems, states, configs, width: As for `together_segment`; not all
            trials have stopped.

    Returns:
        The phase, as of the method's progress; indices, that of the least far first.
    """
    steps = _method(method)
    checks.check_size("width", width)
    running = [i for i, state in enumerate(states) if is_running(state)]
    running.sort(key=lambda i: int(states[i].num_passes))
    phases = {
        i: steps.progress(problems[i], states[i], config=configs[i])[0] for i in running
    }
    phase = phases[running[0]]
    return phase, [i for i in running if phases[i] == phase][:width]


def is_running(state: Any) -> bool:
    """Whether an attack has not stopped."""
    return int(state.stop_reason) == types.RUNNING


def fitting_width(
    method: str,
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: Any,
    state: Any,
    *,
    config: Any,
    num_trials: int,
    memory_bytes: int,
) -> int:
    """Returns how many trials in one program fit into a device's memory.

    Programs are compiled, from as many as there are trials downwards, and asked what
    they take; what is compiled is found in the compilation cache when it is run.

    Args:
        method, logits_fn, variables: As for `together`.
        problem, state, config: Of any trial, from `together_init`.
        num_trials: T.
        memory_bytes: What may be used beside the weights and clips.

    Returns:
        A power of two, or 1 if nothing fits.
    """
    steps = _method(method)
    width = _next_power_of_two(num_trials)
    targeted = bool(problem.target >= 0)
    while width > 1:
        arguments = (
            [problem] * width,
            [state] * width,
            [checks.as_arrays(config)] * width,
        )
        need = 0
        for phase in steps.phases.values():
            compiled = _advance_stacked.lower(
                phase,
                logits_fn,
                variables,
                *_stacked(steps.own, *arguments),
                checks.steps_limit(None),
                own=steps.own,
                targeted=targeted,
            ).compile()
            analysis = compiled.memory_analysis()
            if analysis is None:
                return 1
            need = max(need, analysis.temp_size_in_bytes)
        if need <= memory_bytes:
            return width
        width //= 2
    return 1


def _advance(
    phase: Callable[..., Any],
    logits_fn: LogitsFn,
    variables: types.Variables,
    problems: Sequence[Any],
    states: Sequence[Any],
    configs: Sequence[Any],
    max_steps: jax.Array,
    *,
    own: tuple[str, ...],
    targeted: bool,
) -> list[Any]:
    if len(states) == 1:
        lone = phase(
            logits_fn,
            variables,
            problems[0],
            states[0],
            configs[0],
            max_steps,
            targeted=targeted,
        )
        return [lone]
    found = _advance_stacked(
        phase,
        logits_fn,
        variables,
        *_stacked(own, problems, states, configs),
        max_steps,
        own=own,
        targeted=targeted,
    )
    return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(states))]


def _stacked(
    own: tuple[str, ...],
    problems: Sequence[Any],
    states: Sequence[Any],
    configs: Sequence[Any],
) -> tuple[Any, Any, Any]:
    """Returns one problem, state and config with the trials along a first axis."""
    fields = {
        name: jnp.stack([getattr(problem, name) for problem in problems])
        for name in own
    }
    return problems[0]._replace(**fields), _stack(states), _stack(configs)


def _stack(trees: Sequence[T]) -> T:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.partial(jax.jit, static_argnames=("phase", "logits_fn", "own", "targeted"))
def _advance_stacked(
    phase: Callable[..., Any],
    logits_fn: LogitsFn,
    variables: types.Variables,
    problem: Any,
    states: Any,
    configs: Any,
    max_steps: jax.Array,
    *,
    own: tuple[str, ...],
    targeted: bool,
) -> Any:
    def advance(problem: Any, state: Any, config: Any) -> Any:
        return phase(
            logits_fn, variables, problem, state, config, max_steps, targeted=targeted
        )

    axes = type(problem)(*(0 if name in own else None for name in problem._fields))
    return jax.vmap(advance, in_axes=(axes, 0, 0))(problem, states, configs)


def _method(name: str) -> Method:
    checks.check_choice("method", name, tuple(METHODS))
    return METHODS[name]


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
