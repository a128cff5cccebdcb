"""Whether the network and attack in PyTorch are those of `uap_jax`."""

import copy
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from twins import spchcmd
from uap_jax.attacks import PenaltyConfig, begin
from uap_jax.attacks.penalty import batch_objective
from uap_jax.audio.box import to_tanh_space
from uap_jax.models import Architecture

NUM_CLIPS = 16
# Relative to the largest logit, or to the norm of a clip's gradient.
LARGEST_DIFFERENCE_FLOAT64 = 1e-10
LARGEST_DIFFERENCE_FLOAT32 = 1e-4


def check_agreement(
    spec: Architecture,
    variables: Any,
    twin: spchcmd.SpchCMD,
    *,
    target: int,
    config: PenaltyConfig,
) -> dict[str, float]:
    """Compares both frameworks on the same numbers, in float64 and in float32.

    In float32 a unit within rounding of a kink of relu6 takes either slope, so that
    the gradient of a clip in ten is off by a percent in any framework: for gradients
    it is the median over the clips that has to agree there.

    Returns:
        The relative differences by what was compared.

    Raises:
        AssertionError: A difference is too large.
    """
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, (NUM_CLIPS, spec.num_samples))
    direction = rng.normal(size=(NUM_CLIPS, spec.num_classes))
    value = (0.05 * rng.normal(size=spec.num_samples)).astype(np.float32)
    tuned = spchcmd.tuned(twin)

    with jax.enable_x64(True):
        ours = _logits_and_gradients(spec, variables, x, direction)
    theirs = _logits_and_gradients_torch(copy.deepcopy(twin).double(), x, direction)
    exact = {
        "logits, float64": _largest(ours[0], theirs[0]),
        "input gradient, float64": _by_clip(ours[1], theirs[1]),
    }
    x, direction = x.astype(np.float32), direction.astype(np.float32)
    ours = _logits_and_gradients(spec, variables, x, direction)
    # With random weights the paper's hinge would vanish beside the sound level.
    config = dataclasses.replace(config, penalty_coefficient=100.0)
    steps = _objective_gradients(
        spec, variables, x, value, target=target, config=config
    )
    rounded = {}
    for name, network in (("plain", twin), ("tuned", tuned)):
        theirs = _logits_and_gradients_torch(network, x, direction)
        steps_torch = _objective_gradients_torch(
            network, x, value, target=target, config=config
        )
        rounded |= {
            f"logits, {name}": _largest(ours[0], theirs[0]),
            f"input gradient, {name}": _by_clip(ours[1], theirs[1]),
            f"objective gradient, {name}": _by_clip(steps, steps_torch),
        }
    for differences, largest in (
        (exact, LARGEST_DIFFERENCE_FLOAT64),
        (rounded, LARGEST_DIFFERENCE_FLOAT32),
    ):
        for what, difference in differences.items():
            assert difference < largest, f"{what}: relative difference {difference:.1e}"
    return exact | rounded


def _logits_and_gradients(
    spec: Architecture, variables: Any, x: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), variables)
    logits, pull_back = jax.vjp(lambda x: spec.logits(variables, x), jnp.asarray(x))
    return np.asarray(logits), np.asarray(pull_back(jnp.asarray(direction))[0])


def _logits_and_gradients_torch(
    network: torch.nn.Module, x: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    x_torch = torch.tensor(x, requires_grad=True)
    logits = network(x_torch)
    logits.backward(torch.tensor(direction))
    return logits.detach().numpy(), x_torch.grad.numpy()


def _objective_gradients(
    spec: Architecture,
    variables: Any,
    x: np.ndarray,
    value: np.ndarray,
    *,
    target: int,
    config: PenaltyConfig,
) -> np.ndarray:
    """Gradients of the objective with respect to v', each of a batch of one clip."""
    problem, _ = begin(
        spec.logits,
        variables,
        jnp.asarray(x),
        jnp.zeros(len(x), jnp.int32),
        key=jax.random.key(0),
        target=target,
        config=config,
    )
    classify = functools.partial(spec.logits, variables)

    @jax.jit
    def gradient_of(index: jax.Array) -> jax.Array:
        return batch_objective(
            classify,
            problem,
            jnp.asarray(value),
            index[None, None],
            jnp.ones((1, 1)),
        )[2]

    return np.stack([gradient_of(jnp.int32(index)) for index in range(len(x))])


def _objective_gradients_torch(
    network: torch.nn.Module,
    x: np.ndarray,
    value: np.ndarray,
    *,
    target: int,
    config: PenaltyConfig,
) -> np.ndarray:
    x_tanh = torch.tensor(np.asarray(to_tanh_space(jnp.asarray(x))))
    gradients = []
    for clip in x_tanh:
        value_torch = torch.tensor(value, requires_grad=True)
        hinges = spchcmd.hinge_sum(
            network, clip[None], value_torch, target=target, config=config
        )
        objective = spchcmd.spl_db(value_torch) + config.penalty_coefficient * hinges
        objective.backward()
        gradients.append(value_torch.grad.numpy())
    return np.stack(gradients)


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def _by_clip(ours: np.ndarray, theirs: np.ndarray) -> float:
    norms = np.linalg.norm(ours, axis=1)
    return float(np.median(np.linalg.norm(ours - theirs, axis=1) / norms))
