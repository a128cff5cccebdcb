"""What a classifier must give before it is attacked.

Mistakes that an attack would not notice: probabilities instead of logits, layers in
training mode, clips whose logits depend on other clips.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from uap_jax.models.classifier import Classifier

# Relative to the largest logit; half-precision arithmetic inside a network stays below.
_SAME_LOGITS_TOLERANCE = 0.01


class ClassifierError(ValueError):
    """A classifier is not what it must be; the text says which and why."""


def check_logits(classifier: Classifier, x: jax.Array) -> None:
    """Checks a classifier on clips `[B, N]` in the box, as bridges are on probes.

    Raises:
        ValueError: The logits are not finite, or are probabilities.
    """
    check_outputs(
        np.asarray(classifier.logits(classifier.variables, x)),
        name="classifier",
        shape=(x.shape[0], classifier.num_classes),
    )


def check_outputs(outputs: Any, *, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Returns logits `[B, C]` of a classifier that errors call `name`.

    Raises:
        ValueError: They are not finite float32 of this shape, or are probabilities.
    """
    logits = check_array(outputs, name=name, what="logits", shape=shape)
    if not np.all(np.isfinite(logits)):
        raise ClassifierError(f"{name}: expected finite logits, got NaN or infinity")
    sums_to_one = np.abs(np.sum(logits, axis=1) - 1.0) < 1e-3
    if np.all(logits >= 0.0) and np.all(sums_to_one):
        raise ClassifierError(
            f"{name}: expected logits, got rows that are non-negative and sum to one; "
            "leave out the softmax at the end"
        )
    return logits


def check_array(
    array: Any, *, name: str, what: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns what a function on NumPy arrays returned.

    Raises:
        ValueError: It is no float32 array of this shape.
    """
    expected = f"{name}: expected {what} as a NumPy array float32 {shape}, got"
    if not isinstance(array, np.ndarray):
        raise ClassifierError(f"{expected} {type(array).__name__}")
    if array.shape != shape or array.dtype != np.float32:
        raise ClassifierError(f"{expected} {array.dtype} {array.shape}")
    return array


def check_shape(outputs: Any, num_clips: int) -> int:
    """Returns C of logits from `jax.eval_shape`.

    Raises:
        ValueError: They are not one array float32 `[num_clips, C]`, C at least 2.
    """
    got = type(outputs).__name__
    if isinstance(outputs, jax.ShapeDtypeStruct):
        got = f"{outputs.dtype} {list(outputs.shape)}"
        is_matrix = outputs.ndim == 2 and outputs.dtype == np.float32
        if is_matrix and outputs.shape[0] == num_clips and outputs.shape[1] >= 2:
            return outputs.shape[1]
    raise ClassifierError(
        f"expected logits float32 [{num_clips}, C], C at least 2, for {num_clips} "
        f"clips, got {got}"
    )


def probe_clips(num_samples: int) -> np.ndarray:
    """Returns silence, quiet noise and full-scale noise, `[3, N]` in the box."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, num_samples))
    levels = np.array([[0.02], [1.0]])
    silence = np.zeros((1, num_samples))
    return (0.5 + np.concatenate([silence, levels * noise])).astype(np.float32)


def check_classifier(
    forward: Callable[[np.ndarray], np.ndarray],
    probes: np.ndarray,
    *,
    name: str,
    num_classes: int,
) -> None:
    """Checks `forward`, `[B, N]` to `[B, C]`, on probe clips `[B, N]`.

    Raises:
        ValueError: It cannot take the clips, alone or several at once; its outputs are
            no logits; or the logits of a clip depend on more than the clip.
    """

    def logits_of(clips: np.ndarray) -> np.ndarray:
        outputs = _run(lambda: forward(clips.copy()), clips, name=name, what="logits")
        return check_outputs(outputs, name=name, shape=(len(clips), num_classes))

    among_others = logits_of(probes)[-1:]
    alone = logits_of(probes[-1:])
    tolerance = _SAME_LOGITS_TOLERANCE * float(np.max(np.abs(among_others)))
    difference = float(np.max(np.abs(among_others - alone)))
    if difference > tolerance:
        raise ClassifierError(
            f"{name}: expected logits that depend on the clip alone, got logits that "
            f"differ by {difference:.3g} when the clip is alone and among others; is a "
            "layer in training mode?"
        )


def check_gradient(
    vjp: Callable[[np.ndarray, np.ndarray], np.ndarray],
    probes: np.ndarray,
    *,
    name: str,
    num_classes: int,
) -> None:
    """Checks `vjp`, clips `[B, N]` and cotangents `[B, C]` to `[B, N]`, on probes.

    Raises:
        ValueError: There is no gradient, or one of another shape or dtype.
    """
    cotangents = np.eye(num_classes, dtype=np.float32)
    cotangents = cotangents[np.arange(len(probes)) % num_classes]
    what = "a gradient (vjp)"
    gradient = _run(
        lambda: vjp(probes.copy(), cotangents), probes, name=name, what=what
    )
    check_array(gradient, name=name, what=what, shape=probes.shape)


def _run(
    function: Callable[[], Any], clips: np.ndarray, *, name: str, what: str
) -> Any:
    try:
        return function()
    except ClassifierError:
        raise
    # A foreign classifier may raise anything for clips that it cannot take.
    except Exception as error:
        raise ClassifierError(
            f"{name}: expected {what} for {len(clips)} clips of {clips.shape[1]} "
            f"samples, got {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """Returns an exception's type and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
