"""Whether the environmental networks in PyTorch are those of `uap_jax`."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from uap_jax.models import Architecture, kernels

NUM_COMPARED_CLIPS = 2
# Relative to the largest logit, or to the norm of a clip's gradient.
LARGEST_DIFFERENCES = {
    "logits, float64": 1e-10,
    "input gradient, float64": 1e-10,
    "logits, float32": 1e-4,
    "input gradient, float32": 5e-2,
}


def check_agreement(
    spec: Architecture, variables: harness.Variables, twin: torch.nn.Module
) -> dict[str, float]:
    """Compares both frameworks on the same clips, in float64 and in float32.

    In float32 a unit within rounding of a kink, or a window with two largest values,
    passes its gradient on in either of two ways: it is float64 that shows that both
    are the same network.

    Returns:
        The relative differences by what was compared.

    Raises:
        AssertionError: A difference is too large.
    """
    x = harness.random_clips(NUM_COMPARED_CLIPS, spec.num_samples, seed=2)
    labels = np.arange(NUM_COMPARED_CLIPS)
    with jax.enable_x64(True):
        ours = logits_and_gradients(spec, variables, np.float64(x), labels)
    theirs = logits_and_gradients_torch(twin.double(), np.float64(x), labels)
    differences = compare(ours, theirs, "float64")
    ours = logits_and_gradients(spec, variables, x, labels)
    theirs = logits_and_gradients_torch(twin.float(), x, labels)
    return differences | compare(ours, theirs, "float32")


def compare(
    ours: tuple[np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray],
    precision: str,
) -> dict[str, float]:
    """Returns the relative differences; asserts that they are small."""
    logits, gradients = (a - b for a, b in zip(ours, theirs, strict=True))
    by_clip = np.linalg.norm(gradients, axis=1) / np.linalg.norm(ours[1], axis=1)
    differences = {
        f"logits, {precision}": float(np.abs(logits).max() / np.abs(ours[0]).max()),
        f"input gradient, {precision}": float(by_clip.max()),
    }
    for what, difference in differences.items():
        assert difference < LARGEST_DIFFERENCES[what], (
            f"{what}: relative difference {difference:.1e}"
        )
    return differences


def logits_and_gradients(
    spec: Architecture, variables: harness.Variables, x: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), variables)
    gradient_of = jax.jit(jax.grad(harness.loss_of(spec, kernels.ops()), has_aux=True))
    gradients, logits = gradient_of(jnp.asarray(x), variables, jnp.asarray(labels))
    return np.asarray(logits), np.asarray(gradients)


def logits_and_gradients_torch(
    network: torch.nn.Module, x: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    x_torch = torch.tensor(x, requires_grad=True)
    logits = network(x_torch)
    loss = functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    (gradients,) = torch.autograd.grad(loss, x_torch)
    return logits.detach().numpy(), gradients.numpy()
