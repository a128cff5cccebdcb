"""Channels: what happens to a sound between where it is played and the microphone.

A channel maps a sound `[P]` to what reaches a clip, `[N]`, with random numbers of its
own: `channel(key, sound, num_samples) -> [N]`. It is a pytree whose numbers and impulse
responses are leaves, so that other values recompile nothing, and it is vmapped over
keys to draw anew for every clip.

`moment`, `looped` and `once` place the sound in time; `rooms`, `band`, `gain` and
`ambient` act on what was placed; `compose` joins one of the former and any of the
latter. What filters is given the sound before and after the clip too, so that a room
still rings with what was played before the clip began.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.signal

# Pass bands in Hz.
BANDS = {"telephone": (300.0, 3400.0), "wideband": (50.0, 7000.0)}
# Seconds to either side of a band filter's centre: its edges are 100 Hz wide.
_HALF_FILTER_S = 0.016


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
        past, future: Samples before and after the clip that another one uses.
    """

    numbers: Any
    act: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})
    places: bool = dataclasses.field(default=False, metadata={"static": True})
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


def looped(shift: int | jax.Array = 0) -> Channel:
    """The sound repeated without a gap, from a fixed moment on.

    y[n] = s[(n + shift) mod P]: it began `shift` samples before the clip.

    Args:
        shift: `[]` samples.
    """
    return Channel(jnp.asarray(shift, jnp.int32), _looped, places=True)


def moment() -> Channel:
    """The sound repeated without a gap, begun at any moment before the clip.

    y[n] = s[(n + tau) mod P], tau uniform on 0..P-1.
    """
    return Channel((), _at_any_moment, places=True)


def once(start: int | jax.Array = 0, latest: int | jax.Array | None = None) -> Channel:
    """The sound played once, with silence around it.

    y[n] = s[n - start] for start <= n < start + P, else 0.

    Args:
        start: `[]` samples from the beginning of the clip; negative: before it.
        latest: The start is drawn from start..latest. None: it is `start`.
    """
    bounds = jnp.asarray([start, start if latest is None else latest], jnp.int32)
    return Channel(bounds, _once, places=True)


def rooms(responses: np.ndarray | jax.Array, *, direct: int = 0) -> Channel:
    """A room of a bank, drawn for each clip: y = h_r * s.

    Args:
        responses: `[R, K]` impulse responses, the direct sound of all at one sample.
        direct: That sample, which becomes time 0: the sound is not delayed.

    Raises:
        ValueError: The bank is not `[R, K]` or has no such sample.
    """
    bank = jnp.asarray(responses, jnp.float32)
    if bank.ndim != 2 or 0 in bank.shape or not 0 <= direct < bank.shape[1]:
        raise ValueError(
            f"responses: expected [R, K] with the direct sound at {direct}, "
            f"got {bank.shape}"
        )
    past, future = bank.shape[1] - 1 - direct, direct
    return Channel(bank, _in_a_room, past=past, future=future)


def band(low_hz: float, high_hz: float, *, sample_rate_hz: int) -> Channel:
    """A band-pass filter without delay (linear phase, centred).

    Args:
        low_hz: Lower edge, at which half the amplitude is left; 0: none.
        high_hz: Upper edge; from half the sample rate on: none.
        sample_rate_hz: Of the clips.

    Raises:
        ValueError: The band is empty.
    """
    if not 0 <= low_hz < min(high_hz, sample_rate_hz / 2):
        raise ValueError(
            f"low_hz, high_hz: expected 0 <= low < high, low below "
            f"{sample_rate_hz / 2:g}, got {low_hz:g} and {high_hz:g}"
        )
    half = max(1, round(_HALF_FILTER_S * sample_rate_hz))
    taps = np.zeros(2 * half + 1)
    taps[half] = 1.0
    has_high = high_hz < sample_rate_hz / 2
    edges = [*([low_hz] if low_hz else []), *([high_hz] if has_high else [])]
    if edges:
        passes_zero = not low_hz
        taps = scipy.signal.firwin(
            2 * half + 1, edges, pass_zero=passes_zero, fs=sample_rate_hz
        )
    return rooms(taps[None], direct=half)


def gain(
    low_db: float | jax.Array, high_db: float | jax.Array | None = None
) -> Channel:
    """A level that differs from clip to clip: y = 10^(g / 20) s, g uniform.

    Args:
        low_db: Least g.
        high_db: Largest g. None: it is `low_db`.
    """
    high_db = low_db if high_db is None else high_db
    return Channel(jnp.asarray([low_db, high_db], jnp.float32), _gain)


def ambient(level_db: float | jax.Array) -> Channel:
    """White Gaussian noise beside the sound, new for each clip.

    Args:
        level_db: `[]` its RMS in dB of full scale.
    """
    return Channel(jnp.asarray(level_db, jnp.float32), _ambient)


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
        channels = (once(), *channels)
    return Channel(channels, _composed, places=True)


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


def _looped(
    channel: Channel, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    return _repeated_from(channel.numbers - past, sound, num_samples)


def _at_any_moment(
    channel: Channel, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    shift = jax.random.randint(key, (), 0, sound.shape[0], jnp.int32)
    return _repeated_from(shift - past, sound, num_samples)


def _repeated_from(shift: jax.Array, sound: jax.Array, num_samples: int) -> jax.Array:
    period = sound.shape[0]
    repeated = jnp.tile(sound, -(-num_samples // period) + 1)
    return jax.lax.dynamic_slice(repeated, (shift % period,), (num_samples,))


def _once(
    channel: Channel, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    earliest, latest = channel.numbers
    start = past + jax.random.randint(key, (), earliest, latest + 1, jnp.int32)
    # Beyond either end nothing of the sound is left.
    first = jnp.clip(num_samples - start, 0, num_samples + sound.shape[0])
    padded = jnp.pad(sound, num_samples)
    return jax.lax.dynamic_slice(padded, (first,), (num_samples,))


def _in_a_room(channel: Channel, key: jax.Array, sound: jax.Array) -> jax.Array:
    bank, direct = channel.numbers, channel.future
    num_rooms, num_taps = bank.shape
    response = bank[jax.random.randint(key, (), 0, num_rooms, jnp.int32)]
    num_samples = sound.shape[0] - num_taps + 1
    straight = jax.lax.slice_in_dim(sound, channel.past, channel.past + num_samples)
    # Apart from the rest, so that a response of one 1 changes no bit.
    rest = response.at[direct].set(0.0)
    length = scipy.fft.next_fast_len(sound.shape[0], real=True)
    spectrum = jnp.fft.rfft(sound, length) * jnp.fft.rfft(rest, length)
    echoes = jnp.fft.irfft(spectrum, length)[num_taps - 1 : sound.shape[0]]
    return response[direct] * straight + echoes


def _gain(channel: Channel, key: jax.Array, sound: jax.Array) -> jax.Array:
    low_db, high_db = channel.numbers
    gain_db = low_db + (high_db - low_db) * jax.random.uniform(key)
    return 10 ** (gain_db / 20) * sound


def _ambient(channel: Channel, key: jax.Array, sound: jax.Array) -> jax.Array:
    rms = 10 ** (channel.numbers / 20)
    return sound + rms * jax.random.normal(key, sound.shape, jnp.float32)


def _composed(
    channel: Channel, key: jax.Array, sound: jax.Array, num_samples: int, *, past: int
) -> jax.Array:
    place, *others = channel.numbers
    keys = jax.random.split(key, 1 + len(others))
    before = sum(other.past for other in others)
    length = before + num_samples + sum(other.future for other in others)
    sound = place.act(place, keys[0], sound, length, past=past + before)
    for index, other in enumerate(others, start=1):
        sound = other.act(other, keys[index], sound)
    return sound
