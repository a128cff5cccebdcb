"""A trained classifier as pure functions: what is attacked and evaluated."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from uap_jax.attacks.checks import check_size
from uap_jax.attacks.types import LogitsFn, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier; the registry, bridges, entry points and files give one.

    Attributes:
        logits: `logits(variables, x [B, N]) -> [B, C]` float32, evaluation mode, x in
            the box [0, 1]; a network that takes waveforms in [-1, 1] gets 2 x - 1. One
            stable object, so that new weights recompile nothing.
        variables: Its weights, a pytree of arrays; empty where they are elsewhere.
        num_samples: N, samples of a clip.
        sample_rate_hz: Samples per second that it is made for. None: not stated, which
            only a bridge may leave so; attacks do not need it.
        class_names: The C classes in the order of the logits, by which it is matched
            to a corpus. None: those of the corpus, in its order. A detector's are
            ("no LABEL", "LABEL"), see `models.detectors`.
        threshold: Of multi-label networks: `logits` are scores of independent
            sigmoids, and a label is detected where its probability is above this;
            `detector` makes one of the labels a classifier. None: a classifier.

    Raises:
        ValueError: A number is not an integer above 0, or names repeat.
    """

    logits: LogitsFn
    variables: Variables
    num_samples: int
    sample_rate_hz: int | None
    class_names: tuple[str, ...] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_size("num_samples", self.num_samples)
        if self.sample_rate_hz is not None:
            check_size("sample_rate_hz", self.sample_rate_hz)
        names = self.class_names
        if names is None:
            return
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        is_good = is_list and all(isinstance(name, str) and name for name in names)
        least, words = (2, "two") if self.threshold is None else (1, "one")
        if not is_good or len(set(names)) < max(least, len(names)):
            raise ValueError(
                f"class_names: expected {words} or more different names, got {names!r}"
            )
        object.__setattr__(self, "class_names", tuple(names))

    @functools.cached_property
    def num_classes(self) -> int:
        """C, the number of logits."""
        clip = jax.ShapeDtypeStruct((1, self.num_samples), jnp.float32)
        return jax.eval_shape(self.logits, self.variables, clip).shape[1]
