"""What each channel does to a sound: one function for each row of the table.

A function that places takes `(channel, key, sound [P], num_samples, past=)`, any other
`(channel, key, sound [past + num_samples + future])`; both return `[num_samples]`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from uap_jax.audio.channels.filters import fast_length


def looped(
    channel: Any, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    return _repeated_from(channel.numbers - past, sound, num_samples)


def at_any_moment(
    channel: Any, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    shift = jax.random.randint(key, (), 0, sound.shape[0], jnp.int32)
    return _repeated_from(shift - past, sound, num_samples)


def once(
    channel: Any, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    earliest, latest = channel.numbers
    start = past + jax.random.randint(key, (), earliest, latest + 1, jnp.int32)
    # Beyond either end nothing of the sound is left.
    first = jnp.clip(num_samples - start, 0, num_samples + sound.shape[0])
    padded = jnp.pad(sound, num_samples)
    return jax.lax.dynamic_slice(padded, (first,), (num_samples,))


def _repeated_from(shift: jax.Array, sound: jax.Array, num_samples: int) -> jax.Array:
    num_periods = -(-num_samples // sound.shape[0])
    return jnp.tile(_turned(sound, shift), num_periods)[:num_samples]


@jax.custom_vjp
def _turned(sound: jax.Array, shift: jax.Array) -> jax.Array:
    """s[(n + shift) mod P]."""
    period = sound.shape[0]
    twice = jnp.concatenate([sound, sound])
    return jax.lax.dynamic_slice(twice, (shift % period,), (period,))


# The adjoint turns back. What JAX derives from a slice adds sample by sample.
_turned.defvjp(
    lambda sound, shift: (_turned(sound, shift), shift),
    lambda shift, u: (_turned(u, -shift), None),
)


def in_a_room(channel: Any, key: jax.Array, sound: jax.Array) -> jax.Array:
    """Of a stretch of time; what wraps around is cut off."""
    num_samples = sound.shape[0]
    length = fast_length(num_samples)
    padded = jnp.pad(sound, (0, length - num_samples))
    heard = channel.numbers.draw(key, channel.future, length)(padded)
    return heard[channel.past : num_samples - channel.future]


def gain(channel: Any, key: jax.Array, sound: jax.Array) -> jax.Array:
    low_db, high_db = channel.numbers
    gain_db = low_db + (high_db - low_db) * jax.random.uniform(key)
    return 10 ** (gain_db / 20) * sound


def ambient(channel: Any, key: jax.Array, sound: jax.Array) -> jax.Array:
    rms = 10 ** (channel.numbers / 20)
    return sound + rms * jax.random.normal(key, sound.shape, jnp.float32)
