"""Real encoders: what comes back is aligned, and how much of it is left."""

import numpy as np
import pytest

from uap_jax.evaluation.codecs import CODECS, through_codec

RATE_HZ, NUM_SAMPLES = 16_000, 8000
# Least SNR in dB of a chirp below 1.5 kHz, well under what was measured.
LEAST_SNR_DB = {"Opus": 3, "GSM": 3, "MP3": 6, "Vorbis": 6, "ADPCM": 10}


def chirps(num_clips=3):
    """Sweeps that no shift leaves as they are."""
    t = np.arange(NUM_SAMPLES) / RATE_HZ
    sweeps = [
        np.sin(2 * np.pi * (200 + 900 * t * (1 + i)) * t) for i in range(num_clips)
    ]
    return 0.4 * np.stack(sweeps).astype(np.float32)


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_returns_each_clip_without_delay(name):
    sent = chirps()
    coded = through_codec(sent, CODECS[name], sample_rate_hz=RATE_HZ)
    assert coded.waveforms.shape == sent.shape
    for clip, waveform in zip(sent, coded.waveforms, strict=True):
        match = np.correlate(waveform, clip[500:-500], "valid")
        assert abs(np.argmax(match) - 500) <= 2
    error = np.mean((coded.waveforms - sent) ** 2)
    snr_db = 10 * np.log10(np.mean(sent**2) / error)
    assert snr_db > LEAST_SNR_DB.get(name.split()[0], 20)


def test_delays_are_told_and_rates_measured():
    low = through_codec(chirps(), CODECS["MP3 16 kbit/s"], sample_rate_hz=RATE_HZ)
    # Decoders cannot drop it from files of this rate: 1105 samples.
    assert low.delay_s == pytest.approx(1105 / RATE_HZ, abs=2 / RATE_HZ)
    law = through_codec(chirps(), CODECS["mu-law 64 kbit/s"], sample_rate_hz=RATE_HZ)
    assert law.delay_s == 0 and law.kbit_s == pytest.approx(64, rel=0.02)


@pytest.mark.slow
def test_minutes_pass():
    minutes = np.tile(chirps(), (100, 2))
    for codec in CODECS.values():
        coded = through_codec(minutes, codec, sample_rate_hz=RATE_HZ)
        assert coded.waveforms.shape == minutes.shape


def test_silence_and_other_rates_pass():
    silence = np.zeros((2, 1000), np.float32)
    for codec in CODECS.values():
        coded = through_codec(silence, codec, sample_rate_hz=44_100)
        assert coded.waveforms.shape == (2, 1000)
        assert np.max(np.abs(coded.waveforms)) < 0.01
