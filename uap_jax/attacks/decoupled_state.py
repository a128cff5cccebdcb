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
    """The best v of the passes that began at one start each."""

    value: jax.Array  # [N]
    direction: jax.Array  # [N]
    asr: jax.Array  # []; -1: none yet
    objective: jax.Array  # [], which decides between equal rates


class DecoupledState(NamedTuple):
    """What a segment takes and returns; a pytree of arrays, to store as it is."""

    perturbation: types.Perturbation  # v
    direction: jax.Array  # [N], the mean of normalised gradients
    starts: jax.Array  # [S, N], v in the first step of the first S passes
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
