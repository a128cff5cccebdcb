"""Impulse responses of rooms: simulated shoeboxes, or measured ones in a folder."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from uap_jax import files
from uap_jax.audio.files import AudioFileError, read_audio
from uap_jax.data.dataset import ProgressFn

SIMULATED = "simulated"
NUM_TRAIN, NUM_TEST = 200, 50
# Of a response: what is kept before its direct sound, and of all of it.
_BEFORE_S, _LENGTH_S = 0.002, 0.5
# The ranges that rooms are drawn from.
_SMALLEST_M, _LARGEST_M, _RT60_S = (3.0, 3.0, 2.5), (7.0, 6.0, 3.5), (0.2, 0.8)
_FROM_WALLS_M = 0.5
# Schroeder's RT60 of a room is within this share of the one that was drawn.
_TOLERANCE, _MAX_TRIALS = 0.05, 20
_SOUND_M_S = 343.0
_SIMULATED_HZ = 16_000
_SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp3")
# Raised when the same settings give another bank.
_VERSION = 2


class Rooms(NamedTuple):
    """A bank, split by room: for steps, for counting success in a pass, for tests.

    `[R, K]` float32 each, of energy 1, so that the level of white sound at the
    microphone is the sound's own; the direct sound is at sample `direct`. Of simulated
    rooms the RT60 that was drawn and Schroeder's, before the response was cut, `[R]`
    for `train`, `validation` and `test` in this order; empty for measured ones.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    direct: int
    drawn_rt60_s: np.ndarray = np.zeros(0)
    rt60_s: np.ndarray = np.zeros(0)


def simulated_rooms(
    cache_dir: Path, *, sample_rate_hz: int, progress: ProgressFn | None = None
) -> Rooms:
    """Returns the built-in bank: 200 shoeboxes to train with (40 count), 50 to test.

    Seeded; sizes, RT60, source and microphone are drawn, and the absorption is what
    gives this RT60 within 5 %. Takes one or two minutes, once.

    Raises:
        ImportError: pyroomacoustics is not installed.
    """
    folder = cache_dir / "rooms"
    path = folder / f"simulated-{_VERSION}.npz"
    if not path.exists():
        with files.locked(folder, wait=True):
            if not path.exists():
                files.write_arrays(path, **_simulate(progress))
    with np.load(path) as stored:
        parts = np.split(stored["responses"], [NUM_TRAIN * 4 // 5, NUM_TRAIN])
        bank = _bank([list(part) for part in parts], _SIMULATED_HZ, sample_rate_hz)
        return bank._replace(
            drawn_rt60_s=stored["drawn_rt60_s"], rt60_s=stored["rt60_s"]
        )


def measured_rooms(folder: Path, *, sample_rate_hz: int) -> Rooms:
    """Returns the responses of a folder; a subfolder is a room, else a file is.

    About two thirds of the rooms are for steps, a sixth each to count and to test.

    Raises:
        ValueError: There are fewer than three rooms, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(
            f"--rooms: expected simulated or a folder of room responses, got {folder}"
        )
    paths = _response_paths(folder)
    room_of = [p.relative_to(folder).parts[0] for p in paths]
    rooms = sorted(set(room_of))
    if len(rooms) < 3:
        raise ValueError(
            f"--rooms: expected the responses of at least 3 rooms in {folder}, a "
            f"subfolder or a file each, got {len(rooms)}"
        )
    order = np.random.default_rng(0).permutation(len(rooms))
    num_held = max(1, len(rooms) // 6)
    split_of = {rooms[i]: 0 for i in order}
    split_of |= {rooms[i]: 1 for i in order[:num_held]}
    split_of |= {rooms[i]: 2 for i in order[num_held : 2 * num_held]}
    parts: list[list[np.ndarray]] = [[], [], []]
    for path, room in zip(paths, room_of, strict=True):
        parts[split_of[room]].append(_read(path, sample_rate_hz))
    return _bank(parts, sample_rate_hz, sample_rate_hz)


def named_responses(
    source: Path, *, sample_rate_hz: int
) -> tuple[dict[str, np.ndarray], int]:
    """Returns a response, or all of a folder, by name, and where its direct sound is.

    Returns:
        `[K]` each, as those of `Rooms`; the sample of the direct sound of all.

    Raises:
        ValueError: There are none, or a file cannot be read.
    """
    paths = _response_paths(source) if source.is_dir() else [source]
    if not paths:
        raise ValueError(f"--rooms: expected room responses in {source}, got none")
    named = {}
    for path in paths:
        name = str(path.relative_to(source)) if source.is_dir() else path.name
        response = _read(path, sample_rate_hz)
        named[name] = aligned(response, sample_rate_hz=sample_rate_hz)
    return named, round(_BEFORE_S * sample_rate_hz)


def _response_paths(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)


def _read(path: Path, sample_rate_hz: int) -> np.ndarray:
    try:
        return read_audio(path, sample_rate_hz=sample_rate_hz)
    except AudioFileError as error:
        raise ValueError(f"--rooms: {error}") from None


def aligned(response: np.ndarray, *, sample_rate_hz: int) -> np.ndarray:
    """Returns a response of fixed length and energy 1, its direct sound 2 ms in.

    The direct sound is the largest sample within 1 ms of the first one that has half
    of the largest amplitude.

    Raises:
        ValueError: It is silent.
    """
    size = np.abs(response)
    if not np.any(size):
        raise ValueError("--rooms: expected a response with sound, got silence")
    first = int(np.argmax(size >= 0.5 * size.max()))
    direct = first + int(np.argmax(size[first : first + sample_rate_hz // 1000 + 1]))
    before, length = (
        round(_BEFORE_S * sample_rate_hz),
        round(_LENGTH_S * sample_rate_hz),
    )
    padded = np.pad(response.astype(np.float64), (before, length))
    kept = padded[direct : direct + length]
    return (kept / np.linalg.norm(kept)).astype(np.float32)


def rt60_s(response: np.ndarray, *, sample_rate_hz: int) -> float:
    """Returns Schroeder's reverberation time of a response.

    Of E(t), the energy that is still to come, the slope from -5 to -35 dB, extended to
    -60 dB.
    """
    left = np.cumsum(np.square(response.astype(np.float64))[::-1])[::-1]
    level_db = 10 * np.log10(np.maximum(left / left[0], 1e-30))
    fitted = np.flatnonzero((level_db <= -5) & (level_db >= -35))
    slope, _ = np.polyfit(fitted / sample_rate_hz, level_db[fitted], 1)
    return float(-60 / slope)


def shoebox(
    size_m: np.ndarray,
    absorption: float | Mapping[str, float],
    source_m: np.ndarray,
    microphone_m: np.ndarray,
    *,
    max_order: int,
) -> np.ndarray:
    """Returns the response of a room at 16 kHz by image sources.

    h(t) = sum over images i of (1 - a)^(k_i / 2) / r_i delta(t - r_i / c), after k_i
    reflections and r_i metres, with c = 343 m/s and 4 pi left out. The whole is 40
    samples late, and 20 Hz and less are left out.

    Args:
        size_m: `[3]`.
        absorption: Share of the energy, a, that a wall takes; or of each of the walls
            "west" (x = 0), "east", "south" (y = 0), "north", "floor", "ceiling".
        source_m: `[3]`.
        microphone_m: `[3]`.
        max_order: Most reflections.
    """
    import pyroomacoustics as pra  # pyrefly: ignore[missing-import]

    walls = (
        pra.make_materials(**absorption)
        if isinstance(absorption, Mapping)
        else pra.Material(absorption)
    )
    room = pra.ShoeBox(
        size_m,
        fs=_SIMULATED_HZ,
        materials=walls,
        max_order=max_order,
    )
    room.add_source(source_m)
    room.add_microphone(microphone_m[:, None])
    room.compute_rir()
    return np.asarray(room.rir[0][0])


def _simulate(progress: ProgressFn | None) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("pyroomacoustics") is None:
        raise ImportError(
            "--rooms: simulated rooms need pyroomacoustics: pip install "
            "'uap_jax[rooms]'; or give a folder of measured responses"
        )
    rng = np.random.default_rng(0)
    responses, drawn_s, measured_s = [], [], []
    for done in range(NUM_TRAIN + NUM_TEST):
        size = rng.uniform(_SMALLEST_M, _LARGEST_M)
        drawn_s.append(rng.uniform(*_RT60_S))
        source, microphone = rng.uniform(_FROM_WALLS_M, size - _FROM_WALLS_M, (2, 3))
        response, measured = _room_of(drawn_s[-1], size, source, microphone)
        measured_s.append(measured)
        responses.append(aligned(response, sample_rate_hz=_SIMULATED_HZ))
        if progress is not None:
            progress("simulating rooms", done + 1, NUM_TRAIN + NUM_TEST)
    return {
        "responses": np.stack(responses),
        "drawn_rt60_s": np.array(drawn_s),
        "rt60_s": np.array(measured_s),
    }


def _room_of(
    wanted_s: float, size: np.ndarray, source: np.ndarray, microphone: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns the response of a room with an RT60, and its RT60."""
    surface = 2 * np.sum(np.prod(size) / size)
    # Of Eyring's formula, T = 24 ln(10) V / (c S decay) with a = 1 - exp(-decay); the
    # true T is up to 40 % longer, and goes as 1 / decay too.
    decay = 24 * np.log(10) * np.prod(size) / (_SOUND_M_S * surface * wanted_s)
    # So that no image that arrives within 0.7 of the RT60, or -42 dB, is left out.
    order = math.ceil(0.7 * _SOUND_M_S * wanted_s * np.linalg.norm(1 / size))
    for _ in range(_MAX_TRIALS):
        absorption = 1 - np.exp(-decay)
        response = shoebox(size, absorption, source, microphone, max_order=order)
        measured_s = rt60_s(response, sample_rate_hz=_SIMULATED_HZ)
        if abs(measured_s / wanted_s - 1) <= _TOLERANCE:
            return response, measured_s
        decay *= measured_s / wanted_s
    raise RuntimeError(f"no absorption gives an RT60 of {wanted_s:.2f} s in {size} m")


def _bank(parts: Sequence[Sequence[np.ndarray]], from_hz: int, to_hz: int) -> Rooms:
    def brought(response: np.ndarray) -> np.ndarray:
        if from_hz != to_hz:
            response = soxr.resample(response, from_hz, to_hz, quality="HQ")
        return aligned(response, sample_rate_hz=to_hz)

    train, validation, test = (
        np.stack([brought(response) for response in part]) for part in parts
    )
    return Rooms(train, validation, test, round(_BEFORE_S * to_hz))
