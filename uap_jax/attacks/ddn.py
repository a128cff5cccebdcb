"""DDN, decoupled direction and norm: the smallest perturbation of each clip.

The inner attack of the greedy method (section 3.1). Each step moves along the gradient
of the cross-entropy and then sets the norm, which shrinks while the clip is adversarial
and grows while it is not.

Source: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2
Adversarial Attacks and Defenses", 2019; the settings are those of Abdoli et al.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.attacks import checks
from uap_jax.attacks.batches import even_share
from uap_jax.attacks.equations import cross_entropy_ascent
from uap_jax.attacks.types import Classify, LogitsFn, Number, Variables, static

# The outcome for each clip: `DDNResult.status` is an index into this.
STATUSES = (
    "found",
    "already_adversarial",
    "not_found",
    "budget_too_small",
    "non_finite_logits",
    "non_finite_gradient",
)
(
    FOUND,
    ALREADY_ADVERSARIAL,
    NOT_FOUND,
    BUDGET_TOO_SMALL,
    NON_FINITE,
    NON_FINITE_GRADIENT,
) = range(len(STATUSES))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDNResult:
    """The smallest adversarial perturbation of each clip.

    Attributes:
        delta: `[B, N]`; x + delta lies in [0, 1]. Zero where nothing was found.
        l2: `[B]`, ||delta||_2; says something only where `success`.
        success: `[B]` bool; whether x + delta was seen to be adversarial.
        status: `[B]` int32 index into `STATUSES`. "budget_too_small": nothing was
            found up to a norm of `reach_l2`, which the box would have let grow; more
            steps or a larger first norm may find something. "not_found": nothing was
            found up to the largest norm in the box. "non_finite_logits",
            "non_finite_gradient": nothing was found, and there were such at some step;
            a step without a finite gradient takes a random direction.
        reach_l2: `[B]`, the largest norm that the steps can try:
            init_norm (1 + gamma)^(num_steps - 1), or what the box holds if that is
            less. What the box cuts off a step is not made up for.
    """

    delta: jax.Array
    l2: jax.Array
    success: jax.Array
    status: jax.Array
    reach_l2: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DDNConfig:
    """Settings of DDN; the defaults are the paper's and the authors'.

    Attributes:
        num_steps: K, evaluations of the classifier; the first is of the clip itself.
        init_norm: epsilon_0; the first step aims at this norm times 1 + gamma.
        gamma: The norm shrinks by this share after a success, else it grows.
        quantization_levels: delta is rounded to this many levels in [0, 1] after each
            step (the authors: 65536); None: not at all.
        micro_batch_size: Clips that are attacked at once; None: at most 32 on a CPU,
            128 on an accelerator.
    """

    num_steps: int = static(50)
    init_norm: Number = 0.2
    gamma: Number = 0.05
    quantization_levels: int | None = static(None)
    micro_batch_size: int | None = static(None)


def ddn(
    logits_fn: LogitsFn,
    variables: Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array | None = None,
    targeted: bool = False,
    config: DDNConfig = DDNConfig(),
) -> DDNResult:
    """Finds a small adversarial perturbation of each clip.

    minimise ||delta_i||_2 over delta_i with x_i + delta_i in [0, 1] and
        argmax f(x_i + delta_i) != labels_i (untargeted), = labels_i (targeted).

    Each clip's result depends on that clip alone.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[B, N]` float32 clips in the box [0, 1].
        labels: `[B]` int32: the classes to leave, or, targeted, to reach.
        key: Random key for the direction taken where the gradient is zero; None:
            always the same one.
        targeted: Which of the two.
        config: Settings.

    Returns:
        The smallest adversarial perturbation seen in `num_steps` evaluations, the
        first of them of x itself.

    Raises:
        ValueError: An input or setting is out of its range.
    """
    checks.check_attack_inputs(logits_fn, variables, x, labels)
    checks.check_config(config, DDNConfig)
    check_ddn_config(config)
    key = jax.random.key(0) if key is None else key
    checks.check_key(key)
    return _ddn(
        logits_fn,
        variables,
        x,
        labels,
        key,
        config=checks.as_arrays(config),
        targeted=targeted,
    )


def check_ddn_config(config: DDNConfig) -> None:
    """Checks the settings of DDN.

    Raises:
        ValueError: A setting is out of its range.
    """
    checks.check_size("num_steps", config.num_steps, at_most=checks.MAX_STEPS)
    checks.check_positive("init_norm", config.init_norm)
    # In float32, 1 + gamma is more than 1 and 1 - gamma more than 0.
    checks.check_number("gamma", config.gamma, at_least=1e-6, at_most=1 - 1e-6)
    if config.quantization_levels is not None:
        levels = config.quantization_levels
        checks.check_size("quantization_levels", levels, at_least=2, at_most=2**24)
    if config.micro_batch_size is not None:
        checks.check_size("micro_batch_size", config.micro_batch_size)


def search(
    classify: Classify,
    x: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    config: DDNConfig,
    targeted: bool,
) -> DDNResult:
    """`ddn` as a part of compiled programs: checks nothing."""
    num_clips = x.shape[0]
    size = config.micro_batch_size or even_share(num_clips)

    def attack(batch: tuple[jax.Array, jax.Array]) -> DDNResult:
        return _search_together(classify, *batch, key, config=config, targeted=targeted)

    if num_clips <= size:
        return attack((x, labels))
    # The first clip fills up the last micro-batch.
    index = jnp.arange(-(-num_clips // size) * size, dtype=jnp.int32)
    index = jnp.where(index < num_clips, index, 0).reshape(-1, size)
    results = jax.lax.map(attack, (x[index], labels[index]))
    return jax.tree.map(
        lambda part: part.reshape(-1, *part.shape[2:])[:num_clips], results
    )


@functools.partial(jax.jit, static_argnames=("logits_fn", "targeted"))
def _ddn(
    logits_fn: LogitsFn, variables: Variables, *arguments: Any, **settings: Any
) -> DDNResult:
    return search(functools.partial(logits_fn, variables), *arguments, **settings)


class _Search(NamedTuple):
    """Where the search stands."""

    step: jax.Array  # [] int32
    delta: jax.Array  # [B, N], next to evaluate
    norm: jax.Array  # [B], epsilon: what ||delta|| is set to
    best_delta: jax.Array  # [B, N]
    best_l2: jax.Array  # [B], infinite while there is none
    saw_fault: jax.Array  # [B] bool, logits that were not finite
    lost_gradient: jax.Array  # [B] bool, a gradient that was not


def _search_together(
    classify: Classify,
    x: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    config: DDNConfig,
    targeted: bool,
) -> DDNResult:
    """`search` with all clips in one batch."""
    # Nothing in the box is farther from x than this.
    widest = _l2(jnp.maximum(x, 1 - x))

    def should_continue(state: _Search) -> jax.Array:
        # Nothing is smaller than a delta of zero.
        return (state.step < config.num_steps) & jnp.any(state.best_l2 > 0)

    def step(state: _Search) -> _Search:
        logits, pull_back = jax.vjp(classify, x + state.delta)
        is_finite = jnp.all(jnp.isfinite(logits), axis=1)
        is_label = jnp.argmax(logits, axis=1).astype(jnp.int32) == labels
        is_adversarial = (is_label if targeted else ~is_label) & is_finite
        l2 = _l2(state.delta)
        is_better = is_adversarial & (l2 < state.best_l2)

        (gradient,) = pull_back(cross_entropy_ascent(logits, labels))
        random_key = jax.random.fold_in(key, state.step)
        direction = _unit_or_random(-gradient if targeted else gradient, random_key)
        norm = jnp.minimum(next_norm(state.norm, is_adversarial, config), widest)
        moved = state.delta + step_size(state.step, config) * direction
        return _Search(
            step=state.step + 1,
            delta=_fit_box(_with_norm(moved, norm), x, config),
            norm=norm,
            best_delta=jnp.where(is_better[:, None], state.delta, state.best_delta),
            best_l2=jnp.where(is_better, l2, state.best_l2),
            saw_fault=state.saw_fault | ~is_finite,
            lost_gradient=state.lost_gradient
            | ~jnp.all(jnp.isfinite(gradient), axis=1),
        )

    num_clips = x.shape[0]
    first_norm = jnp.full(num_clips, 1.0, jnp.float32) * config.init_norm
    end = jax.lax.while_loop(
        should_continue,
        step,
        _Search(
            step=jnp.zeros((), jnp.int32),
            delta=jnp.zeros_like(x),
            norm=first_norm,
            best_delta=jnp.zeros_like(x),
            best_l2=jnp.full(num_clips, jnp.inf, jnp.float32),
            saw_fault=jnp.zeros(num_clips, jnp.bool_),
            lost_gradient=jnp.zeros(num_clips, jnp.bool_),
        ),
    )
    success = jnp.isfinite(end.best_l2)
    # The first evaluation is of x itself.
    growth = (1 + config.gamma) ** jnp.float32(config.num_steps - 1)
    growth = growth if config.num_steps > 1 else jnp.zeros_like(growth)
    reach = jnp.minimum(first_norm * growth, widest)
    return DDNResult(
        delta=end.best_delta,
        l2=jnp.where(success, end.best_l2, jnp.zeros_like(end.best_l2)),
        success=success,
        status=_status(end, reach=reach, widest=widest),
        reach_l2=reach,
    )


def step_size(step: jax.Array, config: DDNConfig) -> jax.Array:
    """alpha_k = 0.01 + 0.99 (1 + cos(pi k / K)) / 2, from 1 towards 0.01."""
    share = step.astype(jnp.float32) / config.num_steps
    return 0.01 + 0.99 * (1 + jnp.cos(jnp.pi * share)) / 2


def next_norm(
    norm: jax.Array, is_adversarial: jax.Array, config: DDNConfig
) -> jax.Array:
    """epsilon (1 - gamma) where the clip is adversarial, else epsilon (1 + gamma)."""
    return norm * jnp.where(is_adversarial, 1 - config.gamma, 1 + config.gamma)


def _fit_box(delta: jax.Array, x: jax.Array, config: DDNConfig) -> jax.Array:
    """Quantises delta if asked to, then keeps x + delta in [0, 1]."""
    if config.quantization_levels is not None:
        steps = config.quantization_levels - 1
        delta = jnp.round(delta * steps) / steps
    return jnp.clip(delta, -x, 1 - x)


def _with_norm(delta: jax.Array, norm: jax.Array) -> jax.Array:
    """Scales each delta to a norm; zero stays zero."""
    l2 = _l2(delta)
    scale = jnp.where(l2 > 0, norm / jnp.where(l2 > 0, l2, 1.0), 0.0)
    return delta * scale[:, None]


def _unit_or_random(gradient: jax.Array, key: jax.Array) -> jax.Array:
    """Gradients at norm 1; a random direction where there is none.

    It is the same one for all clips, so that what else is in the batch does not
    matter.
    """
    # Squares of a small gradient would round to zero before it does.
    largest = jnp.max(jnp.abs(gradient), axis=1)
    scaled = gradient / jnp.where(largest > 0, largest, 1.0)[:, None]
    l2 = _l2(scaled)
    has_one = (l2 > 0) & jnp.isfinite(l2)

    def random_direction() -> jax.Array:
        direction = jax.random.normal(key, gradient.shape[1:], jnp.float32)
        return direction / jnp.linalg.norm(direction)

    nothing = jnp.zeros(gradient.shape[1:], jnp.float32)
    instead = jax.lax.cond(jnp.all(has_one), lambda: nothing, random_direction)
    unit = scaled / jnp.where(has_one, l2, 1.0)[:, None]
    return jnp.where(has_one[:, None], unit, instead[None])


def _l2(delta: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(delta), axis=1))


def _status(end: _Search, *, reach: jax.Array, widest: jax.Array) -> jax.Array:
    cases = {
        ALREADY_ADVERSARIAL: end.best_l2 == 0,
        FOUND: jnp.isfinite(end.best_l2),
        NON_FINITE: end.saw_fault,
        NON_FINITE_GRADIENT: end.lost_gradient,
        BUDGET_TOO_SMALL: reach < widest,
    }
    status = jnp.full(reach.shape, NOT_FOUND, jnp.int32)
    for value, condition in reversed(cases.items()):
        status = jnp.where(condition, value, status)
    return status
