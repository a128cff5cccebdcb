"""Impulse responses of rooms: simulated shoeboxes, or measured ones in a folder."""

from collections.abc import Sequence
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
# The ranges of rooms in metres and of what RT60 they are built for; Sabine's formula,
# by which they are, is up to a third short of what the image sources do.
_SMALLEST_M, _LARGEST_M, _RT60_S = (3.0, 3.0, 2.5), (7.0, 6.0, 3.5), (0.2, 0.6)
_FROM_WALLS_M = 0.5
_SIMULATED_HZ = 16_000
_SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp3")
# Raised when the same settings give another bank.
_VERSION = 1


class Rooms(NamedTuple):
    """A bank, split by room: for steps, for counting success in a pass, for tests.

    `[R, K]` float32 each, of energy 1, so that the level of white sound at the
    microphone is the sound's own; the direct sound is at sample `direct`.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    direct: int


def simulated_rooms(
    cache_dir: Path, *, sample_rate_hz: int, progress: ProgressFn | None = None
) -> Rooms:
    """Returns the built-in bank: 200 shoeboxes to train with (40 count), 50 to test.

    Seeded; sizes, RT60, source and microphone are drawn. A few minutes, once.

    Raises:
        ImportError: pyroomacoustics is not installed.
    """
    folder = cache_dir / "rooms"
    path = folder / f"simulated-{_VERSION}.npz"
    if not path.exists():
        with files.locked(folder, wait=True):
            if not path.exists():
                files.write_arrays(path, responses=_simulate(progress))
    with np.load(path) as stored:
        responses = stored["responses"]
    parts = np.split(responses, [NUM_TRAIN * 4 // 5, NUM_TRAIN])
    return _bank([list(part) for part in parts], _SIMULATED_HZ, sample_rate_hz)


def measured_rooms(folder: Path, *, sample_rate_hz: int) -> Rooms:
    """Returns the responses of a folder; a subfolder is a room, else a file is.

    About two thirds of the rooms are for steps, a sixth each to count and to test.

    Raises:
        ValueError: There are fewer than three rooms, or a file cannot be read.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    room_of = [p.relative_to(folder).parts[0] for p in paths]
    rooms = sorted(set(room_of))
    if len(rooms) < 3:
        raise ValueError(
            f"rooms: expected recordings of at least 3 rooms in {folder}, a subfolder "
            f"or a file each, got {len(rooms)}"
        )
    order = np.random.default_rng(0).permutation(len(rooms))
    num_held = max(1, len(rooms) // 6)
    split_of = {rooms[i]: 0 for i in order}
    split_of |= {rooms[i]: 1 for i in order[:num_held]}
    split_of |= {rooms[i]: 2 for i in order[num_held : 2 * num_held]}
    parts: list[list[np.ndarray]] = [[], [], []]
    for path, room in zip(paths, room_of, strict=True):
        try:
            response = read_audio(path, sample_rate_hz=sample_rate_hz)
        except AudioFileError as error:
            raise ValueError(f"rooms: {error}") from None
        parts[split_of[room]].append(response)
    return _bank(parts, sample_rate_hz, sample_rate_hz)


def aligned(response: np.ndarray, *, sample_rate_hz: int) -> np.ndarray:
    """Returns a response of fixed length and energy 1, its direct sound 2 ms in.

    The direct sound is the largest sample within 1 ms of the first one that has half
    of the largest amplitude.

    Raises:
        ValueError: It is silent.
    """
    size = np.abs(response)
    if not np.any(size):
        raise ValueError("rooms: expected a response with sound, got silence")
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


def _simulate(progress: ProgressFn | None) -> np.ndarray:
    try:
        import pyroomacoustics as pra  # pyrefly: ignore[missing-import]
    except ImportError:
        raise ImportError(
            "--rooms: simulated rooms need pyroomacoustics: pip install "
            "'uap_jax[rooms]'; or give a folder of measured responses"
        ) from None
    rng = np.random.default_rng(0)
    responses = []
    for done in range(NUM_TRAIN + NUM_TEST):
        size = rng.uniform(_SMALLEST_M, _LARGEST_M)
        absorption, order = pra.inverse_sabine(rng.uniform(*_RT60_S), size)
        source, microphone = rng.uniform(_FROM_WALLS_M, size - _FROM_WALLS_M, (2, 3))
        responses.append(
            aligned(
                shoebox(size, absorption, source, microphone, max_order=order),
                sample_rate_hz=_SIMULATED_HZ,
            )
        )
        if progress is not None:
            progress("simulating rooms", done + 1, NUM_TRAIN + NUM_TEST)
    return np.stack(responses)


def shoebox(
    size_m: np.ndarray,
    absorption: float,
    source_m: np.ndarray,
    microphone_m: np.ndarray,
    *,
    max_order: int,
) -> np.ndarray:
    """Returns the response of a room at 16 kHz by image sources.

    Of walls without reflection it is the direct sound alone, of amplitude 1 / r.
    """
    import pyroomacoustics as pra  # pyrefly: ignore[missing-import]

    room = pra.ShoeBox(
        size_m,
        fs=_SIMULATED_HZ,
        materials=pra.Material(absorption),
        max_order=max_order,
    )
    room.add_source(source_m)
    room.add_microphone(microphone_m[:, None])
    room.compute_rir()
    return np.asarray(room.rir[0][0])


def _bank(parts: Sequence[Sequence[np.ndarray]], from_hz: int, to_hz: int) -> Rooms:
    def brought(response: np.ndarray) -> np.ndarray:
        if from_hz != to_hz:
            response = soxr.resample(response, from_hz, to_hz, quality="HQ")
        return aligned(response, sample_rate_hz=to_hz)

    train, validation, test = (
        np.stack([brought(response) for response in part]) for part in parts
    )
    return Rooms(train, validation, test, round(_BEFORE_S * to_hz))
