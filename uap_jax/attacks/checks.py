"""Static mistakes, raised before anything is compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from uap_jax.attacks.types import LogitsFn, Method, Variables
from uap_jax.audio.channels import Channel

T = TypeVar("T")

# Of sizes; shapes and indices are int32.
MAX_SIZE = 2**31 - 1
# Of passes and steps: the history of so many fits a few megabytes.
MAX_STEPS = 10**6
# Of what scales a signal in [0, 1]; float32 does not resolve less in a sample.
_MIN_POSITIVE, _MAX_POSITIVE = 1e-9, 1e9
_MIN_RATE = 1e-6


def check_attack_inputs(
    logits_fn: LogitsFn,
    variables: Variables,
    x: jax.Array,
    labels: jax.Array,
    *,
    target: int | None = None,
) -> None:
    """Checks what every attack takes. Values are checked outside of jit only.

    Raises:
        ValueError: Naming the argument, what was expected and what came.
    """
    if not _is_array(x) or x.ndim != 2 or x.dtype != jnp.float32 or 0 in x.shape:
        raise ValueError(f"x: expected float32 [B, N], got {_describe(x)}")
    if (
        not _is_array(labels)
        or labels.shape != x.shape[:1]
        or labels.dtype != jnp.int32
    ):
        raise ValueError(
            f"labels: expected int32 [{x.shape[0]}], got {_describe(labels)}"
        )
    logits = jax.eval_shape(logits_fn, variables, x[:1])
    is_logits = (
        _is_array(logits)
        and logits.ndim == 2
        and logits.shape[0] == 1
        and logits.shape[1] >= 2
        and jnp.issubdtype(logits.dtype, jnp.floating)
    )
    if not is_logits:
        raise ValueError(
            "logits_fn: expected one float array [1, C] with C >= 2 for one clip, "
            f"got {_describe(logits)}"
        )
    num_classes = logits.shape[1]
    if target is not None and not (_is_int(target) and 0 <= target < num_classes):
        raise ValueError(
            f"target: expected an integer in 0..{num_classes - 1}, got {target!r}"
        )
    _check_range("x", x, 0.0, 1.0)
    _check_range("labels", labels, 0, num_classes - 1)


def check_channels(
    method: Method,
    key: jax.Array,
    channels: tuple[Channel | None, Channel | None],
    num_sound_samples: int,
    num_samples: int,
) -> None:
    """Checks the channels of an attack and the length of its sound.

    Raises:
        ValueError: The method takes none, or what comes out is not a clip's.
    """
    channel, counting_channel = channels
    check_size("num_sound_samples", num_sound_samples)
    if channel is None:
        if counting_channel is not None:
            raise ValueError("counting_channel: expected channel beside it, got none")
        if num_sound_samples != num_samples:
            raise ValueError(
                f"num_sound_samples: expected {num_samples} without a channel, which "
                f"says where a sound lies in a clip, got {num_sound_samples}"
            )
        return
    if method.no_channel:
        raise ValueError(
            f"channel: expected none for {method.name}: {method.no_channel}; penalty "
            "and decoupled take one"
        )
    sound = jax.ShapeDtypeStruct((num_sound_samples,), jnp.float32)
    for name, each in (("channel", channel), ("counting_channel", counting_channel)):
        if each is None:
            continue
        heard = jax.eval_shape(lambda k, s, c=each: c(k, s, num_samples), key, sound)
        if heard.shape != (num_samples,) or heard.dtype != jnp.float32:
            raise ValueError(
                f"{name}: expected float32 [{num_samples}] from it, "
                f"got {_describe(heard)}"
            )


def check_key(key: Any) -> None:
    """Raises `ValueError` unless `key` is one random key, as of `jax.random.key`."""
    is_key = isinstance(key, jax.Array) and (
        (jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0)
        or (key.dtype == jnp.uint32 and key.ndim == 1)
    )
    if not is_key:
        raise ValueError(
            f"key: expected a random key such as jax.random.key(0), "
            f"got {_describe(key)}"
        )


def check_config(config: Any, config_type: type) -> None:
    """Raises `ValueError` unless `config` is of the method's type."""
    if not isinstance(config, config_type):
        raise ValueError(
            f"config: expected a {config_type.__name__}, got {_describe(config)}"
        )


def check_setting(
    name: str, value: Any, expected: str, is_good: Callable[[Any], bool]
) -> None:
    """Raises `ValueError` where a value is known, outside of jit, and not good."""
    if isinstance(value, jax.core.Tracer):
        return
    try:
        good = is_good(value)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raises `ValueError` unless a known value is positive and changes a signal."""
    check_number(name, value, at_least=_MIN_POSITIVE)


def check_number(
    name: str, value: Any, *, at_least: float = 0.0, at_most: float = _MAX_POSITIVE
) -> None:
    """Raises `ValueError` unless a known value is a number in the range."""
    expected = f"a number in [{at_least:g}, {at_most:g}]"
    check_setting(name, value, expected, lambda v: at_least <= v <= at_most)


def check_rate(name: str, value: Any) -> None:
    """Raises `ValueError` unless a known value is a share that float32 tells from 0."""
    check_number(name, value, at_least=_MIN_RATE, at_most=1.0)


def check_size(
    name: str, value: Any, *, at_least: int = 1, at_most: int = MAX_SIZE
) -> None:
    """Raises `ValueError` unless a value is an integer in the range."""
    expected = f"an integer in {at_least}..{at_most}"
    check_setting(
        name, value, expected, lambda n: _is_int(n) and at_least <= n <= at_most
    )


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises `ValueError` unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def as_arrays(config: T) -> T:
    """Numbers as float32, so that Python and NumPy numbers share one program."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), config)


def steps_limit(max_steps: int | None) -> jax.Array:
    """The budget of one `advance` as `[]` int32; None: no limit in practice.

    Raises:
        ValueError: It is less than 1.
    """
    if max_steps is None:
        return jnp.asarray(np.iinfo(np.int32).max, jnp.int32)
    check_size("max_steps", max_steps)
    return jnp.asarray(max_steps, jnp.int32)


def _check_range(name: str, values: jax.Array, low: float, high: float) -> None:
    if isinstance(values, jax.core.Tracer):
        return
    # By NumPy: what is traced around here must not capture it.
    array = np.asarray(values)
    if not np.all((array >= low) & (array <= high)):
        raise ValueError(
            f"{name}: expected values in [{low}, {high}], "
            f"got {np.min(array)}..{np.max(array)}"
        )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_int(value: Any) -> bool:
    # True is an integer to Python.
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _describe(value: Any) -> str:
    if _is_array(value):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]
