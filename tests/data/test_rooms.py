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


def test_walls_without_reflection_leave_the_direct_sound():
    pytest.importorskip("pyroomacoustics")
    size, source = np.array([5.0, 4.0, 3.0]), np.array([1.0, 1.0, 1.0])
    for distance in (1.0, 2.0):
        microphone = source + np.array([distance, 0, 0])
        response = rooms.shoebox(size, 1.0, source, microphone, max_order=3)
        # One sample late by a fraction, and without the lowest frequencies.
        middle = np.abs(np.fft.rfft(response, 8192))[500:3000]
        np.testing.assert_allclose(middle, 1 / distance, rtol=0.02)


@pytest.mark.slow
def test_the_built_in_bank(tmp_path, monkeypatch):
    pytest.importorskip("pyroomacoustics")
    monkeypatch.setattr(rooms, "NUM_TRAIN", 10)
    monkeypatch.setattr(rooms, "NUM_TEST", 3)
    bank = rooms.simulated_rooms(tmp_path, sample_rate_hz=RATE_HZ)
    assert [len(part) for part in bank[:3]] == [8, 2, 3] and bank.direct == 32
    times = [rooms.rt60_s(r[32:], sample_rate_hz=RATE_HZ) for r in bank.train]
    assert min(times) > 0.1 and max(times) < 0.9 and np.ptp(times) > 0.1
    again = rooms.simulated_rooms(tmp_path, sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(bank.test, again.test)
    other = rooms.simulated_rooms(tmp_path, sample_rate_hz=8000)
    assert other.train.shape == (8, 4000) and other.direct == 16
