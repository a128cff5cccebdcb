"""The victim networks by name."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from uap_jax.models.classifier import Classifier

if TYPE_CHECKING:
    import flax.linen as nn
    import jax


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where a network is defined and what it is made for.

    `micro_batch_size` is how many clips' gradients a processor is fastest with at once
    (measured, experiments/benchmarks), or None where many are as good.
    """

    module: str
    attribute: str
    num_samples: int
    sample_rate_hz: int
    min_num_samples: int
    micro_batch_size: int | None = None


# Samples of a clip in the paper's environmental sounds.
_ENVIRONMENTAL = 50_999

_ENTRIES = {
    "spchcmd": _Entry("uap_jax.models.spchcmd", "SpchCMD", 16_000, 16_000, 5_081),
    "cnn_rand": _Entry(
        "uap_jax.models.cnn_rand", "CNNRand", _ENVIRONMENTAL, 16_000, 17_438, 8
    ),
    "cnn_gamma": _Entry(
        "uap_jax.models.cnn_gamma", "CNNGamma", _ENVIRONMENTAL, 16_000, 9_199, 4
    ),
    "envnet_v2": _Entry(
        "uap_jax.models.envnet_v2", "EnvNetV2", _ENVIRONMENTAL, 16_000, 11_354
    ),
    "envnet_v2_deep": _Entry(
        "uap_jax.models.envnet_v2", "EnvNetV2Deep", _ENVIRONMENTAL, 16_000, 22_106
    ),
    "sincnet": _Entry(
        "uap_jax.models.sincnet", "SincNet", _ENVIRONMENTAL, 16_000, 307, 4
    ),
    "sincnet_vgg19": _Entry(
        "uap_jax.models.sincnet_vgg19",
        "SincNetVGG19",
        _ENVIRONMENTAL,
        16_000,
        7_226,
        1,
    ),
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
    init: Callable[["jax.Array"], Any]
    logits: Callable[[Any, "jax.Array"], "jax.Array"]
    apply_train: Callable[..., tuple["jax.Array", Any]]

    def classifier(
        self, variables: Any, class_names: Sequence[str] | None = None
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
    entry = _ENTRIES[name]
    module_class = getattr(importlib.import_module(entry.module), entry.attribute)
    return _as_functions(name, entry, module_class(num_classes), num_samples)


def default_num_samples(name: str) -> int:
    """Returns the samples of a clip in the paper's set-up of this network."""
    return _ENTRIES[name].num_samples


def default_sample_rate_hz(name: str) -> int:
    """Returns the sample rate of the paper's set-up of this network."""
    return _ENTRIES[name].sample_rate_hz


def default_micro_batch_size(name: str) -> int | None:
    """Returns how many clips at once a processor is fastest with; None: no matter."""
    return _ENTRIES[name].micro_batch_size


def _as_functions(
    name: str, entry: _Entry, module: "nn.Module", num_samples: int
) -> Architecture:
    import jax
    import jax.numpy as jnp

    init_with = jax.jit(module.init)

    def init(key: jax.Array) -> Any:
        # As an argument: XLA would take minutes to compute the network of a constant.
        return init_with(key, jnp.full((2, num_samples), 0.5, jnp.float32))

    def logits(variables: Any, x: jax.Array) -> jax.Array:
        result = module.apply(variables, x)
        return cast("jax.Array", result)

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
        sample_rate_hz=entry.sample_rate_hz,
        init=init,
        logits=logits,
        apply_train=apply_train,
    )
