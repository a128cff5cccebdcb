"""Channels: what happens to a sound between where it is played and the microphone.

A channel maps a sound `[P]` to what reaches a clip, `[N]`, with random numbers of its
own: `channel(key, sound, num_samples) -> [N]`. It is a pytree whose numbers and impulse
responses are leaves, so that other values recompile nothing, and it is vmapped over
keys to draw anew for every clip.

`moment`, `looped` and `once` place the sound in time; `rooms`, `band`, `gain` and
`ambient` act on what was placed; `compose` joins one of the former and any of the
latter. A room still rings with what was played before the clip began: a filter acts on
the whole sound, which is then placed; or, after noise, on what was placed and on what
comes before and after the clip.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal

from uap_jax.audio.channels import acts
from uap_jax.audio.channels.channel import Channel, compose, prepared, received
from uap_jax.audio.channels.filters import Bank

__all__ = [
    "BANDS",
    "Channel",
    "ambient",
    "band",
    "compose",
    "gain",
    "looped",
    "moment",
    "once",
    "prepared",
    "received",
    "rooms",
]

# Pass bands in Hz.
BANDS = {"telephone": (300.0, 3400.0), "wideband": (50.0, 7000.0)}
# Seconds to either side of a band filter's centre: its edges are 100 Hz wide.
_HALF_FILTER_S = 0.016


def looped(shift: int | jax.Array = 0) -> Channel:
    """The sound repeated without a gap, from a fixed moment on.

    y[n] = s[(n + shift) mod P]: it began `shift` samples before the clip.

    Args:
        shift: `[]` samples.
    """
    return Channel(
        jnp.asarray(shift, jnp.int32), acts.looped, places=True, repeats=True
    )


def moment() -> Channel:
    """The sound repeated without a gap, begun at any moment before the clip.

    y[n] = s[(n + tau) mod P], tau uniform on 0..P-1.
    """
    return Channel((), acts.at_any_moment, places=True, repeats=True)


def once(start: int | jax.Array = 0, latest: int | jax.Array | None = None) -> Channel:
    """The sound played once, with silence around it.

    y[n] = s[n - start] for start <= n < start + P, else 0.

    Args:
        start: `[]` samples from the beginning of the clip; negative: before it.
        latest: The start is drawn from start..latest. None: it is `start`.
    """
    bounds = jnp.asarray([start, start if latest is None else latest], jnp.int32)
    return Channel(bounds, acts.once, places=True, repeats=False)


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
    return Channel(Bank(bank), acts.in_a_room, past=past, future=future)


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
    return Channel(jnp.asarray([low_db, high_db], jnp.float32), acts.gain)


def ambient(level_db: float | jax.Array) -> Channel:
    """White Gaussian noise beside the sound, new for each clip.

    Args:
        level_db: `[]` its RMS in dB of full scale.
    """
    return Channel(jnp.asarray(level_db, jnp.float32), acts.ambient)
