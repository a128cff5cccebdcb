"""How a sound arrives at recordings: from a moment on, in a room, after a channel."""

import functools
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from uap_jax.audio import channels
from uap_jax.audio.channels import Channel
from uap_jax.audio.placement import Placement, parse_placement
from uap_jax.console import Console
from uap_jax.data.rooms import SIMULATED, Rooms, named_responses, simulated_rooms
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.files import expanded
from uap_jax.runs.channels.settings import PLACES, Part, channel_of_part, parse_channel

RANDOM = "random"


class Arrival(NamedTuple):
    """What recordings have in common; what is random is drawn for each of them.

    Attributes:
        placement: Where the sound lies, unless the moment is random.
        is_random: Whether the looped sound starts at a random moment.
        parts: What it passes then.
        rooms: Impulse responses by name, `[K]` each.
        direct: Their sample of the direct sound.
        sample_rate_hz: Of the sound and of the responses.
        seed: Of all draws.
    """

    placement: Placement
    is_random: bool
    parts: tuple[Part, ...]
    rooms: dict[str, np.ndarray]
    direct: int
    sample_rate_hz: int
    seed: int


class Drawn(NamedTuple):
    """How the sound arrives at one recording, and the same in words."""

    placement: Placement
    channel: Channel | None  # at the sound's rate; None where nothing but time counts
    key: jax.Array
    words: tuple[str, ...]


def parse_arrival(
    *,
    placement: str | None = None,
    moment: str | None = None,
    channel: str | None = None,
    rooms: str | None = None,
    seed: int = 0,
    sample_rate_hz: int,
    cache_dir: Path,
    console: Console,
) -> Arrival:
    """Parses the flags of `apply` that say how the sound arrives.

    Args:
        placement: See `parse_placement`; None: "tile".
        moment: Seconds that the looped sound began before a recording, or "random".
        channel: As of `parse_channel`; its moment is random.
        rooms: "simulated", a response, or a folder of them.
        seed: Of what is random.
        sample_rate_hz: Of the sound.
        cache_dir: Where simulated rooms are cached.
        console: Told of the progress.

    Raises:
        UsageError: One of them cannot be used, or they contradict each other.
    """
    parts = () if channel is None else parse_channel(channel)
    named = [part.name for part in parts if part.name in PLACES]
    given = [f"--placement={placement}"] * (placement is not None)
    given += [f"--moment={moment}"] * (moment is not None)
    given += [f"--channel={name}" for name in named]
    if len(given) > 1:
        raise UsageError(
            f"{given[0].partition('=')[0]}: {' and '.join(given)} both say when the "
            "sound starts; expected one of them"
        )
    with user_mistakes():
        where = parse_placement(placement or "tile")
    if named == ["once"]:
        where = Placement(repeats=False)
    is_random = moment == RANDOM or named == ["moment"]
    if moment is not None and not is_random:
        where = Placement(shift_s=-_seconds(moment))
    parts = tuple(part for part in parts if part.name not in PLACES)
    if rooms is not None and all(part.name != "rooms" for part in parts):
        parts = (Part("rooms"), *parts)
    if any(part.name == "rooms" for part in parts):
        responses, direct = _responses(
            rooms or SIMULATED, sample_rate_hz, cache_dir, console
        )
    else:
        responses, direct = {}, 0
    for part in parts:
        if part.name != "rooms":
            channel_of_part(part, sample_rate_hz=sample_rate_hz)
    return Arrival(where, is_random, parts, responses, direct, sample_rate_hz, seed)


def unseen_rooms(bank: Rooms) -> dict[str, np.ndarray]:
    """Returns the responses of a bank that no attack uses, by name."""
    count = len(bank.test)
    names = [f"{index} of {count} unseen ones" for index in range(1, count + 1)]
    if len(bank.rt60_s):
        names = [
            f"{name} (simulated, RT60 {rt60_s:.2f} s)"
            for name, rt60_s in zip(names, bank.rt60_s[-count:], strict=True)
        ]
    return dict(zip(names, bank.test, strict=True))


def draw(arrival: Arrival, name: str, *, num_sound_samples: int) -> Drawn:
    """Draws how the sound arrives at a recording; the same for the same name."""
    seed = [arrival.seed, zlib.crc32(name.encode(errors="surrogateescape"))]
    rng = np.random.default_rng(seed)
    where, words = arrival.placement, []
    if arrival.is_random:
        shift = int(rng.integers(num_sound_samples))
        where = Placement(shift_s=-shift / arrival.sample_rate_hz)
    if arrival.is_random or where.shift_s < 0:
        words.append(f"begun {-where.shift_s:.4g} s before the recording")
    made = []
    for part in arrival.parts:
        if part.name == "rooms":
            room = str(rng.choice(list(arrival.rooms)))
            response = arrival.rooms[room]
            made.append(channels.rooms(response[None], direct=arrival.direct))
            words.append(f"in room {room}")
            continue
        numbers = part.numbers
        if part.name == "gain":
            numbers = (float(rng.uniform(numbers[0], numbers[-1])),)
        drawn = Part(part.name, numbers)
        made.append(channel_of_part(drawn, sample_rate_hz=arrival.sample_rate_hz))
        words.append(_describe(drawn))
    key = jax.random.key(int(rng.integers(2**31)))
    if not made:
        return Drawn(where, None, key, tuple(words))
    shift = -round(where.shift_s * arrival.sample_rate_hz)
    starts = channels.looped(shift) if where.repeats else channels.once()
    return Drawn(where, channels.compose(starts, *made), key, tuple(words))


def received(drawn: Drawn, sound: np.ndarray, num_samples: int) -> np.ndarray:
    """Returns what of a sound `[P]` reaches a recording, `[num_samples]`."""
    if drawn.channel is None:
        raise ValueError("drawn: expected one with a channel")
    # Lengths twice as long as another, so that few programs are compiled.
    length = 1 << (num_samples - 1).bit_length()
    heard = _received(drawn.channel, drawn.key, sound, length=length)
    return np.asarray(heard)[:num_samples]


@functools.partial(jax.jit, static_argnames="length")
def _received(
    channel: Channel, key: jax.Array, sound: jax.Array, *, length: int
) -> jax.Array:
    return channel(key, sound, length)


def describe(arrival: Arrival) -> str:
    """Returns in words what recordings have in common."""
    where = arrival.placement
    words = "over and over" if where.repeats else "once, at the beginning"
    if arrival.is_random:
        words += ", begun at a random moment before a recording"
    elif where.shift_s:
        late = "later" if where.shift_s > 0 else "earlier"
        words += f", {abs(where.shift_s):g} s {late}"
    names = [part.name for part in arrival.parts]
    if "rooms" in names:
        count = len(arrival.rooms)
        words += f", in a room of {count}" if count > 1 else ", in a room"
    others = [_describe(part) for part in arrival.parts if part.name != "rooms"]
    return ", ".join([words, *others])


def _describe(part: Part) -> str:
    if part.name == "band":
        return "band {:g} to {:g} Hz".format(*part.numbers)
    if part.name == "gain":
        return f"gain {' to '.join(f'{g:.3g}' for g in part.numbers)} dB"
    return f"noise of {part.numbers[0]:g} dB beside it"


def _responses(
    source: str, sample_rate_hz: int, cache_dir: Path, console: Console
) -> tuple[dict[str, np.ndarray], int]:
    with user_mistakes(ImportError, ValueError):
        if source != SIMULATED:
            return named_responses(expanded(source), sample_rate_hz=sample_rate_hz)
        bank = simulated_rooms(
            cache_dir, sample_rate_hz=sample_rate_hz, progress=console.progress
        )
    return unseen_rooms(bank), bank.direct


def _seconds(moment: str) -> float:
    try:
        seconds = float(moment)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UsageError(f"--moment: expected seconds or random, got {moment!r}")
    return seconds
