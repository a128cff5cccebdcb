"""One attack on several devices: each classifies a part of every batch.

The classifier is told to spread its clips; the compiler does the rest, gradients and
the sum over devices included. So every attack here works unchanged.
"""

import functools
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from uap_jax.attacks.types import LogitsFn, Variables

T = TypeVar("T")
_AXIS = "clips"


def over_devices(
    logits_fn: LogitsFn, devices: Sequence[jax.Device] | None = None
) -> LogitsFn:
    """Returns a classifier that spreads its clips over devices.

    A batch whose size the number of devices does not divide is filled up with zeros.

    Args:
        logits_fn: The classifier.
        devices: Where to; None: all of them, other processes' included.

    Returns:
        The same function for the same arguments, so that nothing is compiled twice.
        Weights and clips must come from `replicated`.
    """
    return _over_devices(logits_fn, _as_tuple(devices))


def replicated(tree: T, devices: Sequence[jax.Device] | None = None) -> T:
    """Returns arrays, such as weights, clips and keys, with a copy on every device.

    Args:
        tree: A pytree of arrays; with several processes, equal in each.
        devices: As for `over_devices`.
    """
    sharding = _sharding(_as_tuple(devices), PartitionSpec())

    def place(leaf: jax.Array) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # What lies on one device cannot go to those of other processes by itself.
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(place, tree)


@functools.cache
def _over_devices(logits_fn: LogitsFn, devices: tuple[jax.Device, ...]) -> LogitsFn:
    by_clip = _sharding(devices, PartitionSpec(_AXIS))

    def spread(variables: Variables, x: jax.Array) -> jax.Array:
        num_missing = -x.shape[0] % len(devices)
        filled = jnp.pad(x, ((0, num_missing), (0, 0)))
        filled = jax.lax.with_sharding_constraint(filled, by_clip)
        return logits_fn(variables, filled)[: x.shape[0]]

    return spread


@functools.cache
def _sharding(devices: tuple[jax.Device, ...], spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.asarray(devices), (_AXIS,)), spec)


def _as_tuple(devices: Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    return tuple(jax.devices() if devices is None else devices)
