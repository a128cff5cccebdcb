"""The universal attacks by name, with one set of functions each.

For those who run either: a launcher, a sweep, a benchmark.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from uap_jax.attacks import decoupled_steps, greedy_steps, penalty_steps, types
from uap_jax.attacks.decoupled import (
    decoupled_init,
    decoupled_progress,
    decoupled_restart,
    decoupled_result,
    decoupled_segment,
    resolve_decoupled_config,
)
from uap_jax.attacks.greedy import (
    greedy_init,
    greedy_progress,
    greedy_result,
    greedy_segment,
    resolve_greedy_config,
)
from uap_jax.attacks.penalty import (
    penalty_init,
    penalty_progress,
    penalty_result,
    penalty_segment,
    resolve_penalty_config,
)


class Method(NamedTuple):
    """What an attack consists of; arguments as of the functions named."""

    config_class: type
    resolve: Callable[..., Any]  # as `resolve_penalty_config`
    init: Callable[..., tuple[Any, Any]]  # as `penalty_init`
    progress: Callable[..., tuple[str, int, int]]  # as `penalty_progress`
    segment: Callable[..., Any]  # as `penalty_segment`
    result: Callable[[Any], types.AttackResult]  # as `penalty_result`
    phases: Mapping[str, Callable[..., Any]]  # the compiled parts, by phase
    own: tuple[str, ...]  # fields of the problem that follow from the target
    retarget: Callable[[Any, int], Any]  # a targeted problem with another target
    # As `decoupled_restart`; None where first states do not follow from the problem.
    restart: Callable[..., Any] | None = None


METHODS = {
    "penalty": Method(
        types.PenaltyConfig,
        resolve_penalty_config,
        penalty_init,
        penalty_progress,
        penalty_segment,
        penalty_result,
        {"descend": penalty_steps.descend, "evaluate": penalty_steps.evaluate},
        ("target",),
        lambda problem, target: problem._replace(
            target=jnp.full_like(problem.target, target)
        ),
    ),
    "greedy": Method(
        types.GreedyConfig,
        resolve_greedy_config,
        greedy_init,
        greedy_progress,
        greedy_segment,
        greedy_result,
        {"visit": greedy_steps.visit, "evaluate": greedy_steps.evaluate},
        ("classes", "target"),
        lambda problem, target: problem._replace(
            target=jnp.full_like(problem.target, target),
            classes=jnp.full_like(problem.classes, target),
        ),
    ),
    "decoupled": Method(
        types.DecoupledConfig,
        resolve_decoupled_config,
        decoupled_init,
        decoupled_progress,
        decoupled_segment,
        decoupled_result,
        {"descend": decoupled_steps.descend, "evaluate": decoupled_steps.evaluate},
        ("target",),
        lambda problem, target: problem._replace(
            target=jnp.full_like(problem.target, target)
        ),
        decoupled_restart,
    ),
}
