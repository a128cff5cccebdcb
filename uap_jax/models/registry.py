"""The victim networks by name."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

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
class ModelSpec:
    """A classifier as pure functions.

    Attributes:
        name: The name in the registry, or of a model of one's own.
        num_classes: C, the number of logits.
        num_samples: N, samples of a clip.
        sample_rate_hz: Samples per second that the network is made for.
        init: `init(key) -> variables`, all collections.
        logits: `logits(variables, x [B, N]) -> [B, C]`, evaluation mode, x in the
            box [0, 1]; one stable object, so new weights recompile nothing.
        apply_train: `apply_train(variables, x, dropout_key) -> logits, statistics`,
            training mode; statistics are the collections that it updates: batch
            statistics, or none where the network keeps none.
    """

    name: str
    num_classes: int
    num_samples: int
    sample_rate_hz: int
    init: Callable[["jax.Array"], Any]
    logits: Callable[[Any, "jax.Array"], "jax.Array"]
    apply_train: Callable[..., tuple["jax.Array", Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class OwnModel:
    """A trained classifier of one's own: what `--model=module:function` returns.

    Attributes:
        logits: `logits(variables, x [B, N]) -> [B, C]` float32, evaluation mode, x in
            the box [0, 1]; a network that takes waveforms in [-1, 1] gets 2 x - 1.
        variables: Its weights, a pytree of arrays; nothing where they are elsewhere.
        num_samples: N, samples of a clip.
        sample_rate_hz: Samples per second that the network is made for.
        class_names: The C classes in the order of the logits; by them it is matched to
            a corpus. None: those of the corpus, in its order.

    Raises:
        ValueError: A number is less than 1, or a class has no name of its own.
    """

    logits: Callable[[Any, "jax.Array"], "jax.Array"]
    variables: Any
    num_samples: int
    sample_rate_hz: int
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for field in ("num_samples", "sample_rate_hz"):
            value = getattr(self, field)
            # True is an integer to Python.
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"{field}: expected an integer of at least 1, got {value!r}"
                )
        names = self.class_names
        if names is None:
            return
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        is_good = is_list and all(isinstance(name, str) and name for name in names)
        if not is_good or len(set(names)) < max(2, len(names)):
            raise ValueError(
                f"class_names: expected two or more different names, got {names!r}"
            )


def create(name: str, *, num_classes: int, num_samples: int | None = None) -> ModelSpec:
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
def _create(name: str, num_classes: int, num_samples: int) -> ModelSpec:
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
) -> ModelSpec:
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

    return ModelSpec(
        name=name,
        num_classes=module.num_classes,
        num_samples=num_samples,
        sample_rate_hz=entry.sample_rate_hz,
        init=init,
        logits=logits,
        apply_train=apply_train,
    )
