"""Functions on NumPy arrays as classifiers inside compiled programs.

A compiled program calls back to Python for the logits and for their gradient, on the
host, wherever it runs itself. The functions must be pure NumPy (or torch, or another
library's): one that calls JAX may wait for the very program that waits for it.
"""

from collections.abc import Callable
from typing import Any

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
    return from_numpy_vjp(
        forward,
        None,
        num_classes=num_classes,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        input_range=input_range,
    )


def from_numpy_vjp(
    forward: Forward,
    vjp: Vjp | None,
    *,
    num_classes: int,
    num_samples: int,
    sample_rate_hz: int | None = None,
    input_range: str = "box",
    name: str = "forward",
    forward_before_vjp: Forward | None = None,
) -> Classifier:
    """Makes a classifier of its logits and their gradient.

    vjp(x, u)_i = sum_c u_ic d f_c(x_i) / d x_i

    Args:
        forward, num_classes, num_samples, sample_rate_hz, input_range: As in
            `from_numpy`.
        vjp: Clips `[B, N]` and cotangents `[B, C]` to `[B, N]`, float32; with
            "waveform" the gradient is with respect to the waveform. None: there is
            none.
        name: What errors call the classifier.
        forward_before_vjp: The same as `forward`, called where `vjp` of the same clips
            is likely to follow; None: `forward`.

    Raises:
        ValueError: A setting is out of its range, or a function fails on probe clips.
    """
    check_size("num_classes", num_classes, at_least=2)
    check_size("num_samples", num_samples)
    check_choice("input_range", input_range, INPUT_RANGES)
    is_waveform = input_range == "waveform"
    sizes = num_classes, num_samples
    logits = _logits_of(forward, vjp, forward_before_vjp or forward, sizes, is_waveform)
    classifier = Classifier(logits, {}, num_samples, sample_rate_hz)
    probes = checks.probe_clips(num_samples)
    probes = 2.0 * probes - 1.0 if is_waveform else probes
    checks.check_classifier(forward, probes, name=name, num_classes=num_classes)
    if vjp is not None:
        checks.check_gradient(vjp, probes, name=name, num_classes=num_classes)
    return classifier


def _logits_of(
    forward: Forward,
    vjp: Vjp | None,
    forward_before_vjp: Forward,
    sizes: tuple[int, int],
    is_waveform: bool,
) -> LogitsFn:
    num_classes, num_samples = sizes

    @jax.custom_vjp
    def classify(x: jax.Array) -> jax.Array:
        return _call(forward, x, width=num_classes, what="logits")

    def classify_before_vjp(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if vjp is None:
            raise ValueError(
                "bridge: expected a classifier with a gradient, got one of from_numpy; "
                "use from_numpy_vjp"
            )
        return _call(forward_before_vjp, x, width=num_classes, what="logits"), x

    def pull_back(x: jax.Array, cotangents: jax.Array) -> tuple[jax.Array]:
        return (_call(vjp, x, cotangents, width=num_samples, what="a gradient"),)

    classify.defvjp(classify_before_vjp, pull_back)

    def logits(variables: Variables, x: jax.Array) -> jax.Array:
        del variables
        if x.ndim != 2 or x.shape[1] != num_samples or x.dtype != jnp.float32:
            raise ValueError(
                f"x: expected float32 [B, {num_samples}], got {x.dtype} {x.shape}"
            )
        return classify(2.0 * x - 1.0 if is_waveform else x)

    return logits


def _call(function: Any, *arrays: jax.Array, width: int, what: str) -> jax.Array:
    """Calls a function of rows on the host, for rows of `width`."""

    def on_host(*arrays: np.ndarray) -> np.ndarray:
        # Batches that vmap has stacked are one batch to the host. A copy: the memory
        # is JAX's, and the function may keep what it gets, or write to it.
        rows = [array.reshape(-1, array.shape[-1]).copy() for array in arrays]
        values = checks.check_array(
            function(*rows), name="bridge", what=what, shape=(len(rows[0]), width)
        )
        return values.reshape(*arrays[0].shape[:-1], width)

    def fill_buffer(context: Any, out: Any, *buffers: Any) -> None:
        del context
        np.asarray(out)[...] = on_host(*map(np.asarray, buffers))

    def return_array(*arrays: jax.Array) -> np.ndarray:
        return np.ascontiguousarray(on_host(*map(np.asarray, arrays)))

    result = jax.ShapeDtypeStruct((*arrays[0].shape[:-1], width), jnp.float32)
    how = "broadcast_all"
    return jax.lax.platform_dependent(
        *arrays,
        # On a CPU `pure_callback` hands over JAX arrays that may wait for the thread
        # that is in the callback.
        cpu=buffer_callback(fill_buffer, result, vmap_method=how),
        default=lambda *x: jax.pure_callback(return_array, result, *x, vmap_method=how),
    )
