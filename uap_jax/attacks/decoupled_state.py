"""What the decoupled method works on and what it carries along."""

from typing import NamedTuple

import jax

from uap_jax.attacks import types

HISTORY_FIELDS = ("asr", "asr_level", "spl_db", "norm", "objective")


class DecoupledProblem(NamedTuple):
    """What stays fixed during an attack; lives on the device."""

    x: jax.Array  # [M, N] in [0, 1], or x' of Eq. 7 for space "tanh"
    clean_logits: jax.Array  # [M, C]
    clean_predictions: jax.Array  # [M] int32
    target: jax.Array  # [] int32; -1: untargeted


class Leader(NamedTuple):
    """The best v of the starts tried so far, after its passes."""

    value: jax.Array  # [N]
    direction: jax.Array  # [N]
    norm: jax.Array  # [], what v was held at; infinite: none yet
    asr: jax.Array  # []
    objective: jax.Array  # [], which decides between equals


class DecoupledState(NamedTuple):
    """What a segment takes and returns; a pytree of arrays, to store as it is."""

    perturbation: types.Perturbation  # v
    direction: jax.Array  # [N], the mean of normalised gradients
    starts: jax.Array  # [S, N], where v begins, one after the other
    leader: Leader
    norm: jax.Array  # [], what the norm of v is held at; 0: not begun
    key: jax.Array  # the batches of pass p follow from fold_in(key, p)
    num_passes: jax.Array  # [] int32, completed passes
    batch: jax.Array  # [] int32, next batch of the running pass
    block: jax.Array  # [] int32, next block of its evaluation
    num_fooled: jax.Array  # [] int32, in the blocks evaluated so far
    objective_sum: jax.Array  # [], over the clips of the running pass
    stop_reason: jax.Array  # [] int32, index into types.STOP_REASONS
    front: types.Front
    main_level: jax.Array  # [] int32, index of the rate that is returned
    history: dict[str, jax.Array]  # [num_passes in all] each, HISTORY_FIELDS
