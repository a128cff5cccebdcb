"""The channels of a run: what `--channel` says, and those of the table of results."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uap_jax.attacks import Perturbation
from uap_jax.audio import channels
from uap_jax.audio.channels import BANDS, Channel
from uap_jax.audio.files import crop_or_pad
from uap_jax.console import Console
from uap_jax.data.rooms import SIMULATED, Rooms, measured_rooms, simulated_rooms
from uap_jax.errors import UsageError, user_mistakes
from uap_jax.files import expanded
from uap_jax.runs.config import RunConfig

PLACES: dict[str, Callable[[], Channel]] = {
    "moment": channels.moment,
    "once": channels.once,
}
_EXPECTED = (
    "expected a list of moment or once, band=telephone, band=wideband, "
    "band=LOW_HZ:HIGH_HZ, gain=LOW_DB:HIGH_DB, ambient=LEVEL_DB, rooms"
)


class Part(NamedTuple):
    """One channel of a list: its name and numbers."""

    name: str
    numbers: tuple[float, ...] = ()


def parse_channel(text: str) -> tuple[Part, ...]:
    """Parses the value of `--channel`, such as "moment,band=telephone,gain=-6:0".

    Where nothing places the sound, it is `once`.

    Raises:
        UsageError: The text is something else.
    """
    parts = []
    for word in text.split(","):
        name, equals, value = word.strip().partition("=")
        numbers: tuple[float, ...] | None = None
        if not equals and name in (*PLACES, "rooms"):
            numbers = ()
        elif name == "band":
            numbers = BANDS.get(value) or _numbers(value, 2)
        elif name == "gain":
            numbers = _numbers(value, 2) or _numbers(value, 1)
        elif name == "ambient":
            numbers = _numbers(value, 1)
        if numbers is None:
            raise UsageError(f"--channel: {_EXPECTED}, got {word.strip()!r}")
        parts.append(Part(name, numbers))
    parts.sort(key=lambda part: part.name not in PLACES)
    if sum(part.name in PLACES for part in parts) > 1:
        raise UsageError(f"--channel: expected one of moment, once, got {text!r}")
    return tuple(parts)


def check(config: RunConfig) -> None:
    """Raises UsageError if the channel of a config with all its sizes cannot be."""
    if config.channel is None:
        if config.sound_seconds is not None:
            raise UsageError(
                "--sound_seconds: expected --channel=moment or another one beside it, "
                "which says where a sound lies in a clip"
            )
        return
    parts = parse_channel(config.channel)
    if config.sound_seconds is not None and not (
        math.isfinite(config.sound_seconds) and num_sound_samples(config) >= 1
    ):
        raise UsageError(
            f"--sound_seconds: expected a positive number, got {config.sound_seconds}"
        )
    for part in parts:
        if part.name != "rooms":
            channel_of_part(part, sample_rate_hz=config.sample_rate_hz)


def num_sound_samples(config: RunConfig) -> int:
    """Returns the samples of a run's sound, P."""
    if config.sound_seconds is None:
        return config.num_samples
    return round(config.sound_seconds * config.sample_rate_hz)


def rooms_of(config: RunConfig, *, cache_dir: Path, console: Console) -> Rooms | None:
    """Returns the room responses of a run, or None if nothing asks for any.

    Raises:
        UsageError: There are none in a folder, or what simulates them is missing.
    """
    source = config.rooms
    if source is None and config.channel is not None:
        has_rooms = any(p.name == "rooms" for p in parse_channel(config.channel))
        source = SIMULATED if has_rooms else None
    if source is None:
        return None
    rate_hz = config.sample_rate_hz
    with user_mistakes(ImportError, ValueError):
        if source == SIMULATED:
            bank = simulated_rooms(
                cache_dir, sample_rate_hz=rate_hz, progress=console.progress
            )
            times = bank.rt60_s
            console.say(
                f"{len(times)} simulated rooms, RT60 {np.min(times):.2f} to "
                f"{np.max(times):.2f} s, {np.median(times):.2f} s in the median"
            )
            return bank
        return measured_rooms(expanded(source), sample_rate_hz=rate_hz)


def sound_of(config: RunConfig, bank: Rooms | None) -> dict[str, Any]:
    """Returns the arguments of `attacks.begin` for a run's channel and sound.

    Success in a pass is counted in rooms that the steps do not use.
    """
    if config.channel is None:
        return {}
    given: dict[str, Any] = {"num_sound_samples": num_sound_samples(config)}
    if bank is None:
        return given | {"channel": channel_of(config)}
    return given | {
        "channel": channel_of(config, bank.train, bank.direct),
        "counting_channel": channel_of(config, bank.validation, bank.direct),
    }


def channel_of(
    config: RunConfig, responses: np.ndarray | None = None, direct: int = 0
) -> Channel:
    """Returns what a run's sound passes, with the responses `[R, K]` of rooms."""
    parts = parse_channel(config.channel or "once")
    made = [
        channels.rooms(responses, direct=direct)
        if part.name == "rooms" and responses is not None
        else channel_of_part(part, sample_rate_hz=config.sample_rate_hz)
        for part in parts
    ]
    return channels.compose(*made)


def repeats(config: RunConfig) -> bool:
    """Returns whether a sound shorter than a clip is repeated in it."""
    if config.channel is None:
        return True
    return any(part.name == "moment" for part in parse_channel(config.channel))


def placed(sound: Any, config: RunConfig) -> Any:
    """Returns a sound or v `[P]` as it lies in a clip that it begins with, `[N]`."""
    num_samples = config.num_samples
    if len(sound) == num_samples:
        return sound
    if repeats(config):
        return np.resize(np.asarray(sound), num_samples)
    return crop_or_pad(np.asarray(sound), num_samples)


def placed_perturbation(perturbation: Perturbation, config: RunConfig) -> Perturbation:
    """Returns a perturbation of the length of a clip, see `placed`."""
    return dataclasses.replace(perturbation, value=placed(perturbation.value, config))


def channel_of_part(part: Part, *, sample_rate_hz: int) -> Channel:
    """Returns the channel that a part names, for sounds of a rate; not of rooms.

    Raises:
        UsageError: A band is empty at this rate.
    """
    if part.name in PLACES:
        return PLACES[part.name]()
    if part.name == "gain":
        return channels.gain(*part.numbers)
    if part.name == "ambient":
        return channels.ambient(*part.numbers)
    try:
        return channels.band(*part.numbers, sample_rate_hz=sample_rate_hz)
    except ValueError as error:
        raise UsageError(f"--channel: band: {error}") from None


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    """Returns so many numbers of "a:b", in ascending order; None for other texts."""
    try:
        numbers = tuple(float(word) for word in text.split(":"))
    except ValueError:
        return None
    is_good = len(numbers) == count and all(map(math.isfinite, numbers))
    return tuple(sorted(numbers)) if is_good else None
