"""Channels as data, one after the other, and ready for sounds of one length."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uap_jax.audio.channels import acts, filters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Channel:
    """A channel as data: a function and the numbers that it uses.

    Attributes:
        numbers: A pytree of arrays, the leaves.
        act: A function of a module. Of a channel that places:
            `(channel, key, sound [P], num_samples, past=) -> [num_samples]`, of which
            `past` samples come before the clip. Of any other:
            `(channel, key, sound [past + num_samples + future]) -> [num_samples]`.
        places: Whether it decides where in time the sound lies.
        repeats: Of one that places: whether the sound is repeated, or else has silence
            around it; None: neither, so that filters act on what was placed.
        past, future: Samples before and after the clip that another one uses.
    """

    numbers: Any
    act: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})
    places: bool = dataclasses.field(default=False, metadata={"static": True})
    repeats: bool | None = dataclasses.field(default=None, metadata={"static": True})
    past: int = dataclasses.field(default=0, metadata={"static": True})
    future: int = dataclasses.field(default=0, metadata={"static": True})

    def __call__(self, key: jax.Array, sound: jax.Array, num_samples: int) -> jax.Array:
        """What of a sound reaches a clip.

        Args:
            key: Random key; consumed.
            sound: `[P]`, any P.
            num_samples: N.

        Returns:
            `[N]`.
        """
        if self.places:
            return self.act(self, key, sound, num_samples, past=0)
        return compose(self)(key, sound, num_samples)


def received(
    channel: Channel, keys: jax.Array, sound: jax.Array, num_samples: int
) -> jax.Array:
    """What of a sound reaches each of several clips.

    Args:
        channel: The channel.
        keys: `[B]` random keys, one a clip; consumed.
        sound: `[P]`; or `[B, P]`, one for each clip.
        num_samples: N.

    Returns:
        `[B, N]`.
    """
    axis = None if sound.ndim == 1 else 0
    return jax.vmap(lambda key, s: channel(key, s, num_samples), (0, axis))(keys, sound)


class _Parts(NamedTuple):
    place: Channel
    filters: tuple[Channel, ...]  # act on the sound, before it is placed
    others: tuple[Channel, ...]  # act on what was placed


def compose(*channels: Channel) -> Channel:
    """Channels one after the other; where none places the sound, it is `once`.

    Raises:
        ValueError: A channel after the first places the sound.
    """
    if any(channel.places for channel in channels[1:]):
        raise ValueError(
            "channels: expected the one that places the sound first (moment, looped, "
            "once), got it after others"
        )
    if not (channels and channels[0].places):
        bounds = jnp.zeros(2, jnp.int32)
        channels = (Channel(bounds, acts.once, places=True, repeats=False), *channels)
    place, *others = channels
    if place.act is _composed:
        place, others = place.numbers.place, [*_after(place.numbers), *others]
    # Filters commute with repeating, delaying and gains, but not with noise.
    num_linear = 0
    if place.repeats is not None:
        is_linear = [other.act in (acts.in_a_room, acts.gain) for other in others]
        num_linear = [*is_linear, False].index(False)
    first = others[:num_linear]
    parts = _Parts(
        place,
        tuple(other for other in first if other.act is acts.in_a_room),
        (*(other for other in first if other.act is acts.gain), *others[num_linear:]),
    )
    return Channel(parts, _composed, places=True)


def prepared(channel: Any, num_sound_samples: int) -> Any:
    """The same channel with the spectra of its filters, for sounds of one length.

    Args:
        channel: Any; what is no `Channel` stays as it is.
        num_sound_samples: P, of the sounds that it is for; others pass it too.
    """
    if not isinstance(channel, Channel):
        return channel
    if not channel.places:
        channel = compose(channel)
    if channel.act is not _composed:
        return channel
    parts = channel.numbers
    length = _length(parts, num_sound_samples)
    made = tuple(
        dataclasses.replace(room, numbers=room.numbers.ready(room.future, length))
        for room in parts.filters
    )
    return dataclasses.replace(channel, numbers=parts._replace(filters=made))


def _composed(
    channel: Channel, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    parts = channel.numbers
    place, others = parts.place, parts.others
    key, *keys = jax.random.split(key, 1 + len(_after(parts)))
    if parts.filters:
        sound, early = _filtered(parts, keys, sound)
        past -= early
    before = sum(other.past for other in others)
    length = before + num_samples + sum(other.future for other in others)
    sound = place.act(place, key, sound, length, past=past + before)
    for other, key in zip(others, keys[len(parts.filters) :], strict=True):
        sound = other.act(other, key, sound)
    return sound


def _filtered(
    parts: _Parts, keys: Sequence[jax.Array], sound: jax.Array
) -> tuple[jax.Array, int]:
    """The sound `[L]` after all filters, and how many samples earlier it begins."""
    length = _length(parts, sound.shape[0])
    drawn = [
        room.numbers.draw(key, room.future, length)
        for room, key in zip(parts.filters, keys, strict=False)
    ]
    # Around a sound that is played once there is room for what the filters add.
    early = 0 if parts.place.repeats else sum(room.future for room in parts.filters)
    sound = jnp.pad(sound, (early, length - sound.shape[0] - early))
    return functools.reduce(filters.in_series, drawn)(sound), early


def _length(parts: _Parts, period: int) -> int:
    """L of the filters for a sound `[P]`: P where it repeats, else room for all."""
    if parts.place.repeats:
        return period
    added = sum(room.past + room.future for room in parts.filters)
    return filters.fast_length(period + added)


def _after(parts: _Parts) -> tuple[Channel, ...]:
    """What acts on the sound, in an order in which it may."""
    return parts.filters + parts.others
