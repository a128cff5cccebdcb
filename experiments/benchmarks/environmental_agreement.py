"""Whether the environmental networks in PyTorch are those of `uap_jax`."""

import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional

from uap_jax import models
from uap_jax.models import kernels
from uap_jax.models.cnn_gamma import CNNGamma
from uap_jax.models.cnn_rand import CNNRand
from uap_jax.models.envnet_v2 import EnvNetV2
from uap_jax.models.sincnet import SincNet
from uap_jax.models.sincnet_vgg19 import SincNetVGG19

MODULES: dict[str, Callable[..., Any]] = {
    "cnn_rand": CNNRand,
    "cnn_gamma": CNNGamma,
    "envnet_v2": EnvNetV2,
    "sincnet": SincNet,
    "sincnet_vgg19": SincNetVGG19,
}
NUM_CLASSES = 10
NUM_COMPARED_CLIPS = 2
# Relative to the largest logit, or to the norm of a clip's gradient.
LARGEST_DIFFERENCES = {
    "logits, float64": 1e-10,
    "input gradient, float64": 1e-10,
    "logits, float32": 1e-4,
    "input gradient, float32": 5e-2,
}


def random_variables(name: str) -> harness.Variables:
    """Random weights, norms included, and the statistics of random clips under them."""
    spec = models.create(name, num_classes=NUM_CLASSES)
    rng = np.random.default_rng(0)

    def randomised(path: tuple[Any, ...], leaf: jax.Array) -> np.ndarray:
        kind, noise = path[-1].key, rng.normal(size=leaf.shape)
        if kind == "scale":
            # Of either sign, as after training.
            return np.float32(np.sign(noise) * (1 + 0.2 * np.abs(noise)))
        return np.float32(0.1 * noise) if kind == "bias" else np.asarray(leaf)

    # Not jitted: the program that draws all weights of a large network takes minutes
    # to compile.
    one_clip = jnp.asarray(harness.random_clips(1, spec.num_samples, seed=0))
    variables = MODULES[name](NUM_CLASSES).init(jax.random.key(0), one_clip)
    params = jax.tree_util.tree_map_with_path(randomised, variables["params"])
    variables = {**variables, "params": params}
    if "batch_stats" in variables:
        # From zero, an update of momentum 0.9 leaves a tenth of the batch's statistics.
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        x = jnp.asarray(harness.random_clips(8, spec.num_samples, seed=0))
        _, updated = jax.jit(spec.apply_train)(
            {**variables, "batch_stats": zeros}, x, jax.random.key(0)
        )
        variables |= jax.tree.map(lambda leaf: 10 * leaf, updated)
    return jax.device_get(variables)


def check_agreement(
    name: str, variables: harness.Variables, twin: torch.nn.Module, num_samples: int
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
    x = harness.random_clips(NUM_COMPARED_CLIPS, num_samples, seed=2)
    labels = np.arange(NUM_COMPARED_CLIPS)
    with jax.enable_x64(True):
        ours = logits_and_gradients(name, variables, np.float64(x), labels)
    theirs = logits_and_gradients_torch(twin.double(), np.float64(x), labels)
    differences = compare(ours, theirs, "float64")
    ours = logits_and_gradients(name, variables, x, labels)
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


def loss_of(
    name: str, form: types.ModuleType
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns a function of clips that gives their summed cross-entropy, and logits.

    `form` is `kernels.fast` or `kernels.plain`.
    """
    module = MODULES[name](NUM_CLASSES)

    def loss(
        x: jax.Array, variables: harness.Variables, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        with mock.patch.object(kernels, "ops", lambda: form):
            logits = module.apply(variables, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(losses), logits

    return loss


def logits_and_gradients(
    name: str, variables: harness.Variables, x: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), variables)
    gradient_of = jax.jit(jax.grad(loss_of(name, kernels.ops()), has_aux=True))
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
