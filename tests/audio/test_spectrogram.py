"""The mel spectrogram against closed forms."""

import numpy as np
import pytest

from uap_jax.audio.spectrogram import mel_spectrogram_db

RATE_HZ = 16000


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_mel_spectrogram_of_a_sine(rate_hz):
    waveform = np.sin(2 * np.pi * 1000 * np.arange(rate_hz) / rate_hz)
    levels = mel_spectrogram_db(waveform, sample_rate_hz=rate_hz)
    assert levels.shape == (64, 1 + rate_hz // round(0.008 * rate_hz))
    assert levels.dtype == np.float32
    middle = levels[:, 10:-10]
    bands = np.argmax(middle, axis=0)
    assert np.ptp(bands) == 0
    # Slaney's scale is linear up to 1000 Hz = 15 mel, and logarithmic above.
    top = 15 + 27 * np.log(rate_hz / 2000) / np.log(6.4)
    assert abs((bands[0] + 1) * top / 65 - 15) <= top / 65
    total_db = 10 * np.log10(np.sum(10 ** (middle / 10), axis=0))
    np.testing.assert_allclose(total_db, 0, atol=0.05)
    assert middle[-1].max() < -60


def test_mel_spectrogram_scales_in_db_down_to_its_floor():
    noise = np.random.default_rng(0).standard_normal(RATE_HZ) * 0.1
    loud = mel_spectrogram_db(noise, sample_rate_hz=RATE_HZ)
    quiet = mel_spectrogram_db(noise / 10, sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(loud - quiet, 20, atol=1e-3)
    silent = mel_spectrogram_db(
        np.zeros(100), sample_rate_hz=RATE_HZ, num_mels=32, floor_db=-80
    )
    assert silent.shape == (32, 1)
    assert np.all(silent == -80)
    with pytest.raises(ValueError, match=r"waveform: expected \[N\]"):
        mel_spectrogram_db(np.zeros((2, 9)), sample_rate_hz=RATE_HZ)
    with pytest.raises(ValueError, match="num_mels: expected a positive"):
        mel_spectrogram_db(np.zeros(9), sample_rate_hz=RATE_HZ, num_mels=0)
