"""The decoupled method: how quiet can a universal perturbation be and still succeed?

minimise ||v||_2   subject to   ASR(v) >= 1 - delta

Direction and norm of v are adapted separately, as DDN does for one clip: steps turn v
on a sphere towards a lower soft hinge over batches, and after each pass the sphere
shrinks if more clips are fooled than asked for, and grows if fewer are. Continuing
with lower success rates, then with higher ones, gives the whole front, success rate
against level, in one run. The first passes try several starts, and the best continues;
with a channel they start at silence.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks import checks, loop, types
from uap_jax.attacks.decoupled import steps
from uap_jax.attacks.decoupled.schedule import START_PASSES
from uap_jax.attacks.types import AttackResult, LogitsFn, Method, PassConfig, static
from uap_jax.audio.channels import Channel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoupledConfig(PassConfig):
    """Settings of the decoupled method.

    Attributes:
        batch_size: Clips per step. None: targeted 10, as many steps from few clips end
            quieter than few from many; untargeted a tenth of the attack clips, for ten
            steps a pass, but no fewer than 10 and no more than 100.
        max_passes: Passes over the attack clips for `target_asr`, with those at all
            starts.
        target_asr: The success rate that the returned perturbation must reach.
        asr_levels: More success rates to find the quietest perturbation of: after
            `target_asr` the lower ones, then from there the higher ones, each from the
            one before.
        level_passes: Passes for each of them.
        max_shift: In steps each clip is circularly shifted by up to this many samples
            either way, which makes v fit clips that it has not seen; success is counted
            on the clips as they are. None: targeted a 40th of a clip, at most 400 (25
            ms at 16 kHz), untargeted or with a channel not at all.
    """

    batch_size: int | None = static(None)
    max_passes: int = static(50)
    asr_levels: tuple[float, ...] = static(())
    level_passes: int = static(10)
    max_shift: int | None = static(None)

    @property
    def method(self) -> Method:
        return DECOUPLED

    @property
    def total_passes(self) -> int:
        """Passes for all success rates."""
        return self.max_passes + self.level_passes * len(self.asr_levels)

    @property
    def start_passes(self) -> int:
        """Passes at each start."""
        return min(START_PASSES, self.max_passes)


def decoupled(
    logits_fn: LogitsFn,
    variables: types.Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    target: int | None = None,
    config: DecoupledConfig = DecoupledConfig(),
    channel: Channel | None = None,
    counting_channel: Channel | None = None,
    num_sound_samples: int | None = None,
) -> AttackResult:
    """Crafts the quietest universal perturbation of a success rate, or of several.

    Args:
        logits_fn: The classifier, `logits_fn(variables, x) -> [B, C]`.
        variables: Its weights.
        x: `[M, N]` float32 attack clips in the box [0, 1].
        labels: `[M]` int32 true classes; only checked, since success is a change of
            the clean prediction or the target (Eq. 3).
        key: Random key for the batches; consumed.
        target: The class to say, or None for an untargeted attack.
        config: Settings.
        channel, counting_channel, num_sound_samples: As of `begin`.

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
    checks.check_config(config, DecoupledConfig)
    return loop.run(
        logits_fn,
        variables,
        x,
        labels,
        key=key,
        target=target,
        config=config,
        channel=channel,
        counting_channel=counting_channel,
        num_sound_samples=num_sound_samples,
    )


def _resolve(
    config: DecoupledConfig, *, targeted: bool, num_clips: int
) -> DecoupledConfig:
    checks.check_size("level_passes", config.level_passes, at_most=checks.MAX_STEPS)
    if config.max_shift is not None:
        checks.check_size("max_shift", config.max_shift, at_least=0)
    checks.check_setting(
        "asr_levels",
        config.asr_levels,
        "a sequence of rates",
        lambda levels: isinstance(levels, Sequence) and not isinstance(levels, str),
    )
    for rate in config.asr_levels:
        checks.check_rate("asr_levels", rate)
    batch_size = config.batch_size
    if batch_size is None:
        batch_size = 10 if targeted else min(100, max(10, num_clips // 10))
    levels = sorted({float(rate) for rate in config.asr_levels}, reverse=True)
    if not isinstance(config.target_asr, jax.core.Tracer):
        # A rate that has been through arrays is a float32.
        same = np.float32(config.target_asr)
        levels = [rate for rate in levels if np.float32(rate) != same]
    return dataclasses.replace(config, batch_size=batch_size, asr_levels=tuple(levels))


def _finish(own: steps.Own, result: AttackResult) -> AttackResult:
    """The quietest v with `target_asr`; v as it is while none has reached it."""
    front, main = own.front, own.main_level
    reached = jnp.isfinite(front.norm[main])
    value = jnp.where(reached, front.values[main], own.value)
    return dataclasses.replace(
        result,
        perturbation=dataclasses.replace(result.perturbation, value=value),
        train_asr=jnp.where(reached, front.train_asr[main], result.train_asr),
        converged=reached,
        front=front,
    )


DECOUPLED = Method(
    name="decoupled",
    config_type=DecoupledConfig,
    resolve=_resolve,
    init=steps.init,
    step=steps.step,
    value=lambda own: own.value,
    end_pass=steps.end_pass,
    space="tanh",
    sums=("objective",),
    metrics=("asr_level", "norm", "objective"),
    finish=_finish,
    no_channel="",
)
