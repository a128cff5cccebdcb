"""Room responses: closed forms of the simulator, alignment, folders."""

import numpy as np
import pytest

from uap_jax.audio.files import write_wav
from uap_jax.data import rooms

RATE_HZ = 16_000


def decay(rt60_s, *, seconds=1.0, delay=100, seed=0):
    """A direct sound and noise that decays by 60 dB in a time."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    noise = 0.1 * np.random.default_rng(seed).standard_normal(len(t))
    noise *= 10 ** (-3 * t / rt60_s)
    noise[0] = 1.0
    return np.pad(noise, (delay, 0)).astype(np.float32)


@pytest.mark.parametrize("expected", [0.2, 0.5, 0.8])
def test_the_reverberation_time_of_a_decay(expected):
    measured = rooms.rt60_s(decay(expected)[100:], sample_rate_hz=RATE_HZ)
    assert measured == pytest.approx(expected, rel=0.1)


def test_a_response_is_aligned_at_its_direct_sound():
    for delay in (0, 7, 900):
        response = decay(0.4, delay=delay)
        kept = rooms.aligned(3 * response, sample_rate_hz=RATE_HZ)
        assert kept.shape == (8000,) and np.argmax(np.abs(kept)) == 32
        assert np.linalg.norm(kept) == pytest.approx(1, abs=1e-5)
        again = rooms.aligned(kept, sample_rate_hz=RATE_HZ)
        np.testing.assert_allclose(again, kept, atol=1e-6)
    with pytest.raises(ValueError, match="got silence"):
        rooms.aligned(np.zeros(10), sample_rate_hz=RATE_HZ)


def test_a_folder_is_split_by_room(tmp_path):
    for room in range(8):
        for which in range(2):
            path = tmp_path / f"room{room}" / f"{which}.wav"
            path.parent.mkdir(exist_ok=True)
            # The delay of the second tap tells the room.
            response = np.zeros(4000, np.float32)
            response[[50, 350 + 100 * room]] = 0.9, 0.3
            write_wav(path, response, sample_rate_hz=RATE_HZ)
    bank = rooms.measured_rooms(tmp_path, sample_rate_hz=RATE_HZ)
    parts = (bank.train, bank.validation, bank.test)
    assert [len(part) for part in parts] == [12, 2, 2] and bank.direct == 32
    echoes = [set(np.argmax(part[:, 100:], axis=1)) for part in parts]
    assert len(set.union(*echoes)) == sum(map(len, echoes)) == 8
    with pytest.raises(ValueError, match="at least 3 rooms"):
        rooms.measured_rooms(tmp_path / "room0", sample_rate_hz=RATE_HZ)


def taps(response, distances, amplitudes):
    """Asserts that a response has these images and nothing else, by its spectrum."""
    # Of 1 to 6 kHz, without the edges of the fractional delays and of the high pass.
    hz = np.fft.rfftfreq(8192, 1 / RATE_HZ)
    middle = (hz > 1000) & (hz < 6000)
    seconds = np.asarray(distances) / 343 + 40 / RATE_HZ
    waves = np.exp(-2j * np.pi * hz[middle, None] * seconds)
    expected = waves @ (np.asarray(amplitudes) / distances)
    heard = np.fft.rfft(response, 8192)[middle]
    np.testing.assert_allclose(heard, expected, atol=0.02 * np.abs(expected).max())


def test_the_simulator_against_closed_forms_of_image_sources():
    pytest.importorskip("pyroomacoustics")
    size, source = np.array([5.0, 4.0, 3.0]), np.array([1.0, 1.2, 1.4])
    microphone = np.array([3.0, 2.2, 1.1])
    direct = np.linalg.norm(source - microphone)
    # Walls without reflection leave 1 / r at r / c.
    open_air = rooms.shoebox(size, 1.0, source, microphone, max_order=3)
    taps(open_air, [direct], [1.0])
    # One wall that reflects adds the source's mirror image, sqrt(1 - a) / r.
    walls = dict.fromkeys(("west", "east", "south", "north", "floor", "ceiling"), 1.0)
    mirror_at = {"west": (0, 0.0), "east": (0, 5.0), "ceiling": (2, 3.0)}
    for wall, (axis, position) in mirror_at.items():
        one = rooms.shoebox(size, walls | {wall: 0.36}, source, microphone, max_order=3)
        image = source.copy()
        image[axis] = 2 * position - source[axis]
        distances = [direct, np.linalg.norm(image - microphone)]
        taps(one, distances, [1.0, 0.8])


def test_the_built_in_bank(tmp_path, monkeypatch):
    pytest.importorskip("pyroomacoustics")
    monkeypatch.setattr(rooms, "NUM_TRAIN", 10)
    monkeypatch.setattr(rooms, "NUM_TEST", 3)
    monkeypatch.setattr(rooms, "_RT60_S", (0.2, 0.35))
    uncut = []
    aligned = rooms.aligned

    def keep(response, *, sample_rate_hz):
        uncut.append(response)
        return aligned(response, sample_rate_hz=sample_rate_hz)

    monkeypatch.setattr(rooms, "aligned", keep)
    bank = rooms.simulated_rooms(tmp_path, sample_rate_hz=RATE_HZ)
    parts = (bank.train, bank.validation, bank.test)
    assert [len(part) for part in parts] == [8, 2, 3] and bank.direct == 32
    # Schroeder's RT60 of what was simulated is what was drawn.
    drawn = bank.drawn_rt60_s
    measured = [rooms.rt60_s(r, sample_rate_hz=RATE_HZ) for r in uncut[:13]]
    np.testing.assert_allclose(measured, drawn, rtol=0.1)
    np.testing.assert_array_equal(measured, bank.rt60_s)
    assert 0.2 <= drawn.min() < 0.25 and 0.3 < drawn.max() <= 0.35
    # No room is in two parts.
    assert len(np.unique(np.concatenate(parts), axis=0)) == len(set(drawn)) == 13
    again = rooms.simulated_rooms(tmp_path, sample_rate_hz=8000)
    assert again.train.shape == (8, 4000) and again.direct == 16
    np.testing.assert_array_equal(again.rt60_s, bank.rt60_s)
