"""Functions on NumPy arrays as classifiers inside compiled programs.

A compiled program calls back to Python for the logits and for their gradient, on the
host, wherever it runs itself. The functions must be pure NumPy (or torch, or what not):
one that calls JAX may wait for the very program that waits for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from uap_jax.attacks.checks import check_choice, check_size
from uap_jax.attacks.types import LogitsFn, Variables
from uap_jax.bridges import checks
from uap_jax.models.classifier import Classifier

# What a classifier takes: clips in the box as they are, or 2 x - 1 in [-1, 1].
INPUT_RANGES = ("box", "waveform")

Forward = Callable[[np.ndarray], np.ndarray]
Vjp = Callable[[np.ndarray, np.ndarray], np.ndarray]


class OnHost(NamedTuple):
    """A classifier as functions on float32 arrays, `[B, N]` to `[B, C]`.

    They own what they are given.
    """

    forward: Forward
    # Clips [B, N] and cotangents [B, C] to [B, N]; None: there is no gradient.
    vjp: Vjp | None
    # What `forward` gives, where `vjp` of the same clips is likely to follow.
    forward_before_vjp: Forward


def from_numpy(
    forward: Forward,
    *,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
) -> Classifier:
    """Makes a classifier without a gradient, to evaluate perturbations on.

    Args:
        forward: Clips `[B, N]` float32 to logits `[B, C]` float32, for any B; a pure
            function on NumPy arrays, which it may keep.
        num_classes: C.
        num_samples: N.
        sample_rate_hz: Samples per second that the classifier is made for.
        input_range: "box": `forward` gets clips in [0, 1]; "waveform": in [-1, 1].

    Returns:
        The classifier; asking for its gradient raises `ValueError` before compilation.

    Raises:
        ValueError: A setting is out of its range, or `forward` fails on probe clips.
    """
    return make_classifier(
        OnHost(forward, None, forward),
        name="forward",
        num_classes=num_classes,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        input_range=input_range,
    )


def from_numpy_vjp(
    forward: Forward,
    vjp: Vjp,
    *,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
) -> Classifier:
    """Makes a classifier of its logits and their gradient.

    vjp(x, u)_i = sum_c u_ic d f_c(x_i) / d x_i

    Args:
        forward: As for `from_numpy`.
        vjp: Clips `[B, N]` and cotangents `[B, C]` to `[B, N]`, float32 all; with
            "waveform" the gradient is with respect to the waveform.
        num_classes, num_samples, sample_rate_hz, input_range: As for `from_numpy`.

    Returns:
        The classifier.

    Raises:
        ValueError: A setting is out of its range, or a function fails on probe clips.
    """
    return make_classifier(
        OnHost(forward, vjp, forward),
        name="forward",
        num_classes=num_classes,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        input_range=input_range,
    )


def make_classifier(
    classifier: OnHost,
    *,
    name: str,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None,
    input_range: str,
) -> Classifier:
    """Checks a classifier on probe clips and returns it.

    Args:
        classifier: On what `input_range` says.
        name: What the caller knows it by.
        num_classes, num_samples, sample_rate_hz, input_range: As for `from_numpy`.

    Raises:
        ValueError: A setting is out of its range, or the classifier fails.
    """
    check_size("num_classes", num_classes, at_least=2)
    check_size("num_samples", num_samples)
    if sample_rate_hz is not None:
        check_size("sample_rate_hz", sample_rate_hz)
    check_choice("input_range", input_range, INPUT_RANGES)
    probes = checks.probe_clips(num_samples)
    if input_range == "waveform":
        probes = 2.0 * probes - 1.0
    checks.check_classifier(
        classifier.forward, probes, name=name, num_classes=num_classes
    )
    if classifier.vjp is not None:
        checks.check_gradient(
            classifier.vjp, probes, name=name, num_classes=num_classes
        )
    return Classifier(
        logits=_logits_of(classifier, num_classes, num_samples, input_range),
        variables={},
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
    )


def _logits_of(
    classifier: OnHost, num_classes: int, num_samples: int, input_range: str
) -> LogitsFn:
    def call_forward(function: Forward, x: jax.Array) -> jax.Array:
        return _call(function, x, width=num_classes, what="logits")

    @jax.custom_vjp
    def classify(x: jax.Array) -> jax.Array:
        return call_forward(classifier.forward, x)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if classifier.vjp is None:
            raise ValueError(
                "bridge: expected a classifier with a gradient, got one of from_numpy; "
                "use from_numpy_vjp"
            )
        return call_forward(classifier.forward_before_vjp, x), x

    def backward(x: jax.Array, cotangents: jax.Array) -> tuple[jax.Array]:
        gradient = _call(
            classifier.vjp, x, cotangents, width=num_samples, what="a gradient"
        )
        return (gradient,)

    classify.defvjp(forward, backward)

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        del variables
        if x.ndim != 2 or x.shape[1] != num_samples or x.dtype != jnp.float32:
            raise ValueError(
                f"x: expected float32 [B, {num_samples}], got {x.dtype} {x.shape}"
            )
        return classify(2.0 * x - 1.0 if input_range == "waveform" else x)

    return logits


def _call(function: Any, *arrays: jax.Array, width: int, what: str) -> jax.Array:
    """Calls a function of rows on the host, for rows of `width`."""

    def on_host(*arrays: np.ndarray) -> np.ndarray:
        # Batches that vmap has stacked are one batch to the host. A copy: the memory
        # is JAX's, and the function may keep what it gets, or write to it.
        rows = [array.reshape(-1, array.shape[-1]).copy() for array in arrays]
        found = checks.check_array(
            function(*rows), name="bridge", what=what, shape=(len(rows[0]), width)
        )
        return found.reshape(*arrays[0].shape[:-1], width)

    def fill_buffer(context: Any, out: Any, *buffers: Any) -> None:
        del context
        np.asarray(out)[...] = on_host(*map(np.asarray, buffers))

    def return_array(*arrays: jax.Array) -> np.ndarray:
        return np.ascontiguousarray(on_host(*map(np.asarray, arrays)))

    shape = (*arrays[0].shape[:-1], width)
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    how = "broadcast_all"
    return jax.lax.platform_dependent(
        *arrays,
        # On a processor `pure_callback` hands over JAX arrays that may wait for the
        # thread that is in the callback.
        cpu=buffer_callback(fill_buffer, result, vmap_method=how),
        default=lambda *x: jax.pure_callback(return_array, result, *x, vmap_method=how),
    )
