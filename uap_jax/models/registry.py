"""The victim networks by name."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from uap_jax.attacks.types import LogitsFn, Variables
from uap_jax.models.classifier import Classifier
from uap_jax.models.cnn_gamma import CNNGamma
from uap_jax.models.cnn_rand import CNNRand
from uap_jax.models.envnet_v2 import EnvNetV2, EnvNetV2Deep
from uap_jax.models.sincnet import SincNet
from uap_jax.models.sincnet_vgg19 import SincNetVGG19
from uap_jax.models.spchcmd import SpchCMD

SAMPLE_RATE_HZ = 16_000


class _Entry(NamedTuple):
    """A network, and what it is made for.

    `min_num_samples` leave one step before its dense layers. `micro_batch_size` is how
    many clips' gradients a CPU is fastest with at once (measured,
    experiments/benchmarks), or None where many are as good.
    """

    network: Callable[[int], nn.Module]
    min_num_samples: int
    micro_batch_size: int | None
    num_samples: int = 50_999  # of the paper's environmental sounds


_ENTRIES = {
    "spchcmd": _Entry(SpchCMD, 5_081, None, 16_000),
    "cnn_rand": _Entry(CNNRand, 17_438, 8),
    "cnn_gamma": _Entry(CNNGamma, 9_199, 4),
    "envnet_v2": _Entry(EnvNetV2, 11_354, None),
    "envnet_v2_deep": _Entry(EnvNetV2Deep, 22_106, None),
    "sincnet": _Entry(SincNet, 307, 4),
    "sincnet_vgg19": _Entry(SincNetVGG19, 7_226, 1),
}

MODEL_NAMES = tuple(_ENTRIES)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network that can be trained, as pure functions.

    Attributes:
        name: The name in the registry.
        num_classes: C, the number of logits.
        num_samples: N, samples of a clip.
        sample_rate_hz: Samples per second that it is made for.
        init: `init(key) -> variables`, all collections.
        logits: As in `Classifier`.
        apply_train: `apply_train(variables, x, dropout_key) -> logits, statistics`,
            training mode; statistics are the collections that it updates: batch
            statistics, or none where the network has none.
    """

    name: str
    num_classes: int
    num_samples: int
    sample_rate_hz: int
    init: Callable[[jax.Array], Variables]
    logits: LogitsFn
    apply_train: Callable[[Variables, jax.Array, jax.Array], tuple[jax.Array, Any]]

    def classifier(
        self, variables: Variables, class_names: Sequence[str] | None = None
    ) -> Classifier:
        """Returns the network with these weights."""
        return Classifier(
            self.logits,
            variables,
            num_samples=self.num_samples,
            sample_rate_hz=self.sample_rate_hz,
            class_names=None if class_names is None else tuple(class_names),
        )


def create(
    name: str, *, num_classes: int, num_samples: int | None = None
) -> Architecture:
    """Returns a network of the registry; equal arguments give the same object.

    Args:
        name: One of `MODEL_NAMES`.
        num_classes: Number of logits, at least 2.
        num_samples: Samples of a clip; None: the paper's.

    Raises:
        ValueError: The name is unknown, or a number is out of range.
    """
    if name not in _ENTRIES:
        raise ValueError(f"name: expected one of {MODEL_NAMES}, got {name!r}")
    entry = _ENTRIES[name]
    if num_samples is None:
        num_samples = entry.num_samples
    if num_samples < entry.min_num_samples:
        raise ValueError(
            f"num_samples: expected at least {entry.min_num_samples} for {name}, "
            f"got {num_samples}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    return _create(name, num_classes, num_samples)


@functools.cache
def _create(name: str, num_classes: int, num_samples: int) -> Architecture:
    return as_functions(
        _ENTRIES[name].network(num_classes), name=name, num_samples=num_samples
    )


def default_num_samples(name: str) -> int:
    """Returns the samples of a clip in the paper's set-up of this network."""
    return _ENTRIES[name].num_samples


def default_sample_rate_hz(name: str) -> int:
    """Returns the sample rate of the paper's set-up of this network."""
    del name
    return SAMPLE_RATE_HZ


def default_micro_batch_size(name: str) -> int | None:
    """Returns how many clips at once a CPU is fastest with; None: any number."""
    return _ENTRIES[name].micro_batch_size


def as_functions(
    module: nn.Module,
    *,
    name: str,
    num_samples: int,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
) -> Architecture:
    """Returns a module of Flax as pure functions.

    Args:
        module: Called with clips `[B, N]` and `train`; has `num_classes`.
        name: The architecture's name.
        num_samples: N, samples of a clip.
        sample_rate_hz: Samples per second.
    """
    init_with = jax.jit(module.init)

    def init(key: jax.Array) -> Any:
        # As an argument: XLA would take minutes to compute the network of a constant.
        return init_with(key, jnp.full((2, num_samples), 0.5, jnp.float32))

    def logits(variables: Any, x: jax.Array) -> jax.Array:
        return cast("jax.Array", module.apply(variables, x))

    def apply_train(
        variables: Any, x: jax.Array, dropout_key: jax.Array
    ) -> tuple[jax.Array, Any]:
        return module.apply(
            variables,
            x,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )

    return Architecture(
        name=name,
        num_classes=module.num_classes,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        init=init,
        logits=logits,
        apply_train=apply_train,
    )
